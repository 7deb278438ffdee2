"""Published dataset -> Parquet shards, a manifest, and a report of everything that was wrong with it.

Layout of the folder it leaves:

    manifest.json        what the dataset is (manifest.py); written last: a folder with one is whole
    shards/*.parquet     one row an image (schema.SHARD)
    packs/*.tar          the images, when asked to pack (pack.py)
    findings.parquet     what was repaired, flagged or named, image by image
    quarantine.parquet   images left out, with the reason
    digests.parquet      SHA-1, perceptual hash and size of every image, to compare datasets by
    source.json          what it was ingested from, and how

The reader spills parts of a few hundred images; Ray Data examines the parts, each into a shard of its own; then what
only the whole shows is found (duplicates, the same image in two splits), counted, and the manifest written. A part is
finished when its last file is there: killed at any point and started again, ingest goes on with what is missing and
ends with the same folder, whatever the parallelism.
"""

import errno
import hashlib
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from xray_det import storage
from xray_det.data import pack as packs
from xray_det.data import publish, shards
from xray_det.data.formats.layout import walk
from xray_det.data.manifest import Manifest
from xray_det.data.parts import Workshop, digests_of, examine_part, spill
from xray_det.data.schema import SCHEMA_VERSION
from xray_det.errors import InputError

if TYPE_CHECKING:
    from xray_det.data.formats.source import Source

#: Images a part: a few seconds of work for a task, and a shard worth opening.
PART_ROWS: Final = 512
#: Fewer jobs than this are done here and now, unless Ray is up: starting it takes longer.
_WORTH_RAY: Final = 4
_NOT_WRITTEN: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM})
_ANNOTATIONS: Final = {
    "coco": frozenset({".json"}),
    "open_images": frozenset({".csv", ".json"}),
    "voc": frozenset({".xml", ".txt"}),
}


def ingest(
    source: "Source",
    out: str,
    *,
    name: str | None = None,
    strict: bool = False,
    pack: bool = False,
    phash: bool = False,
    max_quarantined: float | None = None,
    rows: int = PART_ROWS,
    pack_bytes: int = packs.PACK_BYTES,
    progress: bool = True,
) -> Manifest:
    """Ingest a published dataset into a folder; a finished one is returned at once, an unfinished one is gone on with.

    Args:
        source: the published dataset (formats.open_source).
        out: the folder to make, a local path or URI.
        name: of the dataset; None: the source's.
        strict: any defect is an error, raised before the manifest is written.
        pack: copy the images into tars in the folder; without, they are read where they lie.
        phash: look for images that stand in two splits by perceptual hash too; decodes every image in full.
        max_quarantined: the share of annotated images that may be unusable; None: publish.TOLERATED_SHARE, and in any
            case publish.TOLERATED_IMAGES.
        rows: images a part, and so a shard.
        pack_bytes: a tar is closed when it has reached this.
        progress: draw bars.

    Returns:
        The manifest. Its fingerprint does not depend on rows, pack, phash, name, paths or parallelism.

    Raises:
        InputError: the folder holds another dataset; the source is empty or too damaged; strict; storage is full.
    """
    shop = Workshop(
        folder=out if "://" in out else storage.locate(out)[1],
        dataset=name or source.name,
        root=str(source.root),
        image_root=str(source.image_root),
        normalized=source.normalized,
        phash=phash,
        pack=pack,
    )
    with _storage_errors(shop.folder):
        options = {"pack": pack, "phash": phash, "rows": rows, "pack_bytes": pack_bytes if pack else None}
        _claim(source, shop, options)
        if storage.exists(storage.join(shop.folder, "manifest.json")):
            manifest = Manifest.load(shop.folder)
            _tidy(shop)
        else:
            manifest = _ingest(source, shop, strict, max_quarantined, rows, pack_bytes, progress)
        if strict:
            publish.refuse_defects(shop.folder, shop.root, manifest)
        return manifest


def _ingest(
    source: "Source",
    shop: Workshop,
    strict: bool,
    max_quarantined: float | None,
    rows: int,
    pack_bytes: int,
    progress: bool,
) -> Manifest:
    with _bars(progress) as bars:
        reading = bars.add_task(f"{shop.dataset}: reading annotations", total=None)
        counts = spill(source, shop, rows, partial(bars.advance, reading))
        bars.update(reading, total=sum(counts))
        if not counts:
            raise InputError(source.root, "the dataset holds no image", "Check the path and the format")
        examining = bars.add_task(f"{shop.dataset}: examining images", total=sum(counts))
        waiting = [part for part in range(len(counts)) if not shop.finished(part)]
        bars.advance(examining, sum(counts) - sum(counts[part] for part in waiting))
        for part in each(partial(_examine, shop), waiting):
            bars.advance(examining, counts[part])

        gathered = publish.gather(shop, len(counts))
        between = publish.findings_between_images(shop, gathered)
        publish.write_reports(shop, len(counts), between)
        publish.refuse_too_many(shop, gathered, max_quarantined)
        if shop.pack:
            _pack(shop, gathered.starts, pack_bytes, bars)
    manifest = publish.assemble(source, shop, gathered, between)
    if strict:
        publish.refuse_defects(shop.folder, shop.root, manifest)
    manifest = manifest.save(shop.folder)
    _tidy(shop)
    return manifest


def _tidy(shop: Workshop) -> None:
    """Drop the intermediate files: the manifest says that all is done."""
    fs, work = storage.locate(shop.work)
    if storage.exists(shop.work):
        fs.delete_dir(work)


def _examine(shop: Workshop, part: int) -> int:
    with _storage_errors(shop.folder):
        examine_part(shop, part)
    return part


def _pack(shop: Workshop, starts: np.ndarray, pack_bytes: int, bars: Progress) -> None:
    """Write the tars, in parallel, then the shards that know where in them each image lies."""
    every = [
        shards.read_table(shop.file("digests", part), ["image_id", "path", "bytes"]) for part in range(len(starts) - 1)
    ]
    layout = packs.lay_out(*_members(pa.concat_tables(every)), pack_bytes)
    packing = bars.add_task(f"{shop.dataset}: packing images", total=len(layout.length))
    jobs = [(pack, layout.rows(pack)) for pack in range(layout.packs)]
    missing = [job for job in jobs if not storage.exists(packs.pack_uri(shop.folder, job[0]))]
    bars.advance(packing, len(layout.length) - sum(rows.stop - rows.start for _, rows in missing))
    for images in each(partial(_write_pack, shop, starts), missing):
        bars.advance(packing, images)
    for part, (start, stop) in enumerate(pairwise(starts.tolist())):
        if storage.exists(shop.final_shard(part)):
            continue
        table = packs.place(shards.read_table(shop.examined_shard(part)), layout, slice(start, stop), shop.folder)
        shards.write_shard(table, shop.final_shard(part), packed=True)


def _write_pack(shop: Workshop, starts: np.ndarray, job: tuple[int, slice]) -> int:
    pack, rows = job
    digests = digests_of(shop, starts, np.arange(rows.start, rows.stop))
    names, sizes = _members(digests)
    paths = [storage.join(shop.image_root, path) for path in digests.column("path").to_pylist()]
    with _storage_errors(shop.folder):
        packs.write_pack(packs.pack_uri(shop.folder, pack), names, paths, sizes)
    return len(names)


def _members(digests: pa.Table) -> tuple[list[str], np.ndarray]:
    ids, paths = (digests.column(name).to_pylist() for name in ("image_id", "path"))
    return list(map(packs.member_name, ids, paths)), digests.column("bytes").to_numpy()


def each(task: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
    """Run a task for every job with Ray Data and yield results as they come, in any order.

    Args:
        task: a picklable function; it runs in processes that import what its module imports.
        jobs: picklable arguments, small.

    Raises:
        InputError: as raised by a task.
    """
    if len(jobs) < _WORTH_RAY and not _ray_is_up():
        yield from map(task, jobs)
        return
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")  # read when ray.data is imported; ours are drawn
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    import ray
    import ray.data

    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    # A block a job, up to a thousand: a bar that moves, and tasks that are retried alone when a node is lost.
    numbers = ray.data.range(len(jobs), override_num_blocks=min(len(jobs), 1000))
    for row in numbers.map(partial(_guarded, task, list(jobs))).iter_rows():
        result, error = pickle.loads(row["outcome"])
        if error is not None:
            raise error
        yield result


def _guarded(task: Callable[[Any], Any], jobs: Sequence[Any], row: Mapping[str, Any]) -> dict[str, bytes]:
    # An InputError travels as a value: raised in a task it would arrive wrapped, after retries, with Ray's traceback.
    try:
        outcome: tuple[Any, InputError | None] = task(jobs[int(row["id"])]), None
    except InputError as error:
        outcome = None, error
    return {"outcome": pickle.dumps(outcome)}


def _ray_is_up() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _claim(source: "Source", shop: Workshop, options: Mapping[str, Any]) -> None:
    """Write down what the folder is made from, or refuse when it is made from something else.

    Annotation files count by name, size and time of change, so that an edited dataset is not taken for the old one.
    """
    stamp = hashlib.sha256()
    for file in walk(Path(source.root), _ANNOTATIONS[source.format]):
        if not str(file).startswith(shop.folder + os.sep):
            status = file.stat()
            stamp.update(f"{file.relative_to(source.root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    claim = {
        "name": shop.dataset,
        "root": shop.root,
        "format": source.format,
        "classes": source.space.to_json()["classes"],
        "annotation files": stamp.hexdigest(),
        "schema_version": SCHEMA_VERSION,
        **options,
    }
    uri = storage.join(shop.folder, "source.json")
    if not storage.exists(uri):
        if storage.exists(storage.join(shop.folder, "manifest.json")):
            raise InputError(shop.folder, "holds a dataset of unknown source", "Choose another folder")
        storage.write_json(uri, claim)
        return
    before, claim = storage.read_json(uri), json.loads(json.dumps(claim))
    changed = [key for key in claim if before.get(key) != claim[key]]
    if changed:
        key = changed[0]
        said = f"{key} was {before.get(key)!r} and is {claim[key]!r}"
        if key in ("classes", "annotation files"):
            said = f"the {key} of {shop.root} have changed since"
        raise InputError(
            shop.folder, f"was made from another source or with other options: {said}", "Choose another folder"
        )


@contextmanager
def _storage_errors(folder: str) -> Iterator[None]:
    """A disk that is full or forbidden as an InputError, wherever it shows."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITTEN:
            raise
        raise InputError(
            folder, f"cannot be written ({error.strerror or error})", "Free space or choose another folder"
        ) from error


def _bars(shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        disable=not shown,
    )

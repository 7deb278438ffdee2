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

import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.progress import Progress

from xray_det import display, storage
from xray_det.data import publish
from xray_det.data.claim import claim, is_of
from xray_det.data.formats.layout import given_paths
from xray_det.data.manifest import Manifest
from xray_det.data.packing import PACK_BYTES, pack_dataset
from xray_det.data.parts import Workshop, examine_part, spill
from xray_det.data.shards import storage_errors
from xray_det.errors import InputError

if TYPE_CHECKING:
    from xray_det.data.formats.source import Source

#: Images a part: a few seconds of work for a task, and a shard worth opening.
PART_ROWS: Final = 512
#: Fewer jobs than this are done here and now, unless Ray is up: starting it takes longer.
_WORTH_RAY: Final = 4


@dataclass(frozen=True, kw_only=True)
class How:
    """The options of an ingest.

    Args:
        name: of the dataset; None: the source's.
        strict: any defect is an error, raised before the manifest is written.
        pack: copy the images into tars in the folder; without, they are read where they lie.
        phash: look for images that stand in two splits by perceptual hash too; decodes every image in full.
        max_quarantined: the share of annotated images that may be unusable; None: publish.TOLERATED_SHARE, and in any
            case publish.TOLERATED_IMAGES.
        rows: images a part, and so a shard.
        pack_bytes: a tar is closed when it has reached this.
    """

    name: str | None = None
    strict: bool = False
    pack: bool = False
    phash: bool = False
    max_quarantined: float | None = None
    rows: int = PART_ROWS
    pack_bytes: int = PACK_BYTES

    def __post_init__(self) -> None:
        if self.max_quarantined is not None and not 0 <= self.max_quarantined <= 1:
            raise InputError("max_quarantined", f"{self.max_quarantined} is no share", "Give 0 to 1")
        for name in ("rows", "pack_bytes"):
            if getattr(self, name) < 1:
                raise InputError(name, f"{getattr(self, name)} is not above 0", "Give 1 or more")

    @property
    def written(self) -> dict[str, Any]:
        """The options that change what is written; the others may change between two runs on a folder."""
        pack_bytes = self.pack_bytes if self.pack else None
        return {"pack": self.pack, "phash": self.phash, "rows": self.rows, "pack_bytes": pack_bytes}


def ingest_published(
    paths: Sequence[Path], out: str, how: How | None = None, *, format: str = "auto", progress: bool = True
) -> Manifest:
    """Ingest the dataset published at some paths; a finished one is returned without a look into its source.

    Args:
        paths: the dataset's folder, or the annotation files of it that are meant.
        out: the folder to make, a local path or URI.
        how: options.
        format: as for formats.open_source.
        progress: draw bars.

    Raises:
        InputError: as ``open_source`` and ``ingest``.
    """
    how, folder, paths = how or How(), _absolute(out), given_paths(paths)
    if storage.exists(storage.join(folder, "manifest.json")) and is_of(paths, folder, format, how.name, how.written):
        return _finished(folder, ", ".join(map(str, paths)), how)
    from xray_det.data.formats.source import open_source

    return _ingest(open_source(paths, format), paths, folder, how, progress)


def ingest(source: "Source", out: str, *, progress: bool = True, **how: Any) -> Manifest:
    """Ingest an opened source into a folder; a finished one is returned, an unfinished one is gone on with.

    Args:
        source: the published dataset (formats.open_source).
        out: the folder to make, a local path or URI.
        progress: draw bars.
        how: fields of ``How``.

    Returns:
        The manifest. Its fingerprint does not depend on rows, pack, phash, name, paths or parallelism.

    Raises:
        InputError: the folder holds another dataset; the source is empty or too damaged; strict; storage is full.
    """
    return _ingest(source, [source.root], _absolute(out), How(**how), progress)


def _ingest(source: "Source", paths: Sequence[Path], folder: str, how: How, progress: bool) -> Manifest:
    shop = Workshop(
        folder=folder,
        dataset=how.name or source.name,
        root=str(source.root),
        image_root=str(source.image_root),
        normalized=source.normalized,
        phash=how.phash,
        pack=how.pack,
    )
    with storage_errors(folder):
        _make(folder)
        claim(source, paths, folder, how.name, how.written)
        if storage.exists(storage.join(folder, "manifest.json")):
            return _finished(folder, shop.root, how)
        with display.bars(disable=not progress) as bars:
            gathered, between = _work(source, shop, how, bars)
        manifest = publish.assemble(source, shop, gathered, between)
        manifest.save(folder)
        return _finished(folder, shop.root, how)


def _finished(folder: str, root: str, how: How) -> Manifest:
    manifest = Manifest.load(folder)
    fs, work = storage.locate(storage.join(folder, "work"))
    if storage.exists(storage.join(folder, "work")):  # intermediate files: the manifest says that all is done
        fs.delete_dir(work)
    if how.strict:
        publish.refuse_defects(folder, root, {**manifest.repaired, **manifest.quarantined})
    return manifest


def _work(source: "Source", shop: Workshop, how: How, bars: Progress) -> tuple[publish.Gathered, publish.Between]:
    """Read, examine, compare, refuse, pack: all but the manifest."""
    reading = bars.add_task(f"{shop.dataset}: reading annotations", total=None)
    counts = spill(source, shop, how.rows, partial(bars.advance, reading))
    bars.update(reading, total=sum(counts))
    if not counts:
        raise InputError(source.root, "the dataset holds no image", "Check the path and the format")
    examining = bars.add_task(f"{shop.dataset}: examining images", total=sum(counts))
    waiting = [part for part in range(len(counts)) if not shop.finished(part)]
    bars.advance(examining, sum(counts) - sum(counts[part] for part in waiting))
    for part in each(partial(_examine, shop), waiting):
        bars.advance(examining, counts[part])
    gathered = publish.gather(shop, len(counts))
    between = publish.compare_images(shop, gathered, source.findings)
    publish.write_reports(shop, len(counts), between)
    try:
        publish.refuse_too_many(shop, gathered, how.max_quarantined)
        if how.strict:
            found = gathered.repaired + between.counts + gathered.quarantined
            publish.refuse_defects(shop.folder, shop.root, found)
    except InputError:
        publish.reopen_defective(shop, gathered, between)
        raise
    if shop.pack:
        packing = bars.add_task(f"{shop.dataset}: packing images", total=gathered.images)
        for images in pack_dataset(shop, gathered.starts, how.pack_bytes, each):
            bars.advance(packing, images)
    return gathered, between


def _make(folder: str) -> None:
    fs, path = storage.locate(folder)
    try:
        fs.create_dir(path, recursive=True)
    except OSError as error:
        raise InputError(folder, f"this folder cannot be made ({error})", "Choose another folder") from error


def _absolute(folder: str) -> str:
    return folder if "://" in folder else storage.locate(folder)[1]


def _examine(shop: Workshop, part: int) -> int:
    with storage_errors(shop.folder):
        examine_part(shop, part)
    return part


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
    from xray_det.data.cluster import connect

    connect()
    import ray.data

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

"""A part of an ingested dataset, of all its classes or of some, as a dataset of its own: new shards and a manifest, the
images where they lie.

Layout of the folder it leaves: subset.json (of what, and how chosen; written first), shards/, digests.parquet, and
manifest.json, written last. Whatever takes a dataset takes it, and its fingerprint says what it holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xray_det import storage
from xray_det.data import shards
from xray_det.data.annotations import box_labels, ragged
from xray_det.data.counting import Statistics, count_splits, counted
from xray_det.data.geometry import trained
from xray_det.data.ingest import PART_ROWS, each
from xray_det.data.manifest import TRAINING, Manifest, Shard
from xray_det.data.narrow import Rows, narrowed, renumbering
from xray_det.data.parts import shard_name
from xray_det.data.schema import SCHEMA_VERSION
from xray_det.data.stratify import BoxLabels, choose
from xray_det.errors import InputError
from xray_det.labels.frequency import rank_bands

FILE = "subset.json"


def subset(
    folder: str,
    out: str,
    count: int | None = None,
    *,
    ranks: tuple[int, int] | None = None,
    split: str | None = None,
    seed: int = 0,
    name: str | None = None,
) -> Manifest:
    """Write a dataset of ``count`` images of another one, in which every class keeps its share of the trained boxes.

    Args:
        folder: the ingested dataset.
        out: the folder to make, a local path or URI; made before with the same arguments, it is returned.
        count: None: all that there are to choose among.
        ranks: first and last of the classes that stay, by boxes of the training images (``train`` or ``trainval``, else
            all), rank 1 has most; only images with a trained box of one of them are chosen among. None: all classes.
        split: choose among the images of this split; None: among all.
        seed: of the choice (stratify.choose).
        name: of the new dataset; None: that of the folder.

    Raises:
        InputError: as Manifest.load, stratify.choose, frequency.rank_bands and narrow.renumbering; no such split;
            ``out`` holds something else.
    """
    manifest, out = Manifest.load(folder), out if "://" in out else storage.locate(out)[1]
    manifest.check_split(split)
    name = name or out.rstrip("/").rsplit("/", 1)[-1]
    told: dict[str, Any] = {"of": manifest.fingerprint, "images": count, "split": split, "seed": seed, "name": name}
    told |= {} if ranks is None else {"ranks": list(ranks)}
    if storage.exists(storage.join(out, FILE)):
        if storage.read_json(storage.join(out, FILE)) != told:
            raise InputError(out, "holds another subset", "Choose another folder, or remove it")
        if storage.exists(storage.join(out, "manifest.json")):
            return Manifest.load(out)
    elif storage.exists(storage.join(out, "manifest.json")):
        raise InputError(out, "holds a dataset that is no subset", "Choose another folder")
    classes, table = _staying(manifest, ranks)
    starts = np.cumsum([0, *(shard.rows for shard in manifest.shards)])
    uris = enumerate(manifest.shard_uris)
    jobs = [{"number": number, "uri": uri, "split": split, "table": table} for number, uri in uris]
    read = sorted(each(_read, jobs), key=lambda part: part["number"])
    rows = np.concatenate([part["rows"] + starts[part["number"]] for part in read])
    labels = np.concatenate([part["labels"] for part in read])
    lengths = np.concatenate([part["lengths"] for part in read])
    if not len(rows):
        problem = f"split {split!r}: there is no image to choose"
        raise InputError(folder, problem, "Choose another split, or ranks of classes that it holds")
    boxes = BoxLabels(labels=labels, offsets=np.concatenate([[0], np.cumsum(lengths)]))
    rows = rows if count is None else rows[choose(boxes, count, seed=seed)]
    with shards.storage_errors(out):
        storage.write_json(storage.join(out, FILE), told)
        return _write(manifest, rows, starts, name, out, classes, table)


def _staying(manifest: Manifest, ranks: tuple[int, int] | None) -> tuple[list[int], Rows | None]:
    """Rows of the classes that stay, rising, and where they go; None where all stay."""
    if ranks is None:
        return list(range(len(manifest.space))), None
    (found,) = rank_bands(manifest.instances_of(manifest.first_split(*TRAINING)), [ranks])
    classes = sorted(found.tolist())
    return classes, renumbering(manifest, classes)


def shares(before: np.ndarray, after: np.ndarray) -> dict[str, np.ndarray]:
    """Each class's share of the boxes before and after: float64 [C]; ``change`` is after / before, nan where none.

    Args:
        before, after: int [C], boxes of each class.
    """
    with np.errstate(invalid="ignore"):
        old, new = (counts / counts.sum() for counts in (before, after))
        return {"before": old, "after": new, "change": new / old}


def _read(job: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of a shard that lie in the split, and the labels of their trained boxes."""
    table = shards.read_table(job["uri"], ["split", "flags", "labels"]).combine_chunks()
    split = table.column("split")
    kept = np.ones(len(table), bool)
    if job["split"] is not None:
        mask = pc.equal(split, job["split"]) if job["split"] else pc.is_null(split)
        kept = mask.combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)
    table = table.filter(pa.array(kept)).combine_chunks()
    flags, offsets = ragged(table.column("flags").combine_chunks())
    labels, box = box_labels(table.column("labels").combine_chunks())
    taught = trained(flags)[box]
    if job["table"] is not None:
        labels = job["table"][labels]
        taught &= labels >= 0
    image = np.repeat(np.arange(len(table)), np.diff(offsets))[box]
    rows, lengths = np.flatnonzero(kept), np.bincount(image[taught], minlength=len(table))
    if job["table"] is not None:
        rows, lengths = rows[lengths > 0], lengths[lengths > 0]
    return {"number": job["number"], "rows": rows, "labels": labels[taught], "lengths": lengths}


def _write(
    manifest: Manifest,
    rows: np.ndarray,
    starts: np.ndarray,
    name: str,
    out: str,
    classes: Sequence[int],
    table: Rows | None,
) -> Manifest:
    digests = shards.read_table(storage.join(manifest.folder, "digests.parquet")).take(pa.array(rows))
    shards.write_table(digests, storage.join(out, "digests.parquet"))
    cuts = range(0, len(rows), PART_ROWS)
    jobs = [
        {
            "number": number,
            "rows": rows[cut : cut + PART_ROWS],
            "starts": starts,
            "uris": manifest.shard_uris,
            "name": name,
            "packed": manifest.packed,
            "table": table,
            "out": out,
        }
        for number, cut in enumerate(cuts)
    ]
    for _ in each(_write_part, jobs):
        pass
    content, kept, found = shards.ContentHash(), [], dict[str, Statistics]()
    space = manifest.space.subset(classes)
    for number, cut in enumerate(cuts):
        part = shards.read_table(storage.join(out, shard_name(number)))
        content.add(part, digests.column("sha1").cast(pa.binary()).slice(cut, len(part)))
        count_splits(part, len(space), found)
        kept.append(Shard(file=shard_name(number), rows=len(part)))
    fingerprint = content.hexdigest(
        classes=space.to_json()["classes"],
        hierarchy=None if manifest.hierarchy is None else manifest.hierarchy.to_json(),
        exhaustive=manifest.exhaustive,
        schema=SCHEMA_VERSION,
    )
    return replace(
        manifest,
        name=name,
        space=space,
        fingerprint=fingerprint,
        images=len(rows),
        **counted(found),
        repaired={},  # told of the whole dataset
        quarantined={},
        shards=tuple(kept),
    ).save(out)


def _write_part(job: Mapping[str, Any]) -> int:
    """One shard of the new dataset, from the shards that hold its rows."""
    shard = np.searchsorted(job["starts"], job["rows"], "right") - 1
    tables = [
        shards.read_table(job["uris"][one]).take(pa.array(job["rows"][shard == one] - job["starts"][one]))
        for one in np.unique(shard)
    ]
    table = pa.concat_tables(tables)
    if job["table"] is not None:
        table = narrowed(table, job["table"])
    at = table.column_names.index("dataset")
    table = table.set_column(at, table.schema.field(at), pa.array([job["name"]] * len(table)))
    shards.write_shard(table, storage.join(job["out"], shard_name(job["number"])), packed=job["packed"])
    return int(job["number"])

"""Published rows to shard rows: every defect found, counted and named; nothing altered that a person drew.

Sizes come from the image, turned upright once. A box keeps its published place (clipping happens when it is loaded)
and its order; a box that cannot teach is flagged. What a person must look at, an image that cannot be read or that
nobody annotated, is put aside with its reason. Box checks run over the whole batch at once.

Letters: B images, K of them kept, N boxes.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from xray_det.data.annotations import ragged
from xray_det.data.boxes import BoxFindings, examine_boxes, select_boxes
from xray_det.data.defect import QUARANTINED, Defect, parse_note
from xray_det.data.formats.layout import Links
from xray_det.data.formats.rows import ragged as to_lists
from xray_det.data.images import MAX_BYTES, BadImage, ImageFacts, boxes_upright, decode, verify
from xray_det.data.schema import SHARD, BoxFlag
from xray_det.errors import InputError
from xray_det.storage import read_file

__all__ = ["FINDINGS", "QUARANTINE", "Defect", "Examined", "examine"]

QUARANTINE = pa.schema([(name, pa.string()) for name in ("image_id", "path", "reason", "detail")])
FINDINGS = pa.schema([(name, pa.string()) for name in ("image_id", "defect", "detail")])


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What became of a batch.

    Attributes:
        shard: SHARD rows of the images kept, in published order.
        quarantine: QUARANTINE rows of the others.
        repaired: how often each kind of defect was met in what was kept: boxes for a kind of box, else images.
        findings: FINDINGS rows, one for each kind and image it was met in.
        digests: image id, SHA-1 of its file as hex, perceptual hash as hex or None; for each image kept.
    """

    shard: pa.Table
    quarantine: pa.Table
    repaired: Counter[str]
    findings: pa.Table
    digests: list[tuple[str, str, str | None]]


@dataclass(kw_only=True)
class _Looked:
    """One image file, read."""

    facts: ImageFacts | None = None
    reason: Defect | None = None
    detail: str = ""
    sha1: str = ""
    phash: str | None = None
    notes: list[tuple[Defect, str]] = field(default_factory=list)


def examine(
    batch: pa.RecordBatch, *, dataset: str, image_root: Path, normalized: bool, phash: bool = False
) -> Examined:
    """Examine PUBLISHED rows and their images.

    Args:
        batch: B rows of PUBLISHED.
        dataset: its name, for SHARD's column.
        image_root: what ``path`` is relative to.
        normalized: boxes are fractions of the (upright) image.
        phash: compute each image's perceptual hash too, which costs a full decode.

    Returns:
        Shard rows, quarantine, counts; see ``Examined``.
    """
    ids = batch.column("image_id").to_pylist()
    paths = batch.column("path").to_pylist()
    noted = batch.column("defects").to_pylist()
    links = Links(image_root)
    looked = [_look(image_root, path, notes, phash, links) for path, notes in zip(paths, noted, strict=True)]
    kept = np.array([look.facts is not None for look in looked], bool)
    sizes = np.array([(f.width, f.height) if (f := look.facts) else (1, 1) for look in looked], np.int64).reshape(-1, 2)

    boxes, offsets, area, visible = _frame(batch, looked, sizes, normalized)
    flags = batch.column("flags").flatten().to_numpy()
    unit_unknown = np.array([any(kind is Defect.FRACTIONS for kind, _ in look.notes) for look in looked], bool)
    flags = flags | np.where(np.repeat(unit_unknown, np.diff(offsets)), np.uint16(BoxFlag.NO_AREA), np.uint16(0))
    labels = batch.column("labels").flatten().to_numpy()
    found = examine_boxes(boxes, offsets, sizes, flags, labels, tolerance=1e-3)
    batch = _without_contradictions(batch, looked)

    findings = list[tuple[str, str, str]]()
    repaired: Counter[str] = Counter()
    for row in np.flatnonzero(kept):
        for kind, detail in looked[row].notes:
            repaired[str(kind)] += 1
            findings.append((ids[row], str(kind), detail))
    box_image = np.repeat(np.arange(len(ids)), np.diff(offsets))
    for kind, mask in found.masks.items():
        rows, counts = np.unique(box_image[mask & kept[box_image]], return_counts=True)
        repaired[str(kind)] += int(counts.sum())
        for row, count in zip(rows, counts, strict=True):
            example = boxes[np.flatnonzero(mask & (box_image == row))[0]]
            detail = f"{count} of {offsets[row + 1] - offsets[row]} boxes, the first {_text(example)}"
            findings.append((ids[row], str(kind), detail))
    order = {image_id: row for row, image_id in enumerate(ids)}
    findings.sort(key=lambda finding: order[finding[0]])
    put_aside = [(ids[row], paths[row], str(looked[row].reason), looked[row].detail) for row in np.flatnonzero(~kept)]
    return Examined(
        shard=_shard(batch, dataset, image_root, kept, sizes, offsets, boxes, area, visible, found),
        quarantine=_table(put_aside, QUARANTINE),
        repaired=+repaired,
        findings=_table(findings, FINDINGS),
        digests=[(ids[row], looked[row].sha1, looked[row].phash) for row in np.flatnonzero(kept)],
    )


def _look(image_root: Path, path: str | None, notes: list[str], phash: bool, links: Links) -> _Looked:
    """Read one image and what its header says against what was published."""
    look = _Looked()
    for kind, detail in map(parse_note, notes):
        if kind in QUARANTINED:
            look.reason, look.detail = kind, detail
        else:
            look.notes.append((kind, detail))
    if look.reason is None and path is None:
        look.reason, look.detail = Defect.MISSING_IMAGE, "no file was found"
    if look.reason is not None or path is None:
        return look
    try:
        data = read_file(image_root / path, MAX_BYTES)
        facts = verify(data)
    except BadImage as error:
        look.reason, look.detail = error.reason, error.detail
        return look
    except InputError as error:
        missing = isinstance(error.__cause__, FileNotFoundError | NotADirectoryError)
        look.reason = Defect.MISSING_IMAGE if missing else Defect.UNREADABLE_IMAGE
        look.detail = error.problem
        return look
    look.facts = facts
    look.sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    if (outside := links.outside(image_root / path)) is not None:
        look.notes = [note for note in look.notes if note[0] != Defect.OUTSIDE_LINK]  # once an image
        look.notes.append((Defect.OUTSIDE_LINK, f"it lies at {outside}"))
    if facts.grey:
        look.notes.append((Defect.GREYSCALE, "one channel"))
    if facts.deep:
        look.notes.append((Defect.DEEP_IMAGE, "more than 8 bits a channel"))
    if facts.orientation != 1:
        look.notes.append((Defect.EXIF_ROTATED, f"orientation {facts.orientation}"))
    elif facts.published_orientation not in (None, 1):
        look.notes.append((Defect.BAD_EXIF, f"orientation {facts.published_orientation}"))
    if phash:
        look.phash = _perceptual(data)
    return look


def _without_contradictions(batch: pa.RecordBatch, looked: list[_Looked]) -> pa.RecordBatch:
    """The batch without the image-level labels that say of a class both that it is there and that it is not."""
    names = ("verified_positive", "verified_negative")
    keys = []
    for name in names:
        labels, offsets = ragged(batch.column(name))
        keys.append(np.repeat(np.arange(len(looked)), np.diff(offsets)) << 32 | labels)
    both = np.intersect1d(*keys)
    if not len(both):
        return batch
    for row in np.unique(both >> 32):
        classes = ", ".join(str(label) for label in both[both >> 32 == row] & (2**32 - 1))
        looked[row].notes.append((Defect.CONTRADICTORY_LABEL, f"rows of the class table: {classes}"))
    for name, own in zip(names, keys, strict=True):
        own = own[~np.isin(own, both)]
        offsets = np.searchsorted(own >> 32, np.arange(len(looked) + 1))
        values = to_lists(pa.array((own & (2**32 - 1)).astype(np.int32)), offsets)
        batch = batch.set_column(batch.schema.get_field_index(name), batch.schema.field(name), values)
    return batch


def _perceptual(data: bytes) -> str:
    """imagehash's 64-bit hash of the upright image, as hex."""
    import imagehash  # with scipy: only who asks for it pays
    from PIL import Image

    return str(imagehash.phash(Image.fromarray(decode(data, min_short_side=256))))


def _frame(
    batch: pa.RecordBatch, looked: list[_Looked], sizes: np.ndarray, normalized: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Boxes in pixels of the upright image, and the size check that decides in which frame they were published.

    A published size that is the stored image's but not the upright one's says that the boxes were drawn on the stored
    image; they are then turned with it.

    Returns:
        boxes float64 [N, 4], offsets int64 [B + 1], area float64 [N], visible boxes float64 [N, 4] or None.
    """
    column = batch.column("boxes")
    offsets = column.offsets.to_numpy().astype(np.int64)
    boxes = _quads(column)
    per_box = np.diff(offsets := offsets - offsets[0])
    area = _area(batch.column("area"), offsets)
    has_visible = ~batch.column("visible_boxes").is_null().to_numpy(zero_copy_only=False)
    visible = None
    if has_visible.any():
        visible = np.full_like(boxes, np.nan)
        visible[np.repeat(has_visible, per_box)] = _quads(batch.column("visible_boxes"))
    widths = batch.column("width").to_pylist()
    heights = batch.column("height").to_pylist()
    if normalized:
        scale = np.repeat(np.concatenate([sizes, sizes], axis=1), per_box, axis=0)
        boxes = boxes * scale
        visible = None if visible is None else visible * scale
    else:
        boxes = boxes.copy()
    for row, look in enumerate(looked):
        facts, claimed = look.facts, (widths[row], heights[row])
        if facts is None or None in claimed or claimed == (facts.width, facts.height):
            continue
        detail = f"published {claimed[0]} x {claimed[1]}, the image is {facts.width} x {facts.height}"
        if claimed == facts.stored_size and not normalized:
            at = slice(offsets[row], offsets[row + 1])
            boxes[at] = boxes_upright(boxes[at], facts.orientation, facts.stored_size)
            if visible is not None:
                visible[at] = boxes_upright(visible[at], facts.orientation, facts.stored_size)
            detail += " upright; its boxes were turned with it"
        look.notes.append((Defect.WRONG_SIZE, detail))
    spans = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    area = np.where(np.isnan(area), spans[:, 0] * spans[:, 1], area)
    return boxes, offsets, area, visible


def _quads(column: pa.ListArray) -> np.ndarray:
    return np.asarray(column.flatten().flatten().to_numpy(), np.float64).reshape(-1, 4)


def _area(column: pa.ListArray, offsets: np.ndarray) -> np.ndarray:
    """Published areas by box, NaN where an image has none."""
    area = np.full(offsets[-1], np.nan)
    known = ~column.is_null().to_numpy(zero_copy_only=False)
    area[np.repeat(known, np.diff(offsets))] = column.flatten().to_numpy()
    return area


def _shard(
    batch: pa.RecordBatch,
    dataset: str,
    image_root: Path,
    kept: np.ndarray,
    sizes: np.ndarray,
    offsets: np.ndarray,
    boxes: np.ndarray,
    area: np.ndarray,
    visible: np.ndarray | None,
    found: BoxFindings,
) -> pa.Table:
    rows = batch.filter(pa.array(kept))
    chosen = select_boxes(found, offsets, kept)
    where = [str(image_root / path) for path in rows.column("path").to_pylist()]
    images = len(where)
    null64 = pa.nulls(images, pa.int64())
    columns = {
        "image_id": rows.column("image_id"),
        "dataset": pa.array([dataset] * images, pa.string()),
        "split": rows.column("split"),
        "image": pa.StructArray.from_arrays(
            [pa.nulls(images, pa.binary()), pa.array(where, pa.string())], names=["bytes", "path"]
        ),
        "offset": null64,
        "length": null64,
        "width": pa.array(sizes[kept, 0], pa.int32()),
        "height": pa.array(sizes[kept, 1], pa.int32()),
        "boxes": chosen.quads(boxes),
        "area": chosen.lists(area.astype(np.float32)),
        "visible_boxes": pa.nulls(images, SHARD.field("visible_boxes").type)
        if visible is None
        else chosen.quads(visible),
        "flags": chosen.lists(found.flags),
        "labels": chosen.labels,
        "verified_positive": rows.column("verified_positive"),
        "verified_negative": rows.column("verified_negative"),
        "not_exhaustive": rows.column("not_exhaustive"),
    }
    return pa.table(columns, schema=SHARD)


def _text(box: np.ndarray) -> str:
    return "(" + ", ".join(f"{number:g}" for number in box) + ")"


def _table(rows: Sequence[tuple[str | None, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=schema)

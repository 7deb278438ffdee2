"""Truth and detections as flat columns: what every protocol takes, wherever they came from.

I images, N truth boxes, M detections, C classes. Boxes are x1, y1, x2, y2 in float64 with the numbers that were
published, unrepaired: pixels, or fractions of the image where ``normalized``. ``sizes`` are widths and heights as the
protocols of continuous coordinates mean them, x2 - x1. Where a format publishes the width itself that number is kept:
x1 + width - x1 is not always the width in float64, and a box of 32 x 32 must stay on its side of COCO's area limits.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xray_det.data.limits import Limits
from xray_det.data.schema import BoxFlag
from xray_det.errors import InputError
from xray_det.labels.space import LabelSpace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Annotated images.

    Attributes:
        space: the classes; a label is a row of it.
        image_ids: I published ids: by number where all are whole numbers, else as text. Protocols that break ties
            between images do so in this order, as pycocotools does.
        paths: I image paths or file names, None where unknown.
        image_sizes: float64 [I, 2] width and height in pixels, NaN where unknown.
        image: int64 [N], rising; boxes of an image are in published order.
        label: int32 [N].
        boxes: float64 [N, 4].
        sizes: float64 [N, 2].
        area: float64 [N], the published object area, else width x height.
        flags: uint16 [N], schema.BoxFlag.
        verified: int64 [V, 3], verified image-level labels: image, rising; label; 1 present or 0 absent.
        not_exhaustive: int64 [W, 2], image, rising, and label: the image holds more objects of the class than boxes.
        exhaustive: every class is annotated in every image; else only verified labels and boxes tell.
        normalized: boxes are fractions of the image.
    """

    space: LabelSpace
    image_ids: tuple[str, ...]
    paths: tuple[str | None, ...]
    image_sizes: Floats
    image: Ints
    label: NDArray[np.int32]
    boxes: Floats
    sizes: Floats
    area: Floats
    flags: NDArray[np.uint16]
    verified: Ints
    not_exhaustive: Ints = field(default_factory=lambda: np.empty((0, 2), np.int64))
    exhaustive: bool
    normalized: bool

    def has(self, flags: BoxFlag) -> NDArray[np.bool_]:
        """bool [N]: boxes with any of the flags."""
        found: NDArray[np.bool_] = (self.flags & int(flags)) != 0
        return found

    def images(self, start: int, stop: int) -> "Truth":
        """The images ``start:stop`` alone, numbered from 0."""
        boxes = slice(*np.searchsorted(self.image, [start, stop]))
        labels, unclear = (
            slice(*np.searchsorted(column[:, 0], [start, stop])) for column in (self.verified, self.not_exhaustive)
        )
        return replace(
            self,
            image_ids=self.image_ids[start:stop],
            paths=self.paths[start:stop],
            image_sizes=self.image_sizes[start:stop],
            image=self.image[boxes] - start,
            label=self.label[boxes],
            boxes=self.boxes[boxes],
            sizes=self.sizes[boxes],
            area=self.area[boxes],
            flags=self.flags[boxes],
            verified=self.verified[labels] - np.array([start, 0, 0]),
            not_exhaustive=self.not_exhaustive[unclear] - np.array([start, 0]),
        )


@dataclass(frozen=True, kw_only=True)
class Detected:
    """Detections on the images of a Truth, in the order in which they were written: ties of score keep it.

    Attributes:
        image: int64 [M], row of Truth.image_ids.
        label: int32 [M], row of Truth.space.
        boxes: float64 [M, 4], in the truth's coordinates.
        sizes: float64 [M, 2].
        scores: float64 [M].
    """

    image: Ints
    label: NDArray[np.int32]
    boxes: Floats
    sizes: Floats
    scores: Floats

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: NDArray[np.bool_] | Ints | slice) -> "Detected":
        """These rows alone."""
        return Detected(
            image=self.image[rows],
            label=self.label[rows],
            boxes=self.boxes[rows],
            sizes=self.sizes[rows],
            scores=self.scores[rows],
        )

    def within(self, limits: Limits) -> "Detected":
        """Of each image the best ``max_detections`` that score above the threshold, in their order."""
        order = np.lexsort((-self.scores, self.image))
        image = self.image[order]
        rank = np.arange(len(order)) - np.searchsorted(image, image)
        kept = (rank < limits.max_detections) & (self.scores[order] > np.float32(limits.score_threshold))
        return self.take(np.sort(order[kept]))


def truth_from_published(
    batches: Iterable[pa.RecordBatch], space: LabelSpace, *, exhaustive: bool, normalized: bool, widths: bool
) -> Truth:
    """Published annotations (schema.PUBLISHED) as a Truth.

    Args:
        batches: as a reader of data/formats yields them.
        space: the reader's classes.
        exhaustive: the reader's.
        normalized: the reader's.
        widths: the format publishes x, y, width, height (COCO), so x2 was computed.

    Raises:
        InputError: no image at all, two images of one id, or a box that is not finite.
    """
    table = pa.Table.from_batches(list(batches)) if not isinstance(batches, pa.Table) else batches
    if not table.num_rows:
        raise InputError(space.name, "holds no image", "Check the path and the format")
    counts, boxes = _counts(table["boxes"]), _numbers(table["boxes"], 4)
    sizes = boxes[:, 2:] - boxes[:, :2]
    if widths:
        sizes = published_widths(boxes)
    area = pc.list_flatten(_filled(table["area"], counts))
    areas = area.to_numpy(zero_copy_only=False)
    # numpy's NaN stands for "not published", whether the image or only the box lacks it
    areas = np.where(np.isnan(areas), sizes[:, 0] * sizes[:, 1], areas)
    return _truth(
        table,
        space,
        counts=counts,
        boxes=boxes,
        sizes=sizes,
        area=areas,
        flags=_numbers(table["flags"]).astype(np.uint16),
        label=_numbers(table["labels"]).astype(np.int32),
        rows=np.arange(len(space)),
        exhaustive=exhaustive,
        normalized=normalized,
        paths=tuple(table["path"].to_pylist()),
    )


def truth_from_shards(
    table: pa.Table, space: LabelSpace, *, rows: NDArray[np.int32] | None = None, exhaustive: bool
) -> Truth:
    """Shard rows (schema.SHARD) of one dataset as a Truth; a box of several labels becomes one row a label.

    Boxes that are not finite are left out: no overlap with them is defined. All others are scored as published.

    Args:
        table: the columns of SHARD; image, offset and length are not needed.
        space: the classes to score in.
        rows: int32 [classes of the dataset], row of ``space`` of each (labels/unify.py); None: the same rows.
        exhaustive: the manifest's.

    Raises:
        InputError: no image at all, or two images of one id.
    """
    if not table.num_rows:
        raise InputError(space.name, "holds no image", "Check the folder and the split")
    labels = _filled_list(table["labels"])
    several = np.asarray(pc.list_value_length(labels), np.int64)
    counts, boxes = _counts(table["boxes"]), _numbers(table["boxes"], 4)
    image = np.repeat(np.arange(table.num_rows), counts)
    box = np.repeat(np.arange(len(boxes)), several)
    box = box[np.isfinite(boxes[box]).all(axis=1)]
    label = pc.list_flatten(labels).to_numpy(zero_copy_only=False).astype(np.int32)
    label = label[np.isfinite(np.repeat(boxes, several, axis=0)).all(axis=1)]
    return _truth(
        table,
        space,
        counts=np.bincount(image[box], minlength=table.num_rows),
        boxes=boxes[box],
        sizes=boxes[box, 2:] - boxes[box, :2],
        area=_numbers(table["area"])[box],
        flags=_numbers(table["flags"]).astype(np.uint16)[box],
        label=label,
        rows=np.arange(len(space)) if rows is None else rows,
        exhaustive=exhaustive,
        normalized=False,
        paths=(None,) * table.num_rows,
    )


def detected_from_table(table: pa.Table, truth: Truth, *, rows: NDArray[np.int32] | None = None) -> Detected:
    """Detections (schema.DETECTIONS) of the truth's dataset, on the truth's images; others are left out.

    Args:
        table: image_id, boxes, scores, labels.
        truth: what they will be scored against.
        rows: int32, row of ``truth.space`` of each class of the detector, -1 for a class it does not have; None: the
            same rows.

    Raises:
        InputError: no image of the table is an image of the truth, or a label is no class of the detector.
    """
    place = pc.index_in(table["image_id"], value_set=pa.array(truth.image_ids))
    known = place.is_valid()
    if table.num_rows and not pc.any(known).as_py():
        raise InputError(
            "detections",
            f"none of {table.num_rows} images is in the truth (the first is {table['image_id'][0].as_py()!r})",
            "Give the detections of this dataset and split",
        )
    table, place = table.filter(known), place.filter(known)
    counts = _counts(table["boxes"])
    labels = _numbers(table["labels"]).astype(np.int32)
    boxes = _numbers(table["boxes"], 4)
    classes = len(truth.space) if rows is None else len(rows)
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise InputError(
            "detections", f"label {labels.max()} is none of the detector's {classes} classes", "Predict again"
        )
    detected = Detected(
        image=np.repeat(place.to_numpy().astype(np.int64), counts),
        label=labels if rows is None else rows[labels],
        boxes=boxes,
        sizes=boxes[:, 2:] - boxes[:, :2],
        scores=_numbers(table["scores"]),
    )
    return detected.take(detected.label >= 0)


def published_widths(boxes: Floats) -> Floats:
    """The widths and heights from which x2 = x1 + width was computed, float64 [N, 2].

    A difference of two float64 is a last bit beside a width such as 348.26. Published numbers have few decimals: the
    difference rounded to nine of them is the published one whenever it gives x2 again, and is taken only then.
    """
    spans = boxes[:, 2:] - boxes[:, :2]
    decimal = np.round(spans, 9)
    return np.where(boxes[:, :2] + decimal == boxes[:, 2:], decimal, spans)


def with_image_labels(truth: Truth, verified: Ints, extra_images: tuple[str, ...]) -> Truth:
    """The truth with further images (without boxes) and image-level labels.

    Args:
        truth: as read.
        verified: int64 [V, 3], image (a row of ``truth.image_ids + extra_images``), label, present.
        extra_images: ids that ``truth`` does not have.
    """
    ids = truth.image_ids + extra_images
    order, place = _image_order(ids)
    both = np.concatenate([truth.verified, verified])
    both[:, 0] = place[both[:, 0]]
    unclear = truth.not_exhaustive.copy()
    unclear[:, 0] = place[unclear[:, 0]]
    image = place[truth.image]
    rows = np.argsort(image, kind="stable")
    unknown = np.full((len(extra_images), 2), np.nan)
    return replace(
        truth,
        image_ids=tuple(ids[row] for row in order),
        paths=tuple((truth.paths + (None,) * len(extra_images))[row] for row in order),
        image_sizes=np.concatenate([truth.image_sizes, unknown])[order],
        image=image[rows],
        label=truth.label[rows],
        boxes=truth.boxes[rows],
        sizes=truth.sizes[rows],
        area=truth.area[rows],
        flags=truth.flags[rows],
        verified=_by_image(both),
        not_exhaustive=_by_image(unclear),
    )


def _truth(
    table: pa.Table,
    space: LabelSpace,
    *,
    counts: Ints,
    boxes: Floats,
    sizes: Floats,
    area: Floats,
    flags: NDArray[np.uint16],
    label: NDArray[np.int32],
    rows: NDArray[np.integer],
    exhaustive: bool,
    normalized: bool,
    paths: tuple[str | None, ...],
) -> Truth:
    ids = tuple(table["image_id"].to_pylist())
    order, place = _image_order(ids)
    twice = next((a for a, b in pairwise(order) if ids[a] == ids[b]), None)
    if twice is not None:
        raise InputError(space.name, f"the image {ids[twice]!r} occurs twice", "Remove one of the two annotations")
    image = np.repeat(np.arange(len(ids)), counts)
    broken = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if len(broken):
        raise InputError(
            f"{space.name}: image {ids[image[broken[0]]]!r}",
            f"a box is not finite ({boxes[broken[0]].tolist()})",
            "Mend or remove it: no protocol says what it overlaps",
        )
    image = place[image]
    by_image = np.argsort(image, kind="stable")
    width, height = (table[side].to_numpy().astype(np.float64) for side in ("width", "height"))
    return Truth(
        space=space,
        image_ids=tuple(ids[row] for row in order),
        paths=tuple(paths[row] for row in order),
        image_sizes=np.stack([width, height], axis=1)[order],
        image=image[by_image],
        label=np.asarray(rows)[label].astype(np.int32)[by_image],
        boxes=boxes[by_image],
        sizes=sizes[by_image],
        area=area[by_image],
        flags=flags[by_image],
        verified=_by_image(
            np.concatenate(
                [
                    np.insert(_image_labels(table, name, place, rows), 2, present, axis=1)
                    for name, present in (("verified_negative", 0), ("verified_positive", 1))
                ]
            )
        ),
        not_exhaustive=_by_image(_image_labels(table, "not_exhaustive", place, rows)),
        exhaustive=exhaustive,
        normalized=normalized,
    )


def _image_labels(table: pa.Table, name: str, place: Ints, rows: NDArray[np.integer]) -> Ints:
    """A column of image-level labels as (image, label), int64 [n, 2]."""
    image = place[np.repeat(np.arange(table.num_rows), _counts(table[name]))]
    label = rows[_numbers(table[name]).astype(np.int64)].astype(np.int64)
    return np.stack([image, label], axis=1)


def _by_image(labels: Ints) -> Ints:
    return labels[np.argsort(labels[:, 0], kind="stable")]


def _image_order(ids: tuple[str, ...]) -> tuple[list[int], Ints]:
    """Rows in protocol order, and the place of each row in it."""
    try:
        keys: list[int] | list[str] = [int(i) for i in ids] if all(i.lstrip("-").isdecimal() for i in ids) else [*ids]
    except ValueError:
        keys = [*ids]
    order = sorted(range(len(ids)), key=keys.__getitem__)  # type: ignore[arg-type]
    place = np.empty(len(ids), np.int64)
    place[order] = np.arange(len(ids))
    return order, place


def _counts(column: pa.ChunkedArray) -> Ints:
    """How long each list is, int64; null is empty."""
    return np.asarray(pc.fill_null(pc.list_value_length(column), 0), np.int64)


def _numbers(column: pa.ChunkedArray, width: int | None = None) -> Floats:
    """The numbers of a list column one after the other, float64 [n] or [n, width]."""
    flat = pc.list_flatten(column)
    if width is not None:
        flat = pc.list_flatten(flat)
    values: Floats = flat.to_numpy().astype(np.float64, copy=False)
    return values if width is None else values.reshape(-1, width)


def _filled(column: pa.ChunkedArray, counts: Ints) -> pa.Array:
    """A nullable list column with a list of NaN for null, and NaN for null members."""
    lists = column.combine_chunks()
    missing = np.asarray(lists.is_null())
    values = np.full(int(counts.sum()), np.nan)
    present = np.repeat(~missing, counts)
    values[present] = pc.fill_null(pc.list_flatten(lists), np.nan).to_numpy(zero_copy_only=False)
    return pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), pa.array(values))


def _filled_list(column: pa.ChunkedArray) -> pa.Array:
    """The inner lists of a list<list> column, one after the other."""
    flat = pc.list_flatten(column)
    return flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat

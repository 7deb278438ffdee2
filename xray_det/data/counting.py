"""Counts of what annotated images hold: class frequencies, boxes an image, sizes (paper 001, Table 1, Figs 5-7).

Everything is a count over fixed bins or over classes, so that the statistics of a million images are as small as those
of ten, and the sum of two parts' statistics is the statistics of both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xray_det.data.sampling import ImageClasses
from xray_det.data.schema import NOT_TRAINED, REGION, SHARD, BoxFlag
from xray_det.labels.frequency import imbalance_magnitude

Counts = npt.NDArray[np.int64]

#: Histograms a count an image end here; the last bin holds this many or more.
MOST_AN_IMAGE: Final = 200
#: Sizes are counted in quarter octaves: bin k holds sizes in [2^(k/4), 2^((k+1)/4)) pixels, the last bin and beyond.
SIZE_BINS: Final = 64
#: COCO's limits of small, medium and large objects, square pixels.
COCO_AREAS: Final = (32.0**2, 96.0**2)


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Counts over the images of a dataset, or of a split of it. Trained boxes are those without NOT_TRAINED flags.

    Attributes:
        images: [] their number.
        published_boxes: [] as published: with flagged ones, and a box under two labels counted twice.
        boxes: [] trained boxes; one under two labels counts once.
        regions: [] trained boxes that are regions (crowd, group-of, difficult, ignore).
        several_labels: [] trained boxes with more than one label.
        flags: [16] published (box, label) pairs by bit of BoxFlag.
        image_counts: [C] n_i, images with a trained box of the class.
        instance_counts: [C] pairs of a trained box and a label.
        boxes_an_image: [MOST_AN_IMAGE + 1] images by trained boxes.
        classes_an_image: [MOST_AN_IMAGE + 1] images by different classes of their trained boxes.
        widths, heights: [SIZE_BINS] images by width and height in quarter octaves.
        box_sizes: [SIZE_BINS] trained boxes by the square root of their area in pixels, in quarter octaves.
        relative_sizes: [100] trained boxes by sqrt(box area / image area) in hundredths, 1 and beyond in the last.
        coco_areas: [3] trained boxes whose area (published where there is one) is small, medium, large.
    """

    images: Counts
    published_boxes: Counts
    boxes: Counts
    regions: Counts
    several_labels: Counts
    flags: Counts
    image_counts: Counts
    instance_counts: Counts
    boxes_an_image: Counts
    classes_an_image: Counts
    widths: Counts
    heights: Counts
    box_sizes: Counts
    relative_sizes: Counts
    coco_areas: Counts

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @classmethod
    def zero(cls, num_classes: int) -> "Statistics":
        return cls.of(SHARD.empty_table(), num_classes)

    @classmethod
    def of(cls, table: pa.Table, num_classes: int) -> "Statistics":
        """Count the rows of a shard.

        Args:
            table: columns COLUMNS of schema.SHARD.
            num_classes: C; labels lie in [0, C).
        """
        box_image, flags, labels, label_box = _flat(table)
        trained = (flags & int(NOT_TRAINED)) == 0
        taught = trained[label_box]
        width, height = (table.column(side).to_numpy().astype(np.float64) for side in ("width", "height"))
        corners = _leaf(table, "boxes", 2).reshape(-1, 4).astype(np.float64)[trained]
        spans = np.maximum(corners[:, 2:] - corners[:, :2], 0)
        box_area, area = spans.prod(axis=1), _leaf(table, "area", 1)[trained]
        image_area = (width * height)[box_image[trained]]
        held = ImageClasses.of(box_image[label_box[taught]], labels[taught], table.num_rows)
        return cls(
            images=np.array(table.num_rows),
            published_boxes=np.array(len(labels)),
            boxes=np.array(trained.sum()),
            regions=np.array((trained & ((flags & int(REGION)) != 0)).sum()),
            several_labels=np.array((trained & (np.bincount(label_box, minlength=len(flags)) > 1)).sum()),
            flags=np.array([((flags[label_box] >> bit) & 1).sum() for bit in range(16)], np.int64),
            image_counts=held.counts(num_classes),
            instance_counts=np.bincount(labels[taught], minlength=num_classes),
            boxes_an_image=_an_image(box_image[trained], table.num_rows),
            classes_an_image=_clipped_bincount(np.diff(held.offsets), MOST_AN_IMAGE + 1),
            widths=_quarter_octaves(width),
            heights=_quarter_octaves(height),
            box_sizes=_quarter_octaves(np.sqrt(box_area)),
            relative_sizes=_clipped_bincount((np.sqrt(box_area / image_area) * 100).astype(np.int64), 100),
            coco_areas=np.bincount(np.digitize(area, COCO_AREAS), minlength=3),
        )

    @property
    def imbalance(self) -> float:
        """The largest n_i divided by the smallest of the classes that occur (paper 002, Fig. 2)."""
        return imbalance_magnitude(self.image_counts)

    def flagged(self) -> dict[str, int]:
        """Published boxes by flag, those that occur."""
        return {str(flag.name).lower(): int(n) for flag in BoxFlag if (n := self.flags[int(flag).bit_length() - 1])}


#: The columns that Statistics.of reads.
COLUMNS: Final = ("width", "height", "boxes", "area", "flags", "labels")


def count_splits(table: pa.Table, num_classes: int, found: dict[str, Statistics]) -> None:
    """Add the images of a table to the statistics of their splits; those without one count under ""."""
    split = pc.fill_null(table.column("split").cast(pa.string()), "")
    for name in pc.unique(split).to_pylist():
        part = Statistics.of(table.select(COLUMNS).filter(pc.equal(split, name)), num_classes)
        found[name] = found[name] + part if name in found else part


def counted(found: Mapping[str, Statistics]) -> dict[str, Any]:
    """The fields of a manifest that count, from the statistics of its splits."""
    splits = sorted(found)
    return {
        "boxes": sum(int(found[split].published_boxes) for split in splits),
        "splits": {split: int(found[split].images) for split in splits},
        "image_counts": {split: tuple(found[split].image_counts.tolist()) for split in splits},
        "instance_counts": {split: tuple(found[split].instance_counts.tolist()) for split in splits},
    }


def _flat(table: pa.Table) -> tuple[Counts, Counts, Counts, Counts]:
    """Image of each box [N] and its flags [N]; each label [M] and the box that carries it [M]."""
    labels = table.column("labels").combine_chunks()
    of_box = labels.flatten()
    box_image = np.repeat(np.arange(table.num_rows), _lengths(labels))
    label_box = np.repeat(np.arange(len(of_box)), _lengths(of_box))
    return box_image, _leaf(table, "flags", 1).astype(np.int64), of_box.flatten().to_numpy().astype(np.int64), label_box


def _lengths(lists: pa.ListArray) -> Counts:
    counted: Counts = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    return counted


def _leaf(table: pa.Table, column: str, depth: int) -> npt.NDArray[np.generic]:
    """The innermost values of a list column, lists flattened ``depth`` times."""
    array = table.column(column).combine_chunks()
    for _ in range(depth):
        array = array.flatten()
    values: npt.NDArray[np.generic] = array.to_numpy(zero_copy_only=False)
    return values


def _an_image(image: Counts, images: int) -> Counts:
    """Images by how often each occurs in ``image``."""
    return _clipped_bincount(np.bincount(image, minlength=images), MOST_AN_IMAGE + 1)


def _quarter_octaves(sizes: npt.NDArray[np.float64]) -> Counts:
    with np.errstate(divide="ignore"):
        bins = np.floor(np.log2(sizes) * 4)
    return _clipped_bincount(np.maximum(bins, 0).astype(np.int64), SIZE_BINS)


def _clipped_bincount(values: Counts, bins: int) -> Counts:
    return np.bincount(np.minimum(values, bins - 1), minlength=bins)

"""Which boxes of an image are one object, and which classes an object carries. Arrays of many images at once.

Letters: B images, P places, L (place, label) pairs, H pairs of places, C classes.

A place is where one or more boxes of an image stand with equal corners, whatever their flags: it has all their labels,
each once. Two places of an image show one object when their boxes overlap enough.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from xray_det.data.annotations import box_labels, ragged
from xray_det.data.distinct import distinct
from xray_det.data.geometry import region, trained
from xray_det.data.ragged import elements

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: The columns that Places.of reads.
COLUMNS = ("boxes", "flags", "labels")
#: How far a pair's rounded IoU may be above its true one, generously: no pair is missed by the window of ``overlaps``.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Places by image, then x1; their labels by place, then class.

    Attributes:
        image: int64 [P], rising.
        corners: float64 [P, 4] x1, y1, x2, y2, in any unit.
        place, label: int64 [L], each pair once.
    """

    image: Ints
    corners: Floats
    place: Ints
    label: Ints

    @classmethod
    def of(cls, table: pa.Table, to_unified: npt.NDArray[np.integer]) -> "Places":
        """The places of a shard's rows, from the boxes that teach a class: no NOT_TRAINED box, and no region.

        Args:
            table: COLUMNS of schema.SHARD. A box counts as published, not clipped to the image.
            to_unified: [C_d], the unified row of each class of the dataset.
        """
        columns = {name: table.column(name).combine_chunks() for name in COLUMNS}
        corners, offsets = ragged(columns["boxes"])
        flags, _ = ragged(columns["flags"])
        labels, label_box = box_labels(columns["labels"])
        teaches = trained(flags) & ~region(flags)
        image = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[teaches]
        corners = corners.reshape(-1, 4)[teaches].astype(np.float64)

        order = np.lexsort([*corners.T[::-1], image])
        image, corners = image[order], corners[order]
        new = np.ones(len(image), bool)
        new[1:] = (image[1:] != image[:-1]) | (corners[1:] != corners[:-1]).any(axis=1)
        place_of = np.full(len(flags), -1)
        place_of[np.flatnonzero(teaches)[order]] = np.cumsum(new) - 1

        kept = teaches[label_box]
        classes = max(int(to_unified.max(initial=0)) + 1, 1)
        pairs = distinct(place_of[label_box[kept]] * classes + to_unified[labels[kept]].astype(np.int64))
        return cls(image=image[new], corners=corners[new], place=pairs // classes, label=pairs % classes)

    def __len__(self) -> int:
        return len(self.image)

    @cached_property
    def starts(self) -> Ints:
        """int64 [P + 1]: place p has the labels ``label[starts[p]:starts[p + 1]]``."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.place, minlength=len(self)))]).astype(np.int64)

    def most_specific(self, ancestors: Bools) -> "Places":
        """These places without the labels that a descendant at the same place implies: the expansion undone.

        Args:
            ancestors: bool [C, C], ``[c, a]``: a is an ancestor of c. A class with several parents implies them all.
        """
        several = np.flatnonzero(np.diff(self.starts) > 1)
        _, own, other = self._products(several, several)
        implied = np.zeros(len(self.label), bool)
        implied[own[ancestors[self.label[other], self.label[own]]]] = True
        return Places(image=self.image, corners=self.corners, place=self.place[~implied], label=self.label[~implied])

    def overlaps(self, least: float) -> tuple[Ints, Ints, Floats]:
        """Every two places of an image whose boxes overlap by IoU >= ``least``, in (0, 1]: each pair once.

        Returns:
            Places a, b int64 [H] and their IoU float64 [H].

        Two boxes of IoU t have left edges no further apart than (1 - t) times the width of the one that starts
        first. So each place is compared with the next ones only, until they start too far right, all places
        at once: first with their neighbour, then with the one after it. Cost: the pairs inside the windows.
        """
        found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
        found += self._neighbours(least)
        a, b, iou = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return a, b, iou

    def _neighbours(self, least: float) -> Iterator[tuple[Ints, Ints, Floats]]:
        """``overlaps`` between places that are 1, 2, 3, ... apart."""
        left, top, right, bottom = self.corners.T
        area = (right - left) * (bottom - top)
        window = left + (1 - least + _ROUNDING) * (right - left)
        a, step = np.arange(len(self)), 1
        while len(a := a[a + step < len(self)]):
            b = a + step
            near = (self.image[b] == self.image[a]) & (left[b] <= window[a])
            a, b = a[near], b[near]
            width = np.minimum(right[a], right[b]) - left[b]
            height = np.minimum(bottom[a], bottom[b]) - np.maximum(top[a], top[b])
            inter = np.maximum(width, 0) * np.maximum(height, 0)
            with np.errstate(invalid="ignore"):  # two boxes without area, rounded from very thin ones: no overlap
                iou = inter / (area[a] + area[b] - inter)
            hit = iou >= least
            yield a[hit], b[hit], iou[hit]
            step += 1

    def carried(self, pairs: tuple[Ints, Ints, Floats], num_classes: int) -> tuple[Ints, Ints, Ints, Floats]:
        """What else is labelled on the object of each label.

        Args:
            pairs: from ``overlaps``.
            num_classes: C.

        Returns:
            place, first, second int64 and iou float64, each (place, first, second) once and in order: the place is
            labelled ``first``, and ``second``, another class, stands on the same object: on the place itself (iou 1)
            or on one that overlaps it, the one with the highest IoU.
        """
        a, b, iou = pairs
        several = np.flatnonzero(np.diff(self.starts) > 1)
        place, other = np.concatenate([a, b, several]), np.concatenate([b, a, several])
        overlap = np.concatenate([iou, iou, np.ones(len(several))])
        pair, first, second = self._products(place, other)
        first, second = self.label[first], self.label[second]
        differ = first != second
        keys = (place[pair[differ]] * num_classes + first[differ]) * num_classes + second[differ]
        triples, inverse = np.unique(keys, return_inverse=True)
        best = np.zeros(len(triples))
        np.maximum.at(best, inverse, overlap[pair[differ]])
        place, classes = np.divmod(triples, max(num_classes, 1) ** 2)
        first, second = np.divmod(classes, max(num_classes, 1))
        return place, first, second, best

    def _products(self, p: Ints, q: Ints) -> tuple[Ints, Ints, Ints]:
        """Every label of place p[h] with every label of q[h]: h and the positions of both in ``label``, int64."""
        size = np.diff(self.starts)
        count = size[p] * size[q]
        pair, number = elements(np.zeros_like(count), count)
        x, y = np.divmod(number, size[q][pair])
        return pair, self.starts[p][pair] + x, self.starts[q][pair] + y

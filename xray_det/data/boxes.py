"""Checks of the boxes of many images at once, and the merging of one place under several labels.

Letters: B images, N published boxes, M boxes after merging.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from xray_det.data.defect import Defect
from xray_det.data.schema import BoxFlag


@dataclass(frozen=True, kw_only=True)
class BoxFindings:
    """What is known of N published boxes.

    Attributes:
        masks: kind -> bool [N], the boxes it was met in.
        flags: uint16 [N], published flags with NO_AREA and REPEAT added.
        first: int64 [N], the box into which this one merges; its own number where it stays.
        labels: int32 [N] as published.
    """

    masks: dict[Defect, np.ndarray]
    flags: np.ndarray
    first: np.ndarray
    labels: np.ndarray


def examine_boxes(
    boxes: np.ndarray,
    offsets: np.ndarray,
    sizes: np.ndarray,
    flags: np.ndarray,
    labels: np.ndarray,
    *,
    tolerance: float = 0.0,
) -> BoxFindings:
    """Check boxes and find repeats and places with several labels.

    Args:
        boxes: float64 [N, 4] x1, y1, x2, y2 in pixels of the upright image.
        offsets: int64 [B + 1].
        sizes: int64 [B, 2] width and height.
        flags: uint16 [N].
        labels: int32 [N].
        tolerance: pixels by which a box may pass the edge before it counts as outside: fractions are rounded.
    """
    count = len(boxes)
    image = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    edge = np.tile(sizes[image], 2).astype(np.float64)
    finite = np.isfinite(boxes).all(axis=1)
    clipped = np.clip(np.where(finite[:, None], boxes, 0.0), 0.0, edge)
    no_area = finite & ((clipped[:, 2:] <= clipped[:, :2]).any(axis=1))
    outside = finite & ((boxes < -tolerance) | (boxes > edge + tolerance)).any(axis=1)

    # Equal places become neighbours; lexsort is stable, so the published order stands inside a group.
    place = [np.where(finite, 0, np.arange(count) + 1), flags, *boxes.T[::-1], image]
    order = np.lexsort(place)
    same = np.ones(max(count - 1, 0), bool)
    for key in (*place[:2], image):
        same &= key[order][1:] == key[order][:-1]
    same &= (boxes[order][1:] == boxes[order][:-1]).all(axis=1)
    starts = np.concatenate([[True], ~same]) if count else np.empty(0, bool)
    group = np.empty(count, np.int64)
    group[order] = np.cumsum(starts) - 1

    by_label = np.lexsort([np.arange(count), labels, group])
    repeat = np.zeros(count, bool)
    if count:
        again = (group[by_label][1:] == group[by_label][:-1]) & (labels[by_label][1:] == labels[by_label][:-1])
        repeat[by_label[1:][again]] = True
    leader = np.full(int(group.max(initial=-1)) + 1, count, np.int64)
    np.minimum.at(leader, group, np.arange(count))
    first = np.where(repeat, np.arange(count), leader[group]) if count else np.empty(0, np.int64)
    merged_away = first != np.arange(count)
    several = np.zeros(count, bool)
    several[first[merged_away]] = True

    out = flags.astype(np.uint16) | np.where(repeat, np.uint16(BoxFlag.REPEAT), np.uint16(0))
    out |= np.where(no_area | ~finite, np.uint16(BoxFlag.NO_AREA), np.uint16(0))
    masks = {
        Defect.NO_AREA: no_area,
        Defect.NOT_FINITE: ~finite,
        Defect.REPEAT: repeat,
        Defect.OUTSIDE: outside,
        Defect.SEVERAL_LABELS: several,
    }
    return BoxFindings(masks=masks, flags=out, first=first, labels=labels.astype(np.int32))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The M boxes that stand in a shard, for the K images kept."""

    index: np.ndarray  # int64 [M] into the published boxes, rising
    offsets: np.ndarray  # int64 [K + 1]
    labels: pa.ListArray  # list<list<int32>> [K]

    def lists(self, values: np.ndarray) -> pa.ListArray:
        """A number a published box [N] as lists by image."""
        return pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), pa.array(values[self.index]))

    def quads(self, boxes: np.ndarray) -> pa.ListArray:
        """[N, 4] as float32 lists by image."""
        flat = pa.array(boxes[self.index].astype(np.float32).reshape(-1))
        return pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), pa.FixedSizeListArray.from_arrays(flat, 4))


def select_boxes(found: BoxFindings, offsets: np.ndarray, kept: np.ndarray) -> Selection:
    """The boxes of the images kept (bool [B]), those of one place merged, with the labels of each.

    The labels of a merged box stand in published order; a repeat stays a box of its own with its one label.
    """
    count = len(found.first)
    image = np.repeat(np.arange(len(kept)), np.diff(offsets))
    stays = kept[image] & (found.first == np.arange(count)) if count else np.empty(0, bool)
    index = np.flatnonzero(stays)
    members = np.flatnonzero(kept[image]) if count else np.empty(0, np.int64)
    order = members[np.argsort(found.first[members], kind="stable")]
    per_box = np.bincount(found.first[members], minlength=count)[index] if count else np.empty(0, np.int64)
    label_offsets = np.concatenate([[0], np.cumsum(per_box)])
    box_offsets = np.concatenate([[0], np.cumsum(np.bincount(image[index], minlength=len(kept))[kept])])
    inner = pa.ListArray.from_arrays(pa.array(label_offsets, pa.int32()), pa.array(found.labels[order], pa.int32()))
    labels = pa.ListArray.from_arrays(pa.array(box_offsets, pa.int32()), inner)
    return Selection(index=index, offsets=box_offsets, labels=labels)

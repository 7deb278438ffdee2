"""Which truth box does each detection lie on? For the protocols in which that does not depend on other detections.

In VOC and Open Images a detection looks at the truth box it overlaps most, taken or not; only who comes first decides
which of several detections wins it. So the overlaps of many images are computed at once, without a loop over images
or boxes, and images a few thousand at a time, so that the working set is small whatever the dataset. (COCO lets
a detection turn to its second choice: coco.py.)

N truth boxes, M detections. ``key`` is a number a pair (image, class) below ``keys``: boxes are compared within a key
only.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from xray_det.data.ragged import elements
from xray_det.evaluation.columns import Detected, Truth
from xray_det.evaluation.sorting import falling, rising

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Pairs of boxes held at once: about 100 bytes each.
PAIRS = 200_000
#: Pairs (image, class) of a block of images: a few bytes each.
KEYS = 1_000_000


def blocks(truth: Truth, detected: Detected, keys: int = KEYS) -> Iterator[tuple[Truth, Detected, Ints]]:
    """Consecutive images with their detections, a block at a time.

    Args:
        truth: of any size.
        detected: in any order.
        keys: images times classes of a block, at least one image.

    Yields:
        The truth of the block, its images numbered from 0; its detections, in their order within each image; int64,
        the rows of ``detected`` that they are.
    """
    images = max(1, keys // max(1, len(truth.space)))
    order = rising(detected.image)
    ordered = detected.take(order)
    for start in range(0, len(truth.image_ids), images):
        stop = min(start + images, len(truth.image_ids))
        rows = slice(*np.searchsorted(ordered.image, [start, stop]))
        some = ordered.take(rows)
        yield truth.images(start, stop), replace(some, image=some.image - start), order[rows]


def pairs(truth_key: Ints, detected_key: Ints, keys: int, block: int = PAIRS) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Every (detection, truth box) of equal key, in blocks of whole detections.

    Args:
        truth_key: int64 [N].
        detected_key: int64 [M].
        keys: all keys are below it.
        block: the number of pairs a block may exceed by one detection's.

    Yields:
        detections: int64 [m], those of the block that have a truth box of their key, rising.
        counts: int64 [m], how many truth boxes each of them has, at least 1.
        truth: int64 [sum of counts], rows of truth boxes, a detection's in their published order.
    """
    order = np.argsort(truth_key, kind="stable")
    used, first, size = np.unique(truth_key[order], return_index=True, return_counts=True)
    place_of = np.full(keys, -1, np.int32)
    place_of[used] = np.arange(len(used))
    place = place_of[detected_key]
    detections = np.flatnonzero(place >= 0)
    place = place[detections]
    ends = np.cumsum(size[place])
    begin = 0
    while begin < len(detections):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + block, side="right")))
        here = place[begin:end]
        _, at = elements(first[here], size[here])
        yield detections[begin:end], size[here], order[at]
        begin = end


def best_overlap(
    truth_boxes: Floats,
    detected_boxes: Floats,
    truth_key: Ints,
    detected_key: Ints,
    keys: int,
    overlap: Callable[[Floats, Floats], Floats],
    block: int = PAIRS,
) -> tuple[Floats, Ints]:
    """The largest overlap of each detection with a truth box of its key, and with which; the first of equals.

    Args:
        truth_boxes: float64 [N, 4] xyxy.
        detected_boxes: float64 [M, 4] xyxy.
        truth_key: int64 [N].
        detected_key: int64 [M].
        keys: all keys are below it.
        overlap: (detected [P, 4], truth [P, 4]) -> [P]; never NaN.

    Returns:
        float64 [M], -1 where there is no truth box of the key; int64 [M], row of the truth box, or -1.
    """
    best = np.full(len(detected_key), -1.0)
    which = np.full(len(detected_key), -1, np.int64)
    for detections, counts, truth in pairs(truth_key, detected_key, keys, block):
        values = overlap(detected_boxes[np.repeat(detections, counts)], truth_boxes[truth])
        starts = np.cumsum(counts) - counts
        largest = np.maximum.reduceat(values, starts)
        hits = np.flatnonzero(values == np.repeat(largest, counts))
        owner = np.searchsorted(starts, hits, side="right") - 1
        first = hits[np.r_[True, owner[1:] != owner[:-1]]]
        best[detections] = largest
        which[detections] = truth[first]
    return best, which


def first_claims(which: Ints, scores: Floats, claims: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool [M]: this detection has the best score of those that claim its truth box; the first of equals.

    Args:
        which: int64 [M], the truth box a detection looks at.
        scores: float64 [M].
        claims: bool [M], whether it overlaps that box enough.
    """
    rows = np.flatnonzero(claims)
    rows = rows[falling(scores[rows])]
    wins = np.zeros(len(which), bool)
    wins[rows[np.unique(which[rows], return_index=True)[1]]] = True
    return wins

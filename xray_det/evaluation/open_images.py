"""Open Images Challenge: average precision at IoU 0.5 over partly verified images with groups under one box.

As TensorFlow's object_detection evaluates it (OpenImagesChallengeEvaluator and the hierarchical expansion of labels):

1. Truth is expanded along the hierarchy: boxes and positive image labels to every ancestor, negative image labels to
   every descendant. Detections are *not* expanded: a detector that should find an Animal has to say Animal.
2. A detection counts only where its class is verified: an image-level label, positive or negative, or a box of the
   image has it. Detections without area are dropped.
3. A detection is judged by the box of its class and image, not group-of, that it overlaps most: the best-scored one
   with IoU of 0.5 is a true positive.
4. What is left is compared with the group-of boxes by intersection over the detection's area. All detections on one
   group count once, as a hit of ``group_of_weight`` at their best score; at weight 0 they do not count at all.
   A group adds its weight to what there is to find.

As in the official tool every box is expanded by itself: one that was published as Girl and as Woman becomes Person
twice (the published expanded files hold such pairs). Unlike there, an ancestor that was published with the same four
corners is not added again, so that truth which was published expanded stays as it is.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from xray_det.data.schema import BoxFlag
from xray_det.errors import InputError
from xray_det.evaluation.columns import Detected, Truth
from xray_det.evaluation.curves import Curve, area, trace
from xray_det.evaluation.matching import best_overlap, first_claims, intersection_over_first, intersection_over_union
from xray_det.evaluation.result import Result, mean

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class _Counted:
    """What enters the curves: int32 [R] labels, float64 [R] scores and hits, in the order in which ties stay."""

    label: NDArray[np.int32]
    scores: Floats
    hits: Floats


def evaluate(
    truth: Truth,
    detected: Detected,
    *,
    ancestors: NDArray[np.bool_] | None = None,
    iou: float = 0.5,
    group_of_weight: float = 1.0,
) -> Result:
    """The Open Images Challenge protocol.

    Args:
        truth: GROUP_OF and CROWD boxes are groups, DIFFICULT ones are ignored as in VOC. Where it is ``exhaustive``
            every class of every image is verified.
        detected: boxes in the truth's coordinates.
        ancestors: bool [C, C], ``[c, a]`` true when a is an ancestor of c (labels/hierarchy.py); None: no expansion.
        iou: the overlap (or, for groups, intersection over the detection) from which a detection finds a box.
        group_of_weight: what a found group counts, 0 or more.

    Returns:
        ``mAP``, the mean over classes that have something to find, and ``pooled_AP``, over the detections of all
        classes at once.

    Raises:
        InputError: a threshold outside (0, 1] or a negative weight.
    """
    if not 0 < iou <= 1:
        raise InputError("--iou", f"{iou} is not in (0, 1]", "Give an overlap such as 0.5")
    if not (group_of_weight >= 0 and np.isfinite(group_of_weight)):
        raise InputError("--group-of-weight", f"{group_of_weight} is not a weight", "Give 0, 1 or a number between")
    if ancestors is not None:
        truth = expand(truth, ancestors)
    classes = len(truth.space)
    group = truth.has(BoxFlag.GROUP_OF | BoxFlag.CROWD)
    difficult = truth.has(BoxFlag.DIFFICULT)

    counted = _match(
        truth, _evaluable(truth, detected), group=group, difficult=difficult, iou=iou, weight=group_of_weight
    )
    positives = np.bincount(truth.label[~group & ~difficult], minlength=classes).astype(np.float64)
    positives += group_of_weight * np.bincount(truth.label[group], minlength=classes)

    order = np.lexsort((-counted.scores, counted.label))
    label, scores, hits = counted.label[order], counted.scores[order], counted.hits[order]
    offsets = np.searchsorted(label, np.arange(classes + 1))
    curves: dict[int, Curve] = {}
    ap = np.full(classes, np.nan)
    for row in np.flatnonzero(positives):
        span = slice(offsets[row], offsets[row + 1])
        curves[int(row)] = trace(hits[span], scores[span], positives[row])
        ap[row] = area(curves[int(row)])
    return Result(
        protocol="open_images",
        metrics={"mAP": mean(ap), "pooled_AP": _pooled(counted, positives)},
        space=truth.space,
        ap=ap,
        curves=curves,
    )


def expand(truth: Truth, ancestors: NDArray[np.bool_]) -> Truth:
    """The truth with boxes and positive image labels at every ancestor, negative image labels at every descendant.

    Args:
        truth: as published; what is expanded already stays as it is.
        ancestors: bool [C, C], ``[c, a]`` true when a is an ancestor of c.

    Returns:
        The published boxes in their order, an image's added ones after them; image labels without repeats.
    """
    source, added = _spread(truth.label.astype(np.int64), ancestors)
    place = _places(truth)
    classes = len(truth.space)
    fresh = ~np.isin(place[source] * classes + added, place * classes + truth.label)
    source, added = source[fresh], added[fresh]

    image = np.concatenate([truth.image, truth.image[source]])
    rows = np.argsort(image, kind="stable")

    def both(column: NDArray, extra: NDArray) -> NDArray:  # type: ignore[type-arg]
        return np.concatenate([column, extra])[rows]

    present, absent = truth.verified[:, 2] == 1, truth.verified[:, 2] == 0
    upward, ancestor = _spread(truth.verified[present, 1], ancestors)
    downward, descendant = _spread(truth.verified[absent, 1], ancestors.T)
    spread = [
        np.column_stack([truth.verified[present][upward, 0], ancestor, np.ones(len(ancestor), np.int64)]),
        np.column_stack([truth.verified[absent][downward, 0], descendant, np.zeros(len(descendant), np.int64)]),
    ]
    return replace(
        truth,
        image=image[rows],
        label=both(truth.label, added.astype(np.int32)),
        boxes=both(truth.boxes, truth.boxes[source]),
        sizes=both(truth.sizes, truth.sizes[source]),
        area=both(truth.area, truth.area[source]),
        flags=both(truth.flags, truth.flags[source]),
        verified=np.unique(np.concatenate([truth.verified, *spread]), axis=0),
    )


def _spread(labels: Ints, relation: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """(row, related class) for every class that ``relation[labels[row]]`` names, rows rising."""
    related = np.nonzero(relation)[1]
    size = relation.sum(axis=1)
    counts = size[labels]
    rows = np.repeat(np.arange(len(labels)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, related[np.repeat((np.cumsum(size) - size)[labels], counts) + within]


def _places(truth: Truth) -> Ints:
    """int64 [N]: a number a place; boxes of one image with the same four corners share it."""
    columns = np.column_stack([truth.image, truth.boxes])  # image numbers are exact in float64
    order = np.lexsort(columns.T)
    place = np.empty(len(order), np.int64)
    place[order] = np.cumsum(np.any(np.diff(columns[order], axis=0, prepend=-1.0), axis=1))
    return place


def _evaluable(truth: Truth, detected: Detected) -> Detected:
    """The detections with an area whose class is verified in their image."""
    keep: NDArray[np.bool_] = np.all(detected.boxes[:, 2:] > detected.boxes[:, :2], axis=1)
    if not truth.exhaustive:
        classes = len(truth.space)
        verified = np.concatenate(
            [truth.image * classes + truth.label, truth.verified[:, 0] * classes + truth.verified[:, 1]]
        )
        keep &= np.isin(detected.image * classes + detected.label, np.unique(verified))
    return detected.take(keep)


def _match(
    truth: Truth,
    detected: Detected,
    *,
    group: NDArray[np.bool_],
    difficult: NDArray[np.bool_],
    iou: float,
    weight: float,
) -> _Counted:
    """Steps 3 and 4 of the module's text: single boxes first, then groups."""
    classes = len(truth.space)
    truth_key = truth.image * classes + truth.label
    key = detected.image * classes + detected.label
    rank = np.empty(len(detected), np.int64)
    rank[np.argsort(-detected.scores, kind="stable")] = np.arange(len(detected))

    single = np.flatnonzero(~group)
    best, which = best_overlap(truth.boxes[single], detected.boxes, truth_key[single], key, intersection_over_union)
    near = best >= iou
    excused = np.zeros(len(detected), bool)
    excused[near] = difficult[single][which[near]]
    hits = first_claims(which, rank, near & ~excused)

    groups = np.flatnonzero(group)
    rest = np.flatnonzero(~hits & ~excused)
    inside, where = best_overlap(
        truth.boxes[groups], detected.boxes[rest], truth_key[groups], key[rest], intersection_over_first
    )
    on_group = inside >= iou
    rest, where = rest[on_group], where[on_group]
    excused[rest] = True
    found = first_claims(where, rank[rest], np.ones(len(rest), bool)) & (detected.scores[rest] > 0) & (weight > 0)
    heads = rest[found]  # the best detection of each group stands for all of them
    counted = ~excused
    return _Counted(
        label=np.concatenate([detected.label[counted], detected.label[heads]]),
        scores=np.concatenate([detected.scores[counted], detected.scores[heads]]),
        hits=np.concatenate([hits[counted].astype(np.float64), np.full(len(heads), weight)]),
    )


def _pooled(counted: _Counted, positives: Floats) -> float:
    """Average precision over the detections of all classes that have something to find."""
    if not positives.sum():
        return float("nan")
    rows = np.flatnonzero(positives[counted.label] > 0)
    rows = rows[np.argsort(-counted.scores[rows], kind="stable")]
    return area(trace(counted.hits[rows], counted.scores[rows], float(positives.sum())))

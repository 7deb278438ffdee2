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

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from xray_det.data.distinct import distinct
from xray_det.data.limits import Limits, usual
from xray_det.data.overlap import intersection_over_first, intersection_over_union
from xray_det.data.ragged import related
from xray_det.data.schema import BoxFlag
from xray_det.errors import InputError
from xray_det.evaluation.columns import Detected, Truth
from xray_det.evaluation.curves import area
from xray_det.evaluation.matching import best_overlap, blocks, first_claims
from xray_det.evaluation.result import Result, mean
from xray_det.evaluation.verdicts import Verdict, Verdicts
from xray_det.labels.space import LabelSpace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def needs(classes: int) -> Limits:
    """The challenge counts all detections, and TensorFlow's detectors for it drop none by its score (threshold 0 or
    1e-8). With its 500 or 601 classes an object is detected once a name it has, under its parents' names too."""
    return usual(classes)


def evaluate(
    truth: Truth,
    detected: Detected,
    *,
    ancestors: NDArray[np.bool_] | None = None,
    iou: float = 0.5,
    group_of_weight: float = 1.0,
) -> Result:
    """The Open Images Challenge protocol: ``judge`` and ``result`` in one process.

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
        InputError: a threshold outside (0, 1], a negative weight, a class that is its own ancestor or is verified both
            present and absent in an image.
    """
    if not (group_of_weight >= 0 and np.isfinite(group_of_weight)):
        raise InputError("--group-of-weight", f"{group_of_weight} is not a weight", "Give 0, 1 or a number between")
    _refuse_contradictions(truth)
    return result(judge(truth, detected, ancestors=ancestors, iou=iou), truth.space, group_of_weight=group_of_weight)


def judge(
    truth: Truth, detected: Detected, *, ancestors: NDArray[np.bool_] | None = None, iou: float = 0.5
) -> Verdicts:
    """What each detection is: an image's own matter, so the images may be those of any part of a dataset.

    Args:
        truth: as for ``evaluate``.
        detected: as for ``evaluate``.
        ancestors: as for ``evaluate``.
        iou: as for ``evaluate``.

    Raises:
        InputError: a threshold outside (0, 1], a class that is its own ancestor.
    """
    if not 0 < iou <= 1:
        raise InputError("--iou", f"{iou} is not in (0, 1]", "Give an overlap such as 0.5")
    if ancestors is not None and ancestors.diagonal().any():
        names = [truth.space.names[row] for row in np.flatnonzero(ancestors.diagonal())[:5]]
        raise InputError("hierarchy", f"a class is its own ancestor ({', '.join(names)})", "Remove the cycle")
    classes = len(truth.space)
    verdict = np.full(len(detected), Verdict.IGNORED, np.uint8)
    boxes, groups = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for annotated, some, rows in blocks(truth, detected):
        expanded = annotated if ancestors is None else expand(annotated, ancestors)
        group = expanded.has(BoxFlag.GROUP_OF | BoxFlag.CROWD)
        groups += np.bincount(expanded.label[group], minlength=classes)
        boxes += np.bincount(expanded.label[~group & ~expanded.has(BoxFlag.DIFFICULT)], minlength=classes)
        verdict[rows] = _match(expanded, some, group=group, iou=iou)
    return Verdicts.of(detected, verdict, boxes=boxes, groups=groups)


def result(verdicts: Verdicts, space: LabelSpace, *, group_of_weight: float = 1.0) -> Result:
    """The protocol's numbers from the verdicts on all images.

    Args:
        verdicts: of ``judge``, joined.
        space: the classes.
        group_of_weight: as for ``evaluate``.
    """
    if group_of_weight == 0:
        verdicts = verdicts.take(verdicts.verdict != Verdict.GROUP)
    ap, curves = verdicts.by_class(group_weight=group_of_weight)
    positives = verdicts.boxes + group_of_weight * verdicts.groups
    pooled = float("nan")
    if positives.any():
        found = verdicts.take(positives[verdicts.label] > 0)
        pooled = area(found.curve(float(positives.sum()), group_of_weight))
    return Result(
        protocol="open_images",
        metrics={"mAP": mean(ap), "pooled_AP": pooled},
        space=space,
        ap=ap,
        curves=curves,
        boxes=verdicts.boxes,
    )


def expand(truth: Truth, ancestors: NDArray[np.bool_]) -> Truth:
    """The truth with boxes and positive image labels at every ancestor, negative image labels at every descendant.

    Args:
        truth: as published; what is expanded already stays as it is.
        ancestors: bool [C, C], ``[c, a]`` true when a is an ancestor of c.

    Returns:
        The published boxes in their order, each followed by those it adds, as the official tool writes them: of equal
        overlaps the first counts. Image labels without repeats.
    """
    source, added = related(truth.label.astype(np.int64), ancestors)
    classes = len(truth.space)
    present_already, _ = best_overlap(
        truth.boxes,
        truth.boxes[source],
        truth.image * classes + truth.label,
        truth.image[source] * classes + added,
        len(truth.image_ids) * classes,
        lambda first, second: np.all(first == second, axis=1).astype(np.float64),
    )
    fresh = present_already < 1
    source, added = source[fresh], added[fresh]

    rows = np.argsort(np.concatenate([np.arange(len(truth.label)), source]), kind="stable")

    def both(column: NDArray, extra: NDArray) -> NDArray:  # type: ignore[type-arg]
        return np.concatenate([column, extra])[rows]

    present, absent = truth.verified[:, 2] == 1, truth.verified[:, 2] == 0
    upward, ancestor = related(truth.verified[present, 1], ancestors)
    downward, descendant = related(truth.verified[absent, 1], ancestors.T)
    verified = [
        truth.verified,
        np.column_stack([truth.verified[present][upward, 0], ancestor, np.ones(len(ancestor), np.int64)]),
        np.column_stack([truth.verified[absent][downward, 0], descendant, np.zeros(len(descendant), np.int64)]),
    ]
    return replace(
        truth,
        image=both(truth.image, truth.image[source]),
        label=both(truth.label, added.astype(np.int32)),
        boxes=both(truth.boxes, truth.boxes[source]),
        sizes=both(truth.sizes, truth.sizes[source]),
        area=both(truth.area, truth.area[source]),
        flags=both(truth.flags, truth.flags[source]),
        verified=_distinct(np.concatenate(verified), classes),
    )


def _distinct(verified: Ints, classes: int) -> Ints:
    """Image labels in order and without repeats, int64 [V, 3]."""
    numbers = distinct((verified[:, 0] * classes + verified[:, 1]) * 2 + verified[:, 2])
    return np.column_stack([numbers // 2 // classes, numbers // 2 % classes, numbers % 2])


def _refuse_contradictions(truth: Truth) -> None:
    """Labels as published: along a hierarchy present and absent may meet without anybody's fault."""
    labels = _distinct(truth.verified, len(truth.space))
    same = np.flatnonzero(np.all(labels[1:, :2] == labels[:-1, :2], axis=1))
    if len(same):
        image, label, _ = labels[same[0]]
        raise InputError(
            f"{truth.space.name}: image {truth.image_ids[image]!r}",
            f"{truth.space.names[label]} is verified both present and absent",
            "Remove one of the two image-level labels",
        )


def _evaluable(truth: Truth, detected: Detected) -> NDArray[np.bool_]:
    """bool [M], detections with an area whose class is verified in their image."""
    classes = len(truth.space)
    known = np.full(len(truth.image_ids) * classes, truth.exhaustive)
    known[truth.image * classes + truth.label] = True
    known[truth.verified[:, 0] * classes + truth.verified[:, 1]] = True
    boxes = detected.boxes
    evaluable: NDArray[np.bool_] = known[detected.image * classes + detected.label]
    return evaluable & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def _match(truth: Truth, detected: Detected, *, group: NDArray[np.bool_], iou: float) -> NDArray[np.uint8]:
    """uint8 [M] Verdicts, by steps 2 to 4 of the module's text: single boxes first, then groups."""
    classes = len(truth.space)
    keys = len(truth.image_ids) * classes
    truth_key = truth.image * classes + truth.label
    key = detected.image * classes + detected.label
    difficult = truth.has(BoxFlag.DIFFICULT)
    evaluable = _evaluable(truth, detected)
    verdict = np.where(evaluable, Verdict.MISS, Verdict.IGNORED).astype(np.uint8)

    single = np.flatnonzero(~group)
    best, which = best_overlap(
        truth.boxes[single], detected.boxes, truth_key[single], key, keys, intersection_over_union
    )
    near = evaluable & (best >= iou)
    excused = np.zeros(len(detected), bool)
    excused[near] = difficult[single][which[near]]
    verdict[excused] = Verdict.IGNORED
    verdict[first_claims(which, detected.scores, near & ~excused)] = Verdict.HIT

    groups, rest = np.flatnonzero(group), np.flatnonzero(verdict == Verdict.MISS)
    inside, where = best_overlap(
        truth.boxes[groups], detected.boxes[rest], truth_key[groups], key[rest], keys, intersection_over_first
    )
    on_group = inside >= iou
    verdict[rest[on_group]] = Verdict.IGNORED
    # the best detection of each group stands for all of them
    first = first_claims(where, detected.scores[rest], on_group) & (detected.scores[rest] > 0)
    verdict[rest[first]] = Verdict.GROUP
    return verdict

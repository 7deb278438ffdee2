"""Weighted boxes fusion (Solovyev, Wang, Gabruseva 2021): boxes that overlap become their mean, weighted by score."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from xray_det.data.overlap import intersection_over_union
from xray_det.data.ragged import elements

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]


def fuse(boxes: Floats, scores: Floats, group: Ints, models: Ints, iou: float) -> tuple[Floats, Floats, Ints]:
    """Fuse the boxes of each group (an image and class).

    In order of falling score a box joins the cluster whose mean it overlaps most, if by more than ``iou``, or begins a
    cluster. The mean is weighted by score; a cluster of T boxes from N models scores mean * min(T, N) / N (the paper's
    equations 1-3 and 5), so that a box which one of two models found counts half. Within a group the order decides, so
    the k-th boxes of all groups are dealt with together.

    Args:
        boxes: float64 [M, 4], x1 y1 x2 y2.
        scores: float64 [M] in [0, 1].
        group: int64 [M], 0 or more.
        models: int64 [M], N: how many detectors could have found a box of this group.
        iou: between 0 and 1.

    Returns:
        boxes float64 [K, 4], scores [K] and groups [K] of the clusters, by group.
    """
    order = np.lexsort((-scores, group))
    boxes, scores, group, models = boxes[order], scores[order], group[order], models[order]
    _, begin, own = np.unique(group, return_index=True, return_inverse=True)
    rank = np.arange(len(group)) - begin[own]
    by_rank = np.argsort(rank, kind="stable")
    steps = np.cumsum(np.bincount(rank))[:-1]
    # A group's clusters lie where its boxes do: there are no more of them.
    clusters = np.zeros(len(begin), np.int64)
    weighted, mean = np.zeros_like(boxes), np.zeros_like(boxes)
    mass, members = np.zeros(len(boxes)), np.zeros(len(boxes), np.int64)
    for now in np.split(by_rank, steps):
        groups, box, score = own[now], boxes[now], scores[now]
        best, overlap = _best(mean, box, begin[groups], clusters[groups])
        joins = overlap > iou
        place = np.where(joins, best, begin[groups] + clusters[groups])
        clusters[groups] += ~joins
        members[place] += 1
        mass[place] += score
        weighted[place] += score[:, None] * box
        heavy = joins & (mass[place] > 0)
        mean[place[~joins]] = box[~joins]
        mean[place[heavy]] = weighted[place[heavy]] / mass[place[heavy], None]
    kept = np.flatnonzero(members)
    agreed = np.minimum(members[kept], models[kept]) / models[kept]
    return mean[kept], mass[kept] / members[kept] * agreed, group[kept]


def _best(means: Floats, boxes: Floats, first: Ints, count: Ints) -> tuple[Ints, Floats]:
    """Of the ``count`` means from row ``first`` on, the first of those that each of the boxes [n, 4] overlaps most, and
    the IoU; -1 where there is none. All of a call have one or none has."""
    if not count.any():
        return first, np.full(len(boxes), -1.0)
    pair, row = elements(first, count)
    overlap = intersection_over_union(means[row], boxes[pair])
    best = np.maximum.reduceat(overlap, np.cumsum(count) - count)
    hits = np.flatnonzero(overlap == best[pair])
    _, earliest = np.unique(pair[hits], return_index=True)
    return row[hits[earliest]], best

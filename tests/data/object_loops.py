"""Random annotated images, and what their objects carry by loops over single boxes in exact fractions: the oracle."""

from collections import defaultdict
from collections.abc import Mapping
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from xray_det.data.schema import SHARD, BoxFlag

#: Classes 0 > 1 > 2, 0 > 3 and 4 > 3: class 3 has two parents.
C = 5
ABOVE: Mapping[int, set[int]] = {0: set(), 1: {0}, 2: {0, 1}, 3: {0, 4}, 4: set()}
ANCESTORS = np.array([[a in ABOVE[c] for a in range(C)] for c in range(C)])

#: Corners close enough to each other that boxes overlap by anything from 0 to 1, thresholds met exactly included.
LOW, HIGH = st.integers(0, 3), st.integers(12, 20)
BOX = st.tuples(LOW, LOW, HIGH, HIGH)
#: Boxes with one of these are no objects.
NONE = [BoxFlag.CROWD, BoxFlag.GROUP_OF, BoxFlag.DIFFICULT, BoxFlag.IGNORE, BoxFlag.REPEAT, BoxFlag.NO_AREA]
FLAG = st.sampled_from([*[0] * 10, BoxFlag.OCCLUDED, BoxFlag.DEPICTION, *NONE])
LABELS = st.lists(st.integers(0, C - 1), min_size=1, max_size=3, unique=True)
IMAGES = st.lists(st.lists(st.tuples(BOX, FLAG, LABELS), max_size=7), max_size=4)

Images = list[list[Any]]  # of (box, flag, labels)
Place = tuple[int, tuple[int, ...]]  # image, corners


def table(images: Images) -> pa.Table:
    """The columns of schema.SHARD that say where objects are."""
    columns = {
        "boxes": [[box for box, _, _ in image] for image in images],
        "flags": [[int(flag) for _, flag, _ in image] for image in images],
        "labels": [[labels for _, _, labels in image] for image in images],
    }
    return pa.table(columns, schema=pa.schema([SHARD.field(name) for name in columns]))


def labels_at(images: Images, specific: bool) -> dict[Place, set[int]]:
    """The labels of every place in order; with ``specific`` those that a descendant there implies are left out."""
    found: dict[Place, set[int]] = defaultdict(set)
    for number, image in enumerate(images):
        for box, flag, labels in image:
            if not any(flag & none for none in NONE):
                found[number, tuple(box)] |= set(labels)
    if specific:
        found = {at: {c for c in own if not any(c in ABOVE[d] for d in own)} for at, own in found.items()}
    return {at: found[at] for at in sorted(found)}


def ious(places: list[Place]) -> dict[tuple[int, int], Fraction]:
    """IoU of every two places of one image, by their numbers."""
    return {
        (p, q): _iou(places[p][1], places[q][1])
        for p, q in combinations(range(len(places)), 2)
        if places[p][0] == places[q][0]
    }


def _iou(a: tuple[int, ...], b: tuple[int, ...]) -> Fraction:
    shared = [max(0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1)]
    inter = shared[0] * shared[1]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return Fraction(inter, sum(areas) - inter)

"""Which classes stand together on one object, counted over shards: concurrent rates, confused pairs, missing leaves.

**What is counted** (paper 002, sections 3 and 4.1.1; what it leaves open is our reading):

- An *object* of class i is a box labelled i, among the boxes that teach a class. A box that is a repeat or has no area
  is none (schema.NOT_TRAINED), and neither is a region: a crowd's or a group's box speaks of several objects, and no
  prediction is matched to a region. Boxes of an image with equal corners are one box with the labels of all.
- It is *also labelled j* when j stands on the same box, or on another box of its image that overlaps it by IoU >= the
  threshold: often an annotator's second box of the same object. Several such boxes count once. Overlap is not
  transitive, so each box looks at its own neighbours alone, and two boxes of class i that overlap are two objects of i.
- So a pair's counts are of objects of i one way and of objects of j the other.
- A label that a descendant on the same box implies is not counted, so that a dataset gives the same counts whether it
  was published with every ancestor added (expanded) or not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from xray_det.data import shards
from xray_det.data.annotations import Selection
from xray_det.data.distinct import distinct
from xray_det.data.ingest import each
from xray_det.data.manifest import Manifest
from xray_det.data.objects import COLUMNS, Bools, Ints, Places
from xray_det.data.ragged import related
from xray_det.data.schema import SHARD
from xray_det.display import counted
from xray_det.errors import InputError
from xray_det.labels.concurrence import PairCounts

#: From which overlap two boxes are one object, unless told otherwise (methods.md 3).
IOU: Final = 0.9
_JOB = 16_384  # images at a time: enough for whole-array work, in some 15 MB of arrays at 7 boxes an image


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """Labels that meet on an object, at T thresholds at once. Those of two parts of a dataset add up.

    Attributes:
        thresholds: IoU in (0, 1] from which two boxes are one object. At 1 only labels of one box meet.
        pairs: T counts of objects that carry two classes.
        overlaps: int64 [T], pairs of boxes with different corners that are one object.
        boxes: int64 [C], boxes labelled with the class or with a descendant of it: those an expansion would give it.
        lacking: int64 [T, C], those of them whose object is not labelled with any descendant (paper 002, Fig. 3b).
    """

    thresholds: tuple[float, ...]
    pairs: tuple[PairCounts, ...]
    overlaps: Ints
    boxes: Ints
    lacking: Ints

    def __add__(self, other: "Survey") -> "Survey":
        return Survey(
            thresholds=self.thresholds,
            pairs=tuple(a + b for a, b in zip(self.pairs, other.pairs, strict=True)),
            overlaps=self.overlaps + other.overlaps,
            boxes=self.boxes + other.boxes,
            lacking=self.lacking + other.lacking,
        )

    def table(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Ints]:
        """The pairs of classes that meet at any threshold: first, second int32 [nnz]; their counts int64 [T, nnz]."""
        classes = len(self.boxes)
        keys = [pairs.first.astype(np.int64) * classes + pairs.second for pairs in self.pairs]
        widest = int(np.argmin(self.thresholds))  # has the pairs of all others
        counts = np.zeros((len(keys), len(keys[widest])), np.int64)
        for row, pairs in enumerate(self.pairs):
            counts[row, np.searchsorted(keys[widest], keys[row])] = pairs.count
        return self.pairs[widest].first, self.pairs[widest].second, counts

    @classmethod
    def of(cls, places: Places, thresholds: tuple[float, ...], ancestors: Bools) -> "Survey":
        """Count over places whose labels are rows of the bool [C, C] ``ancestors`` (``[c, a]``: a is one of c)."""
        classes, places = len(ancestors), places.most_specific(ancestors)
        objects = np.bincount(places.label, minlength=classes)
        near = places.overlaps(min(thresholds))
        place, first, second, iou = places.carried(near, classes)
        holder, implied = _implied(places, ancestors)
        above = ancestors[second, first]
        pairs, lacking = [], []
        boxes = _each_once(np.append(holder, places.place), np.append(implied, places.label), classes)
        for threshold in thresholds:
            met = iou >= threshold
            pairs.append(PairCounts.summed(objects, first[met], second[met], np.ones(met.sum(), np.int64)))
            complete = met & above
            refined = _each_once(np.append(holder, place[complete]), np.append(implied, first[complete]), classes)
            lacking.append(boxes - refined)
        return cls(
            thresholds=thresholds,
            pairs=tuple(pairs),
            overlaps=np.array([(near[2] >= threshold).sum() for threshold in thresholds]),
            boxes=boxes,
            lacking=np.stack(lacking),
        )


def count(
    selections: Sequence[Selection],
    maps: Sequence[npt.NDArray[np.int32]],
    ancestors: Bools,
    *,
    iou: float = IOU,
    progress: bool = False,
) -> PairCounts:
    """Objects of each class and how many of them carry each other class, over shards read in parallel by Ray Data.

    Args:
        selections: images of ingested datasets.
        maps: for each selection int32 [C_d], unified row of each class of its dataset.
        ancestors: bool [C, C], ``[c, a]``: a is an ancestor of c; all false where there is no hierarchy.
        iou: in (0, 1], from which two boxes are one object.
        progress: draw a bar.

    Returns:
        Exact counts, whatever the shards. Memory does not grow with the dataset.

    Raises:
        InputError: a threshold outside (0, 1], maps that do not fit, a split that is not there, or no object at all.
    """
    found = survey(selections, maps, ancestors, thresholds=(iou,), progress=progress)
    if not found.pairs[0].objects.any():
        folders = ", ".join(selection.folder for selection in selections)
        raise InputError(folders, "there is no box to count objects by", "Choose a dataset or split with boxes")
    return found.pairs[0]


def survey(
    selections: Sequence[Selection],
    maps: Sequence[npt.NDArray[np.int32]],
    ancestors: Bools,
    *,
    thresholds: tuple[float, ...],
    progress: bool = False,
) -> Survey:
    """The same at several thresholds in one pass, with the boxes that lack a more specific label.

    Args:
        selections, maps, ancestors, progress: as for ``count``.
    """
    classes = len(ancestors)
    if not thresholds or not all(0 < threshold <= 1 for threshold in thresholds):
        raise InputError("iou", f"{', '.join(map(str, thresholds))} is not in (0, 1]", f"Give the default, {IOU}")
    if len(maps) != len(selections):
        raise InputError("maps", f"{len(maps)} for {len(selections)} selections", "Give one a selection")
    jobs = []
    for number, selection in enumerate(selections):
        manifest = Manifest.load(selection.folder)
        manifest.check_split(selection.split)
        table = np.asarray(maps[number])
        if len(table) != len(manifest.space) or ((table < 0) | (table >= classes)).any():
            problem = f"the map of {manifest.name} has {len(table)} rows for {len(manifest.space)} classes"
            raise InputError("maps", f"{problem}, or points beyond {classes}", "Make it with labels/unify.py")
        jobs += [(number, selection.split, uris) for uris in _groups(manifest)]
    task = partial(_examine, maps=tuple(maps), thresholds=tuple(thresholds), ancestors=ancestors)
    parts: Iterator[Survey] = each(task, jobs)
    parts = counted(parts, len(jobs), "pairs of labels", shown=progress)
    none = Places.of(SHARD.empty_table(), np.zeros(1, np.int32))
    return reduce(Survey.__add__, parts, Survey.of(none, tuple(thresholds), ancestors))


def _groups(manifest: Manifest) -> Iterator[list[str]]:
    """The dataset's shards in runs of about _JOB images."""
    before = np.cumsum([0, *(shard.rows for shard in manifest.shards)])[:-1]
    for group in np.unique(before // _JOB):
        yield [manifest.shard_uris[k] for k in np.flatnonzero(before // _JOB == group)]


def _examine(
    job: tuple[int, str | None, list[str]],
    *,
    maps: tuple[npt.NDArray[np.int32], ...],
    thresholds: tuple[float, ...],
    ancestors: Bools,
) -> Survey:
    number, split, uris = job
    table = pa.concat_tables([shards.read_split(uri, COLUMNS, split) for uri in uris])
    return Survey.of(Places.of(table, maps[number]), thresholds, ancestors)


def _implied(places: Places, ancestors: Bools) -> tuple[Ints, Ints]:
    """Every (place, ancestor of one of its labels)."""
    row, above = related(places.label, ancestors)
    return places.place[row], above


def _each_once(place: Ints, label: Ints, classes: int) -> Ints:
    """Places by class, int64 [C], a (place, class) pair that is given twice counted once."""
    return np.bincount(distinct(place * classes + label) % max(classes, 1), minlength=classes)

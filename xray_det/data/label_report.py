"""What people read of labels that meet on one object: confused pairs at several thresholds, parents without a leaf."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType

from xray_det.data.annotations import Selection
from xray_det.data.concurrence import IOU, Survey, survey
from xray_det.data.manifest import Manifest
from xray_det.data.objects import Bools, Ints
from xray_det.display import Table

#: What is shown side by side. At 1 only the labels of one box meet.
THRESHOLDS: Final = (0.7, 0.8, IOU, 0.95, 1.0)
AT: Final = THRESHOLDS.index(IOU)
ONE_BOX: Final = THRESHOLDS.index(1.0)
#: How two classes are related: not at all (a confusion, or two objects at one place), as part and whole, as kind.
RELATIONS: Final = ("", "part", "hierarchy")


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelReport:
    """The pairs of classes that meet in a dataset, each in the direction of its higher rate.

    Attributes:
        manifest: of the dataset.
        found: its survey at THRESHOLDS.
        parents: int64, the classes of which others are kinds and that have a box, by falling boxes.
        first, second: int32 [n]: of the objects of class ``first`` a share is also labelled ``second``.
        counts: int64 [T, n], these objects.
        back: int64 [n], objects of ``second`` that are also labelled ``first``, at IOU.
        relation: int64 [n], a row of RELATIONS.
    """

    manifest: Manifest
    found: Survey
    parents: Ints
    first: npt.NDArray[np.int32]
    second: npt.NDArray[np.int32]
    counts: Ints
    back: Ints
    relation: Ints

    @classmethod
    def of(cls, manifest: Manifest, split: str | None = None, *, progress: bool = False) -> "LabelReport":
        """Survey a dataset, or a split of it; ``progress`` draws a bar."""
        kinds, parts = _related(manifest)
        selection, identity = Selection(folder=manifest.folder, split=split), np.arange(len(kinds), dtype=np.int32)
        found = survey([selection], [identity], kinds, thresholds=THRESHOLDS, progress=progress)
        first, second, counts = found.table()
        back = counts[:, np.lexsort([first, second])][AT]  # (j, i) now stands where (i, j) stood: both always occur
        objects = found.pairs[AT].objects
        rate, other = counts[AT] / objects[first], back / objects[second]
        shown = (rate > other) | ((rate == other) & (first < second))
        relation = np.where(kinds | kinds.T, 2, parts | parts.T)[first, second]
        parents = np.flatnonzero(kinds.any(axis=0) & (found.boxes > 0))
        return cls(
            manifest=manifest,
            found=found,
            parents=parents[np.argsort(-found.boxes[parents], kind="stable")],
            first=first[shown],
            second=second[shown],
            counts=counts[:, shown],
            back=back[shown],
            relation=relation[shown],
        )

    @property
    def objects(self) -> Ints:
        """Objects of each class, int64 [C]."""
        return self.found.pairs[AT].objects

    @property
    def rates(self) -> npt.NDArray[np.float64]:
        """r of each pair at IOU, float64 [n]."""
        rate: npt.NDArray[np.float64] = self.counts[AT] / self.objects[self.first]
        return rate

    @property
    def hierarchical(self) -> Bools:
        """The pairs of which one class is a kind of the other, bool [n]; the others are confusions."""
        apart: Bools = self.relation == RELATIONS.index("hierarchy")
        return apart

    def tables(self, confused: int = 20, related: int = 5, parents: int = 10) -> list[RenderableType]:
        """The pairs that meet most, related ones apart, and the largest parents; so many rows of each."""
        order = np.argsort(-self.counts[AT], kind="stable")
        order = order[self.counts[AT, order] > 0]
        apart = self.hierarchical[order]
        tables: list[RenderableType] = [f"{self.manifest.name}: no object carries two classes"]
        if len(order):
            tables = [self._pair_table(order[~apart][:confused], order[apart][:related])]
        if len(self.parents):
            tables.append(self._parent_table(self.parents[:parents]))
        return tables

    def _pair_table(self, confused: Ints, related: Ints) -> Table:
        table = Table(
            *("class (objects)", "also", "one box", *(str(THRESHOLDS[k]) for k in _DISTINCT), "r", "back"),
            keys=2,
            title=f"{self.manifest.name}: two classes on one object",
            caption="Objects of the class that are also labelled so: on one box, or on another one that overlaps by "
            f"this IoU or more; r at {IOU}, and back from the second class to the first. One object drawn twice keeps "
            "its pairs as the IoU rises; two objects that happen to fill one place lose them. Pairs of boxes that "
            "overlap by so much: " + ", ".join(f"{self.found.overlaps[k]:,} ({THRESHOLDS[k]})" for k in _DISTINCT),
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),  # fits 80 columns
        )
        for column in table.columns[2:]:
            column.justify = "right"
        names, one_box = self.manifest.space.names, self.counts[ONE_BOX]
        for heading, rows in ((None, confused), ("of a hierarchy:", related)):
            if heading and len(rows):
                table.add_section()
                table.add_row(heading)
            for row in rows.tolist():
                i, j = int(self.first[row]), int(self.second[row])
                part = " (part)" if RELATIONS[self.relation[row]] == "part" else ""
                table.add_row(
                    *(f"{names[i]} ({self.objects[i]:,})", names[j] + part, f"{one_box[row]:,}"),
                    *(f"{self.counts[k, row] - one_box[row]:,}" for k in _DISTINCT),
                    *(f"{self.rates[row]:.3f}", f"{self.back[row] / self.objects[j]:.3f}"),
                )
        return table

    def _parent_table(self, parents: Ints) -> Table:
        table = Table(
            *("parent", "boxes", "lack a leaf", "share"),
            title=f"{self.manifest.name}: parents without a leaf",
            caption="Boxes of the class or of a kind of it, and those of them whose object is given no kind of it.",
        )
        for column in table.columns[1:]:
            column.justify = "right"
        for row in parents.tolist():
            boxes, lacking = int(self.found.boxes[row]), int(self.found.lacking[AT, row])
            name = self.manifest.space.names[row]
            table.add_row(name, f"{boxes:,}", f"{lacking:,}", f"{lacking / boxes:.1%}")
        return table

    def to_json(self) -> dict[str, Any]:
        """Every pair and every parent, with the counts at all thresholds."""
        names = self.manifest.space.names
        pairs = zip(self.first, self.second, self.relation, self.counts.T, self.back, strict=True)
        return {
            "thresholds": list(THRESHOLDS),
            "overlaps": self.found.overlaps.tolist(),
            "objects": self.objects.tolist(),
            "pairs": [
                {
                    "first": names[i],
                    "second": names[j],
                    "relation": RELATIONS[relation],
                    "objects": counts.tolist(),
                    f"back_at_{IOU}": int(back),
                }
                for i, j, relation, counts, back in pairs
            ],
            "parents": [
                {
                    "class": names[row],
                    "boxes": int(self.found.boxes[row]),
                    "lacking": self.found.lacking[:, row].tolist(),
                }
                for row in self.parents
            ],
        }


_DISTINCT: Final = tuple(k for k in reversed(range(len(THRESHOLDS))) if k != ONE_BOX)


def _related(manifest: Manifest) -> tuple[Bools, Bools]:
    """Which classes are kinds and which are parts of which, bool [C, C] each."""
    if manifest.hierarchy is None:
        none = np.zeros((len(manifest.space),) * 2, bool)
        return none, none
    return manifest.hierarchy.ancestors(manifest.space), manifest.hierarchy.part_of(manifest.space)

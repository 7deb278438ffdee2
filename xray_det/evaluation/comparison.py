"""Runs against a baseline: average precision class by class in order of training frequency, bands, what differs.

Runs that differ in nothing but the seed are one variant (variants.py): its numbers are the mean over them, with the
smallest and the largest beside it. A variant of one run says nothing about chance, and the notes say so.

Shapes: V variants (the baseline is the first), C classes of a set by falling training count.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xray_det.errors import InputError
from xray_det.evaluation.measured import ClassRow
from xray_det.evaluation.result import mean
from xray_det.evaluation.variants import Run, Variant, variants_of
from xray_det.labels import frequency

#: The columns of a band table.
COLUMNS: Final = ("AP", *frequency.BANDS)
#: Average precisions nearer than this are equal: means over seeds round.
EQUAL: Final = 1e-9
_NAMED: Final = 5  # in a note; more are counted

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A mean over seeds, and the smallest and largest of them; NaN where nothing is defined."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """In percent: ``45.5``, with several seeds ``45.5 (45.1-45.9)``, ``-`` where nothing is defined."""
        if np.isnan(self.mean):
            return "-"
        ends = f" ({100 * self.low:.1f}-{100 * self.high:.1f})" if self.high > self.low else ""
        return f"{100 * self.mean:.1f}{ends}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Against:
    """A variant against the baseline on one set: [C] differences, NaN where the set has no truth of a class.

    ``beyond`` counts the classes that moved further than the seeds spread (no run of the one side reaches into the
    range of the other); None where a side has one seed and no spread is known.
    """

    difference: Floats
    beyond: int | None

    @property
    def rose(self) -> int:
        return int(np.sum(self.difference > EQUAL))

    @property
    def fell(self) -> int:
        return int(np.sum(self.difference < -EQUAL))

    def largest(self, count: int) -> tuple[list[int], list[int]]:
        """Rows of the largest gains and of the largest losses, at most ``count`` of each, the largest first."""
        order = np.argsort(-np.nan_to_num(self.difference), kind="stable")
        gains = [int(row) for row in order if self.difference[row] > EQUAL]
        losses = [int(row) for row in order[::-1] if self.difference[row] < -EQUAL]
        return gains[:count], losses[:count]


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """One validation set, ``DATASET/PROTOCOL``.

    Attributes:
        names: [C] classes by falling training count.
        counts: [C] of the baseline's training data.
        bands: head, middle, tail -> where the band lies in ``names``; classes that were never trained follow them.
        ap: for each variant [runs, C]; NaN where the set has no truth of a class.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]
    bands: Mapping[str, slice]
    ap: tuple[Floats, ...]

    @cached_property
    def mean(self) -> Floats:
        """[V, C], the mean over a variant's seeds."""
        return np.stack([runs.mean(axis=0) for runs in self.ap])

    def band_of(self, row: int) -> str:
        return next((name for name, part in self.bands.items() if part.start <= row < part.stop), "untrained")

    def columns(self, variant: int) -> Floats:
        """[runs, 4] means over all classes, the head, the middle and the tail."""
        parts = (slice(None), *(self.bands[name] for name in frequency.BANDS))
        return np.array([[mean(run[part]) for part in parts] for run in self.ap[variant]])

    def against(self, variant: int) -> Against:
        """A variant minus the baseline."""
        base, other, beyond = self.ap[0], self.ap[variant], None
        if min(len(base), len(other)) > 1:
            apart = (other.min(axis=0) > base.max(axis=0) + EQUAL) | (other.max(axis=0) < base.min(axis=0) - EQUAL)
            beyond = int(apart.sum())
        return Against(difference=self.mean[variant] - self.mean[0], beyond=beyond)


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What ``compare`` found: variants, the baseline first; set -> table; what a reader must know."""

    variants: tuple[Variant, ...]
    tables: Mapping[str, Table]
    notes: tuple[str, ...]

    @property
    def headline(self) -> tuple[str, ...]:
        """The sets that the overall numbers are means of: each dataset by its publishers' own protocol.

        That is the one besides COCO's where there is one, as a run's ``val/AP`` has it.
        """
        return headline(self.tables)

    def each(self, variant: int, sets: Sequence[str] = ()) -> Floats:
        """[runs, 4] AP, head, middle and tail of every run: means over ``sets``, over the headline unless given."""
        by_set = np.stack([self.tables[key].columns(variant) for key in sets or self.headline])  # [sets, runs, 4]
        return np.array([[mean(by_set[:, run, n]) for n in range(len(COLUMNS))] for run in range(by_set.shape[1])])

    def spreads(self, variant: int, sets: Sequence[str] = ()) -> dict[str, Spread]:
        """The same by name, over the seeds of a variant."""
        runs = self.each(variant, sets)
        ends = zip(COLUMNS, runs.mean(axis=0), runs.min(axis=0), runs.max(axis=0), strict=True)
        return {name: Spread(mean=float(m), low=float(low), high=float(high)) for name, m, low, high in ends}


def headline(sets: Iterable[str]) -> tuple[str, ...]:
    """Of sets ``DATASET/PROTOCOL`` each dataset's by its publishers' protocol: the one besides COCO's, if there is."""
    chosen: dict[str, str] = {}
    for key in sets:
        dataset, _, protocol = key.rpartition("/")
        if dataset not in chosen or protocol != "coco":
            chosen[dataset] = key
    return tuple(chosen.values())


def compare(runs: Sequence[Run], sets: Sequence[str] = ()) -> Comparison:
    """Put runs side by side; the first is in the baseline.

    Args:
        runs: two or more.
        sets: ``DATASET/PROTOCOL`` of those to compare on; all that the runs have in common unless given.

    Raises:
        InputError: fewer than two runs; a set that was not measured in all of them, or with other classes; nothing in
            common.
    """
    if len(runs) < 2:
        raise InputError("RUN", f"{len(runs)} of them cannot be compared", "Give two runs or more, or a sweep")
    common, left_out = _common(runs, sets)
    variants = variants_of(runs)
    tables = {key: _table(key, variants) for key in common}
    return Comparison(variants=variants, tables=tables, notes=(*_notes(runs, variants, common), *left_out))


def _common(runs: Sequence[Run], asked: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sets that all runs were measured on, over the same classes; and a note for each of the others."""
    every = list(dict.fromkeys(key for run in runs for key in run.measured.classes))
    problems = {key: problem for key in (*every, *asked) if (problem := _unlike(key, runs))}
    for key in asked:
        if key in problems:
            raise InputError(f"--set {key}", problems[key], f"Give one of: {_some(every)}")
    common = list(dict.fromkeys(asked)) or [key for key in every if key not in problems]
    if not common:
        listed = "; ".join(f"{key}: {problem}" for key, problem in problems.items()) or "none has classes"
        raise InputError("the runs", f"have no validation set in common ({listed})", "Measure them on the same sets")
    return common, [f"{key} is left out: {problem}." for key, problem in problems.items()]


def _unlike(key: str, runs: Sequence[Run]) -> str:
    """Why a set cannot be compared over these runs; empty if it can."""
    without = [run.name for run in runs if key not in run.measured.classes]
    if without:
        return f"{_some(without)} {'was' if len(without) == 1 else 'were'} not measured on it"
    first = {row.name: row.ap is None for row in runs[0].measured.classes[key]}
    for run in runs[1:]:
        other = {row.name: row.ap is None for row in run.measured.classes[key]}
        if strange := [name for name in (*first, *other) if (name in first) != (name in other)]:
            return f"{run.name} and {runs[0].name} do not have the same classes there ({_some(strange)})"
        if changed := [name for name in first if first[name] != other[name]]:
            return f"{run.name} and {runs[0].name} were measured on other images (truth of {_some(changed)})"
    return "" if first else "it has no classes"


def _table(key: str, variants: Sequence[Variant]) -> Table:
    rows = variants[0].runs[0].measured.classes[key]
    counts = np.array([row.count for row in rows], np.int64)
    order = np.argsort(-counts, kind="stable")
    ends = np.cumsum([0, *(len(part) for part in frequency.bands(counts).values())])
    bands = {name: slice(int(ends[n]), int(ends[n + 1])) for n, name in enumerate(frequency.BANDS)}
    names = tuple(rows[row].name for row in order)
    ap = tuple(np.stack([_ap(run.measured.classes[key], names) for run in variant.runs]) for variant in variants)
    return Table(names=names, counts=counts[order], bands=bands, ap=ap)


def _ap(rows: Sequence[ClassRow], names: Sequence[str]) -> Floats:
    by_name = {row.name: np.nan if row.ap is None else row.ap for row in rows}
    return np.array([by_name[name] for name in names], np.float64)


def _notes(runs: Sequence[Run], variants: Sequence[Variant], common: Sequence[str]) -> list[str]:
    """What a reader must know to read the numbers rightly."""
    notes = []
    if single := [variant.label for variant in variants if len(variant.runs) == 1]:
        who = "Every variant" if len(single) == len(variants) else _some(single)
        verb = "have" if len(single) > 1 and who != "Every variant" else "has"
        notes.append(f"{who} {verb} one seed: how much of a difference is chance is not known.")
    if any(len(variant.runs) > 1 for variant in variants):
        notes.append("Of several seeds the mean is given, and the smallest and the largest.")
    if len(variants[0].runs) > 1 and any(len(variant.runs) > 1 for variant in variants[1:]):
        notes.append("Beyond seeds: classes in which no seed of the one side reaches the range of the other's seeds.")
    if going := [run.name for run in runs if not run.finished]:
        notes.append(f"Not finished: {_some(going)}; the newest validation counts.")
    if len({run.step for run in runs}) > 1:
        notes.append("The runs were measured after different numbers of steps.")
    first = runs[0].measured.classes
    for key in common:
        counts = {row.name: row.count for row in first[key]}
        others = [r.name for r in runs if any(row.count != counts[row.name] for row in r.measured.classes[key])]
        if others:
            notes.append(f"{key}: the training counts of {_some(others)} differ; bands and order are the baseline's.")
    return notes


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")

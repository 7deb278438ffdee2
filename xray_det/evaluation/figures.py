"""Figures of a result. matplotlib is imported when one is drawn; the figures are returned, not shown or saved."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xray_det.evaluation.measured import ClassRow, class_rows
from xray_det.evaluation.result import Result, mean
from xray_det.labels.frequency import bands
from xray_det.lettering import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Points at which a curve is drawn: more than a screen shows.
_DRAWN = 1000
#: More classes have no room for their names.
_NAMED = 40


def precision_recall(result: Result, classes: int = 12) -> "Figure":
    """Precision against recall: a faint line a class, the mean over classes thick, the best and worst named.

    Args:
        result: of any protocol; COCO's curves are those at IoU 0.5.
        classes: how many classes are named, from both ends of the order by average precision.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    levels = np.linspace(0, 1, 101)
    heights = []
    order = sorted(result.curves, key=lambda row: -np.nan_to_num(result.ap[row], nan=-1.0))
    named = set(order) if len(order) <= classes else {*order[: classes // 2], *order[-((classes + 1) // 2) :]}
    for row in order:
        curve = result.curves[row]
        envelope = np.append(curve.envelope, 0.0)
        heights.append(envelope[np.searchsorted(curve.recall, levels, side="left")])
        shown = np.unique(np.linspace(0, max(len(curve.recall) - 1, 0), _DRAWN).astype(int))[: len(curve.recall)]
        label = f"{plain(result.space.names[row])} {result.ap[row]:.2f}" if row in named else None
        axes.plot(curve.recall[shown], curve.envelope[shown], lw=0.8, alpha=0.5 if label else 0.15, label=label)
    if heights:
        axes.plot(levels, np.mean(heights, axis=0), color="black", lw=2, label=f"mean {mean(result.ap):.3f}")
        axes.legend(fontsize=7, loc="lower left")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=f"{result.protocol}")
    return figure


def by_frequency(results: Mapping[str, Result], counts: NDArray[np.integer]) -> "Figure":
    """``classes_by_frequency`` of whole results.

    Args:
        results: name (a phase, a sampling rule) -> result; all in one label space.
        counts: [C] training images (or boxes) that hold a class.
    """
    return classes_by_frequency({name: class_rows(result, counts) for name, result in results.items()})


def classes_by_frequency(measured: Mapping[str, Sequence[ClassRow]]) -> "Figure":
    """Average precision a class in order of falling training count (paper 002, Fig. 5), the count as a line above.

    Args:
        measured: name (a phase, a run) -> classes, the same in each and in one order; the first's counts decide.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    classes = next(iter(measured.values()), ())
    counts = np.array([row.count for row in classes], np.int64)
    order = np.argsort(-counts, kind="stable")
    draw_counts(above, counts[order])
    means = []
    for name, rows in measured.items():
        values = np.array([np.nan if rows[n].ap is None else rows[n].ap for n in order], np.float64)
        (line,) = below.plot(values, ".", ms=4, alpha=0.6)
        means += below.plot(
            running_mean(values), color=line.get_color(), label=f"{plain(name)}, mean {mean(values):.3f}"
        )
    below.set(xlabel="class, by falling training count", ylabel="average precision", ylim=(0, 1))
    if means:
        below.legend(handles=means)
    if len(order) <= _NAMED:
        name_classes(below, [classes[row].name for row in order])
    return figure


def draw_counts(axes: "Axes", counts: NDArray[np.int64]) -> None:
    """Training counts [C] on a logarithmic scale, the head, the middle and the tail shaded and named."""
    axes.fill_between(np.arange(len(counts)), np.maximum(counts, 0.5), 0.5, step="mid", alpha=0.5, lw=0)
    axes.set(yscale="log", ylabel="training count", xlim=(-0.5, max(len(counts), 1) - 0.5))
    shade_bands(axes, counts)
    for name, (first, last) in _edges(counts).items():
        axes.text(
            (first + last) / 2, 0.97, name, transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=8
        )


def shade_bands(axes: "Axes", counts: NDArray[np.int64]) -> None:
    """Grounds of two greys for head, middle and tail; ``counts`` [C] fall."""
    for number, (first, last) in enumerate(_edges(counts).values()):
        axes.axvspan(first, last, color="black", alpha=(0.03, 0.08)[number % 2], lw=0, zorder=0)


def _edges(counts: NDArray[np.int64]) -> dict[str, tuple[float, float]]:
    """Band that has classes -> where it begins and ends on an axis of classes."""
    return {name: (rows[0] - 0.5, rows[-1] + 0.5) for name, rows in bands(counts).items() if len(rows)}


def name_classes(axes: "Axes", names: Sequence[str]) -> None:
    """The classes' names below an axis of classes, upright."""
    axes.set_xticks(range(len(names)), [plain(name, 24) for name in names], rotation=90, fontsize=7)


def running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of what is defined in a window of a tenth of the classes, NaN where nothing is."""
    width = max(3, len(values) // 10)
    kernel = np.ones(width)
    known = ~np.isnan(values)
    total = np.convolve(np.where(known, values, 0.0), kernel, "same")[: len(values)]
    count = np.convolve(known.astype(float), kernel, "same")[: len(values)]
    running: NDArray[np.float64] = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return running

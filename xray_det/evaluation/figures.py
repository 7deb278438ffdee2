"""Figures of a result. matplotlib is imported when one is drawn; the figures are returned, not shown or saved."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xray_det.evaluation.result import Result, mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Points at which a curve is drawn: more than a screen shows.
_DRAWN = 1000


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
        label = f"{result.space.names[row]} {result.ap[row]:.2f}" if row in named else None
        axes.plot(curve.recall[shown], curve.envelope[shown], lw=0.8, alpha=0.5 if label else 0.15, label=label)
    if heights:
        axes.plot(levels, np.mean(heights, axis=0), color="black", lw=2, label=f"mean {mean(result.ap):.3f}")
        axes.legend(fontsize=7, loc="lower left")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=f"{result.protocol}")
    return figure


def by_frequency(results: Mapping[str, Result], counts: NDArray[np.integer]) -> "Figure":
    """Average precision a class in order of falling training count (paper 002, Fig. 5), the count as a line above.

    Args:
        results: name (a phase, a sampling rule) -> result; all in one label space.
        counts: [C] training images (or boxes) that hold a class.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    order = np.argsort(-counts, kind="stable")
    place = np.arange(len(order))
    above.fill_between(place, np.maximum(counts[order], 0.5), 0.5, step="mid", alpha=0.5)
    above.set(yscale="log", ylabel="training count")
    for name, result in results.items():
        values = result.ap[order]
        (line,) = below.plot(place, values, ".", ms=4, alpha=0.6)
        below.plot(place, _running_mean(values), color=line.get_color(), label=f"{name}, mean {mean(values):.3f}")
    below.set(xlabel="class, by falling training count", ylabel="average precision", ylim=(0, 1))
    if results:
        below.legend()
    if len(order) <= 40:
        names = next(iter(results.values())).space.names if results else ()
        below.set_xticks(place[: len(names)], [names[row] for row in order][: len(place)], rotation=90, fontsize=7)
    return figure


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of what is defined in a window of a tenth of the classes, NaN where nothing is."""
    width = max(3, len(values) // 10)
    kernel = np.ones(width)
    known = ~np.isnan(values)
    total = np.convolve(np.where(known, values, 0.0), kernel, "same")[: len(values)]
    count = np.convolve(known.astype(float), kernel, "same")[: len(values)]
    running: NDArray[np.float64] = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return running

"""Figures of a dataset. matplotlib is imported when one is drawn; the figures are returned, not shown or saved."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xray_det.data.concurrence import IOU
from xray_det.data.counting import MOST_AN_IMAGE, Statistics
from xray_det.data.label_report import AT, LabelReport
from xray_det.data.views import Views, name_of
from xray_det.labels.concurrence import share_interval
from xray_det.labels.frequency import bands, imbalance_magnitude, ranked
from xray_det.lettering import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHADES = {"head": "tab:green", "middle": "tab:orange", "tail": "tab:red"}


def long_tail(counts: Mapping[str, NDArray[np.integer]], names: Mapping[str, Sequence[str]]) -> "Figure":
    """Images a class by rank on a logarithmic axis, a line a dataset; with one dataset its bands and some names too.

    Args:
        counts: dataset -> n_i [C].
        names: dataset -> class names [C].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for dataset, count in counts.items():
        order = ranked(count)
        rank = np.arange(1, len(order) + 1)
        says = f"{plain(dataset)}: {len(order)} classes, {imbalance_magnitude(count):,.0f} to 1"
        axes.plot(rank, count[order], "o-", lw=1.2, ms=min(4, 200 / max(len(order), 1)), label=says)
        if len(counts) == 1:
            start = 0.5
            for band, rows in bands(count).items():
                axes.axvspan(start, start + len(rows), color=_SHADES[band], alpha=0.08, lw=0)
                axes.text(
                    start + len(rows) / 2, 0.98, band, ha="center", va="top", transform=axes.get_xaxis_transform()
                )
                start += len(rows)
            for place in sorted({int(p) for p in np.linspace(0, len(order) - 1, min(len(order), 9))}):
                name, n = names[dataset][order[place]], int(count[order[place]])
                # a falling curve leaves the upper right of each point free
                axes.annotate(f"{plain(name)} {n:,}", (place + 1, n), (4, 4), textcoords="offset points", fontsize=7)
    axes.set(yscale="log", xlabel="class by rank", ylabel="images that hold the class")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:,.0f}" if f"{value:.0e}"[0] in "25" else "")
    axes.margins(y=0.15)
    longest = max([1, *(int(np.count_nonzero(count)) for count in counts.values())])
    axes.set_xlim(0.5, longest + 0.5 + (0.1 * longest if len(counts) == 1 else 0))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left" if len(counts) == 1 else "upper right", fontsize=8)
    return figure


def confusions(report: LabelReport, shown: int = 30) -> "Figure":
    """Confused pairs of classes with their rates, and parents that lack a leaf (paper 002, Fig. 3a and 3b).

    Pairs stand by the low end of their rate's 95 % interval, which is drawn, so that few objects do not come first.
    """
    from matplotlib.figure import Figure

    names, objects = [plain(name) for name in report.manifest.space.names], report.objects
    low, high = share_interval(report.counts[AT], objects[report.first])
    pairs = np.flatnonzero(~report.hierarchical & (report.counts[AT] > 0))
    pairs = pairs[np.argsort(-low[pairs], kind="stable")][:shown]
    parents = report.parents[:shown]
    figure = Figure(figsize=(13, 1.5 + 0.22 * max(len(pairs), len(parents), 5)), layout="constrained")
    figure.suptitle(f"{plain(report.manifest.name)}: classes that stand on one object (IoU of at least {IOU})")
    left, right = figure.subplots(1, 2)
    rate = report.rates[pairs]
    labels = [f"{names[report.first[p]]} → {names[report.second[p]]} ({objects[report.first[p]]:,})" for p in pairs]
    _shares(left, labels, rate)
    left.errorbar(rate, range(len(pairs)), xerr=[rate - low[pairs], high[pairs] - rate], fmt="none", ecolor="0.3", lw=1)
    left.set(xlabel="share of the objects of the first class that is also labelled the second", title="confused pairs")
    boxes = report.found.boxes[parents]
    labels = [f"{names[row]} ({number:,})" for row, number in zip(parents, boxes, strict=True)]
    _shares(right, labels, report.found.lacking[AT, parents] / boxes)
    right.set(xlabel="share of the boxes without a more specific label", title="parents without a leaf")
    return figure


def _shares(axes: Any, labels: Sequence[str], shares: NDArray[np.floating]) -> None:
    """Shares as horizontal bars, the first on top."""
    axes.barh(range(len(labels)), shares, alpha=0.7)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set(xlim=(0, 1), ylim=(max(len(labels), 1) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)


def histograms(name: str, statistics: Statistics) -> "Figure":
    """Boxes and classes an image, image sizes, box sizes in pixels and relative to the image, COCO's three areas."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    figure.suptitle(f"{plain(name)}: {int(statistics.images):,} images, {int(statistics.boxes):,} boxes")
    grid = figure.subplots(2, 3)
    _bars(grid[0, 0], statistics.boxes_an_image, "boxes an image", "images")
    _bars(grid[0, 1], statistics.classes_an_image, "classes an image", "images")
    octaves = 2.0 ** (np.arange(len(statistics.widths) + 1) / 4)
    for label, counts in (("width", statistics.widths), ("height", statistics.heights)):
        grid[0, 2].stairs(counts, octaves, label=label, lw=1.5)
    grid[0, 2].legend()
    _logarithmic(grid[0, 2], octaves, statistics.widths + statistics.heights, "image side, pixels", "images")
    grid[1, 0].stairs(statistics.box_sizes, octaves, fill=True, alpha=0.7)
    _logarithmic(grid[1, 0], octaves, statistics.box_sizes, "sqrt(box area), pixels", "boxes")
    hundredths = np.arange(len(statistics.relative_sizes) + 1) / 100
    grid[1, 1].stairs(statistics.relative_sizes, hundredths, fill=True, alpha=0.7)
    grid[1, 1].set(xlabel="sqrt(box area / image area)", ylabel="boxes", xlim=(0, 1))
    grid[1, 2].bar(["small\n< 32²", "medium\n< 96²", "large"], statistics.coco_areas, alpha=0.7)
    grid[1, 2].set(xlabel="object area, pixels", ylabel="boxes")
    for axes in grid.flat:
        axes.grid(alpha=0.3)
    return figure


def sampling_views(name: str, views: Views) -> "Figure":
    """By rank of the class, a line a sampling rule: images drawn of it in an epoch, and how often one image is seen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    figure.suptitle(f"{plain(name)}: an epoch under each sampling rule")
    order = ranked(views.image_counts)
    rank = np.arange(1, len(order) + 1)
    labels = ("images drawn that hold the class", "views of an image of the class")
    for axes, values, label in zip(figure.subplots(1, 2), (views.exposure, views.views), labels, strict=True):
        for rule, line in zip(views.rules, values[:, order], strict=True):
            axes.plot(rank, line, "o-", lw=1.2, ms=min(4, 200 / max(len(order), 1)), label=name_of(rule))
        axes.set(xscale="log", yscale="log", xlabel="class by rank", ylabel=label)
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _bars(axes: Any, counts: NDArray[np.integer], label: str, of: str) -> None:
    shown = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 1
    axes.bar(np.arange(shown), counts[:shown], width=1.0, alpha=0.7)
    axes.set(xlabel=label + (f" ({MOST_AN_IMAGE}: or more)" if shown > MOST_AN_IMAGE else ""), ylabel=of)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _logarithmic(axes: Any, edges: NDArray[np.floating], counts: NDArray[np.integer], label: str, of: str) -> None:
    """A logarithmic axis over the bins in use, marked in powers of two."""
    used = np.flatnonzero(counts)
    low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
    axes.set(xscale="log", xlabel=label, ylabel=of, xlim=(edges[low] / 1.1, edges[high] * 1.1))
    powers = [2**k for k in range(32) if edges[low] / 1.1 <= 2**k <= edges[high] * 1.1]
    axes.set_xticks(powers, [str(p) for p in powers])
    axes.set_xticks([], minor=True)

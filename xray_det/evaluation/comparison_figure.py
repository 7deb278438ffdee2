"""One sheet of figures for a comparison: bands and cost of every variant, then its differences class by class.

Variants are numbered, 1 is the baseline; the numbers are those of the tables beside the sheet. With up to four
variants each has bars of its own; with more, a heat map has a row for each.
"""

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from xray_det.evaluation.comparison import COLUMNS, Comparison, Table
from xray_det.evaluation.figures import draw_counts, name_classes, running_mean, shade_bands
from xray_det.evaluation.variants import short_names
from xray_det.lettering import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

#: More variants than this share a heat map.
BARS: Final = 4
#: More classes than this have no room for their names.
NAMED_CLASSES: Final = 70
WIDTH: Final = 13.0  # inches
# Told apart by any eyes: blue rises, orange falls.
BASE, OTHER, ROSE, FELL = "#555555", "#4c78a8", "#1f6fb4", "#d95f02"


def sheet(comparison: Comparison) -> "Figure":
    """All of a comparison on one page; values in percent, differences in points."""
    from matplotlib.figure import Figure

    heights = [1.5 + 0.27 * len(comparison.variants)]
    heights[0] = max(heights[0], 3.0)
    heights += [_height(comparison, table) for table in comparison.tables.values()]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _overall(parts[0], comparison)
    for part, (key, table) in zip(parts[1:], comparison.tables.items(), strict=True):
        title = f"{plain(key)}: AP minus that of 1, {plain(comparison.variants[0].label)}, in points"
        part.suptitle(title, fontsize=11, x=0.01, ha="left", weight="bold")
        draw = _bars if len(comparison.variants) <= BARS else _heat_map
        draw(part, comparison, table)
    return figure


def _height(comparison: Comparison, table: Table) -> float:
    """Inches of one set's part."""
    variants = len(comparison.variants)
    names = 1.1 if len(table.names) <= NAMED_CLASSES else 0.2
    return 1.5 + names + (1.7 * (variants - 1) if variants <= BARS else 0.4 + _rows(variants))


def _rows(variants: int) -> float:
    """Inches of a heat map."""
    return max(0.24 * (variants - 1), 1.4)


def _overall(part: "SubFigure", comparison: Comparison) -> None:
    """Bars of AP, head, middle and tail, a row a variant, and cost against AP."""
    variants = comparison.variants
    sets = ", ".join(plain(key) for key in comparison.headline)
    means_of = "the mean of " if len(comparison.headline) > 1 else ""
    part.suptitle(f"AP in percent, {means_of}{sets}", fontsize=11, x=0.01, ha="left", weight="bold")
    axes = part.subplots(1, 5, width_ratios=(1, 1, 1, 1, 1.45))
    spreads = [comparison.spreads(number) for number in range(len(variants))]
    rows = np.arange(len(variants))
    highest = max([s[name].high for s in spreads for name in COLUMNS if s[name].high == s[name].high], default=0.01)
    for column, (name, panel) in enumerate(zip(COLUMNS, axes[:4], strict=True)):
        means, lows, highs = (
            100 * np.array([getattr(s[name], kind) for s in spreads]) for kind in ("mean", "low", "high")
        )
        panel.barh(rows, means, color=[BASE, *[OTHER] * (len(rows) - 1)], height=0.72)
        several = highs > lows
        reach = [(means - lows)[several], (highs - means)[several]]
        panel.errorbar(means[several], rows[several], xerr=reach, fmt="none", ecolor="black", capsize=2, lw=1)
        panel.axvline(means[0], color=BASE, lw=0.8, ls=":")
        for row, value, end in zip(rows, means, highs, strict=True):
            if value == value:
                panel.text(end + 1.5 * highest, row, f"{value:.1f}", va="center", fontsize=8)
        panel.set(title=name, xlim=(0, 122 * highest), ylim=(len(rows) - 0.5, -0.5))
        panel.title.set_fontsize(10)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_yticks(rows if column == 0 else [], captions(comparison) if column == 0 else [], fontsize=8)
    _cost(axes[4], comparison, [s["AP"].mean for s in spreads])


def _cost(axes: "Axes", comparison: Comparison, values: list[float]) -> None:
    """Hours against AP, each variant at its number."""
    costs = [variant.cost for variant in comparison.variants]
    known = [n for n, cost in enumerate(costs) if cost is not None and values[n] == values[n]]
    gpu = [costs[n].gpu_hours > 0 for n in known]  # type: ignore[union-attr]
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    if not known or any(gpu) != all(gpu):
        text = "some used GPUs, some none" if known else "not kept of these runs"
        axes.text(0.5, 0.5, f"cost: {text}", ha="center", va="center", fontsize=9, color="gray")
        axes.set(xticks=[], yticks=[])
        return
    unit = "gpu_hours" if any(gpu) else "cpu_hours"
    hours = np.array([getattr(costs[n], unit) for n in known])
    heights = 100 * np.array([values[n] for n in known])
    axes.plot(hours, heights, "o", ms=14, mfc="white", mec=OTHER, alpha=0.85)
    for n, x, y in zip(known, hours, heights, strict=True):
        axes.text(x, y, str(n + 1), ha="center", va="center", fontsize=8, color=BASE if n == 0 else "black")
    axes.set_title(f"AP against {'GPU' if any(gpu) else 'CPU'} hours of a run", fontsize=10)
    axes.margins(y=0.15)
    axes.set_xlim(0, 1.12 * max(hours.max(), 1e-9))
    axes.grid(alpha=0.25)


def _bars(part: "SubFigure", comparison: Comparison, table: Table) -> None:
    """Training counts above, then a panel of bars a variant."""
    variants = comparison.variants
    panels = part.subplots(len(variants), 1, sharex=True, height_ratios=(0.75, *[1.7] * (len(variants) - 1)))
    draw_counts(panels[0], table.counts)
    panels[0].set_ylabel("trained", fontsize=8)
    panels[0].tick_params(labelsize=7)
    found = [table.against(number) for number in range(1, len(variants))]
    largest = _largest([against.difference for against in found], 1.0)
    for number, (panel, against) in enumerate(zip(panels[1:], found, strict=True), start=1):
        points = 100 * against.difference
        place = np.arange(len(points))
        shade_bands(panel, table.counts)
        panel.bar(place, np.nan_to_num(points), width=0.85, color=np.where(points >= 0, ROSE, FELL), lw=0)
        panel.plot(place, running_mean(points), color="black", lw=1.4)
        panel.axhline(0, color="black", lw=0.6)
        panel.set(ylim=(-1.08 * largest, 1.08 * largest))
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        title = f"{number + 1}  {plain(variants[number].label, 60)}"
        panel.set_title(f"{title}: {against.rose} rose, {against.fell} fell", fontsize=9, loc="left")
    _name(panels[-1], table)


def _heat_map(part: "SubFigure", comparison: Comparison, table: Table) -> None:
    """Training counts above, then a row a variant, a column a class; grey where there is no truth."""
    from matplotlib.colors import LinearSegmentedColormap

    variants = comparison.variants
    above, below = part.subplots(2, 1, sharex=True, height_ratios=(0.7, _rows(len(variants))))
    draw_counts(above, table.counts)
    above.set_ylabel("trained", fontsize=8)
    above.tick_params(labelsize=7)
    points = 100 * (table.mean[1:] - table.mean[0])
    largest = _largest([points / 100], 0.99)
    colours = LinearSegmentedColormap.from_list("change", [FELL, "#f9f9f9", ROSE]).with_extremes(bad="#cccccc")
    shown: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest", "vmin": -largest, "vmax": largest}
    image = below.imshow(np.ma.masked_invalid(points), cmap=colours, **shown)
    below.set_yticks(range(len(points)), captions(comparison)[1:], fontsize=8)
    for band in table.bands.values():
        if 0 < band.stop < len(table.names):
            below.axvline(band.stop - 0.5, color="black", lw=0.8)
    bar = part.colorbar(image, ax=[above, below], fraction=0.02, pad=0.01, extend="both")
    bar.ax.tick_params(labelsize=8)
    _name(below, table)


def _name(axes: "Axes", table: Table) -> None:
    """The lowest axis of classes: their names where there is room."""
    if len(table.names) <= NAMED_CLASSES:
        name_classes(axes, table.names)
    else:
        axes.set_xlabel(f"{len(table.names)} classes by falling training count", fontsize=9)


def captions(comparison: Comparison) -> list[str]:
    """A line beside the axis for each variant: what it is called, what it has changed, its number."""
    short = short_names(dict.fromkeys(path for variant in comparison.variants for path in variant.changes))
    lines = []
    for number, variant in enumerate(comparison.variants, start=1):
        changes = ", ".join(f"{short[path]}={value}" for path, value in variant.changes.items())
        lines.append(f"{plain(variant.label, 28)}{f' ({plain(changes, 26)})' if changes else ''}  {number}")
    return lines


def _largest(differences: list[NDArray[np.float64]], share: float) -> float:
    """Points at the end of a symmetric scale that holds this share of the differences."""
    sizes = np.abs(np.concatenate([d.ravel() for d in differences]))
    sizes = sizes[~np.isnan(sizes)]
    return max(100 * float(np.quantile(sizes, share)), 1.0) if len(sizes) else 1.0

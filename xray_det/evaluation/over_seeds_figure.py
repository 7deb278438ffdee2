"""A figure of arms over seeds: a panel a metric, a row an arm."""

from typing import TYPE_CHECKING, Final

from xray_det.lettering import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from xray_det.evaluation.over_seeds import OverSeeds

#: Panels beside one another.
COLUMNS: Final = 4


def sheet(found: "OverSeeds") -> "Figure":
    """Every seed a small dot, in percent, and the mean over them a large one; the first arm's mean is a line.

    The ground beside the line is as wide as the spread of a difference: what lies there is not told from the first arm.
    """
    from matplotlib.figure import Figure

    arms, seeds, metrics = found.values.shape
    columns = min(COLUMNS, metrics)
    lines = -(-metrics // columns)
    figure = Figure(figsize=(2.2 + 2.0 * columns, lines * (0.7 + 0.22 * arms)), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    for number, panel in enumerate(panels):
        panel.set_visible(number < metrics)
    for number, metric in enumerate(found.metrics):
        panel, values = panels[number], 100 * found.values[..., number]
        first, spread = 100 * found.mean(metric, found.arms[0]), 100 * found.spread(metric)
        if spread == spread:
            panel.axvspan(first - spread, first + spread, color="black", alpha=0.08, lw=0)
        panel.axvline(first, color="black", lw=0.8, ls=":")
        for row, of_seeds in enumerate(values):
            panel.plot(of_seeds, [row] * seeds, ".", ms=4, alpha=0.6, color="#4c78a8")
        panel.plot(100 * found.means[:, number], range(arms), "o", ms=5, color="#1f3f6f")
        panel.set_title(plain(metric), fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", lw=0.4, alpha=0.5)
    panels[0].set_yticks(range(arms), [plain(arm, 48) for arm in found.arms])
    panels[0].set_ylim(arms - 0.5, -0.5)
    return figure

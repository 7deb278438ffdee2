"""Figures of a sweep: the metric over a swept value, the course of each training, the classes under each value."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xray_det import storage
from xray_det.evaluation.comparison import headline
from xray_det.evaluation.figures import classes_by_frequency
from xray_det.evaluation.measured import Measured
from xray_det.labels.frequency import BANDS
from xray_det.lettering import plain
from xray_det.orchestrate.results import Row
from xray_det.orchestrate.run_folder import EXPERIMENT, RunFolder
from xray_det.orchestrate.validation import on_the_way, read_measured

#: So many values have a line of their own in a figure; of more so many are drawn, from the least to the greatest.
_LINES = 10


def figures(rows: Sequence[Row], metric: str) -> dict[str, Figure]:
    """Name -> figure, of what the rows give: ``by_PATH`` for each swept number; where one field alone was swept,
    ``curves`` (paper 002, Fig. 4) and ``classes_DATASET_PROTOCOL`` (Fig. 5) of its values, for each rung that at least
    two have finished: those of a shorter schedule end in ``_SHARE``. (A population's earlier generations are no
    schedules of their own, and have none.)"""
    paths = dict.fromkeys(path for row in rows for path in row.values)
    drawn = {f"by_{path}": figure for path in paths if (figure := by_value(rows, path, metric)) is not None}
    if len(paths) != 1:
        return drawn
    (path,) = paths
    scored = [row for row in rows if _scored(row)]
    phases = [len(_phases(row)) for row in scored]
    whole = [row for row, count in zip(scored, phases, strict=True) if count == max(phases)]
    for share in sorted({row.share for row in whole}, reverse=True):
        ended = [row for row in whole if row.share == share]
        arms: dict[str, Row] = {}
        for row in _some(sorted(ended, key=lambda row: _order(row, path))):
            name = _named(path, row)
            arms[f"{name} ({row.arm})" if name in arms else name] = row
        if len(arms) < 2:
            continue
        found = classes(arms)
        if (figure := curves(arms, metric)) is not None:
            found["curves"] = figure
        drawn |= {name if share == 1 else f"{name}_{share:g}": figure for name, figure in found.items()}
    return drawn


def by_value(rows: Sequence[Row], path: str, metric: str) -> Figure | None:
    """The metric, and AP of each band where there is one, over the values of one field; a line a rung, a dot a
    training. None where the values are no numbers or there is one only."""
    numbers = [row for row in rows if _scored(row) and isinstance(row.values.get(path), int | float)]
    if len({row.values[path] for row in numbers}) < 2:
        return None
    names = _metrics(metric, [row.metrics for row in numbers])
    figure, panels = _panels(names)
    for axes, name in zip(panels, names, strict=True):
        for share in sorted({row.share for row in numbers}):
            points = [(row.values[path], row.metrics.get(name, math.nan)) for row in numbers if row.share == share]
            xs = sorted({x for x, _ in points})
            means = [_mean([y for at, y in points if at == x]) for x in xs]
            line = axes.plot(xs, means, label=f"{share:g} of the schedule")[0]
            axes.plot(*zip(*points, strict=True), "o", color=line.get_color(), markersize=4)
        axes.set_xlabel(plain(path.rsplit(".", 1)[-1]))
    if len({row.share for row in numbers}) > 1:
        panels[-1].legend(fontsize="small")
    return figure


def curves(arms: Mapping[str, Row], metric: str) -> Figure | None:
    """The metric, and AP of each band, after every measured epoch; dashed where the learning rate drops. None where
    nothing was measured but the phases' ends."""
    measured = {name: course(row) for name, row in arms.items()}
    first = next(iter(arms.values()))
    phases, lengths = _phases(first), _epochs(first)
    if max(len(points) for points in measured.values()) <= len(phases):
        return None
    names = _metrics(metric, [points[max(points)] for points in measured.values()])
    figure, panels = _panels(names)
    for axes, name in zip(panels, names, strict=True):
        for colour, (arm, points) in zip(_colours(len(arms)), measured.items(), strict=True):
            xs = sorted(points)
            axes.plot(xs, [points[at].get(name, math.nan) for at in xs], ".-", color=colour, label=plain(arm))
        begun = 0.0
        for phase, epochs in zip(phases, lengths, strict=True):
            for drop in phase["drops"] if epochs else ():
                axes.axvline(begun + drop * epochs / _length(phase), color="black", ls="--", lw=0.8)
            begun += epochs
        axes.set_xlabel("epochs")
    panels[-1].legend(fontsize="small")
    return figure


def course(row: Row) -> dict[float, Mapping[str, float]]:
    """Epochs of all phases -> what was measured of a training then; of phases that another run made, at their ends."""
    folder = RunFolder(uri=row.folder, fingerprint="")
    result = folder.finished()
    points: dict[float, Mapping[str, float]] = {}
    begun = 0.0
    for number, epochs in enumerate(_epochs(row)):
        points |= {begun + epoch: at for epoch, at in on_the_way(folder, number).items()}
        begun += epochs
        if result is not None and result.validations[number]:
            points[begun] = result.validations[number]
    return points


def classes(arms: Mapping[str, Row]) -> dict[str, Figure]:
    """For each dataset, by its publishers' protocol, AP a class in order of training frequency, a line an arm."""
    last: dict[str, Measured] = {}
    for name, row in arms.items():
        address = RunFolder(uri=row.folder, fingerprint="").validation(len(_phases(row)) - 1)
        if (found := read_measured(address)) is not None:
            last[name] = found
    keys = headline(dict.fromkeys(key for found in last.values() for key in found.classes))
    return {
        f"classes_{key.replace('/', '_')}": classes_by_frequency(
            {name: found.classes[key] for name, found in last.items() if key in found.classes}
        )
        for key in keys
    }


def _phases(row: Row) -> list[dict[str, Any]]:
    """The phases of a training, as JSON."""
    phases: list[dict[str, Any]] = storage.read_json(storage.join(row.folder, EXPERIMENT))["experiment"]["phases"]
    return phases


def _length(phase: Mapping[str, Any]) -> float:
    """Of a phase as JSON, in its own unit."""
    return float(phase.get("iterations") or phase["epochs"] or 1)


def _epochs(row: Row) -> list[float]:
    """Of each phase. How many those of iterations make was written where they were measured, in the run that made
    them; of another run's phase it is not known here and counts as none."""
    folder = RunFolder(uri=row.folder, fingerprint="")
    return [
        max(on_the_way(folder, number), default=0.0) if phase.get("iterations") else _length(phase)
        for number, phase in enumerate(_phases(row))
    ]


def _scored(row: Row) -> bool:
    return row.score is not None and math.isfinite(row.score)


def _some(rows: Sequence[Row]) -> list[Row]:
    """At most _LINES of them, the first and the last among these."""
    count = min(len(rows), _LINES)
    return [rows[n * (len(rows) - 1) // max(count - 1, 1)] for n in range(count)]


def _named(path: str, row: Row) -> str:
    value = row.values[path]
    return f"{path.rsplit('.', 1)[-1]} {float(f'{value:.4g}') if isinstance(value, float) else value}"


def _order(row: Row, path: str) -> tuple[bool, Any]:
    """Numbers rising, then texts."""
    value = row.values[path]
    number = isinstance(value, int | float)
    return not number, value if number else str(value)


def _metrics(metric: str, found: Sequence[Mapping[str, float]]) -> list[str]:
    return [metric, *(f"val/AP_{band}" for band in BANDS if any(f"val/AP_{band}" in of for of in found))]


def _panels(names: Sequence[str]) -> tuple[Figure, Sequence[Axes]]:
    """A panel a metric, side by side."""
    figure = Figure(figsize=(3.2 * len(names), 3.2), layout="constrained")
    panels = figure.subplots(1, len(names), sharex=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        axes.set_title(plain(name.removeprefix("val/")))
        axes.grid(alpha=0.3)
    return figure, panels


def _colours(count: int) -> list[Any]:
    return [colormaps["viridis"](0.93 * number / max(count - 1, 1)) for number in range(count)]


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan

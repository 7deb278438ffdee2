"""What the trainings of a sweep came to: rows read from the run folders; a table, figures and metrics of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs
from matplotlib.figure import Figure
from rich.table import Table

from xray_det import storage
from xray_det.orchestrate.run_folder import FINISHED, RunFolder
from xray_det.tracking.tracker import Tracker

#: In a training's folder: which one of the sweep it is, and why it ended without a result.
ARM, ENDED = "arm.json", "ended.json"
#: In the sweep's folder, written last.
RESULTS = "results.json"
BANDS = ("head", "middle", "tail")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training of a sweep.

    Attributes:
        arm: the arm's name, ``values`` what it stands for.
        rung: which of the sweep's schedules, ``share`` how much of the full one that is.
        score: of the last validation; None where the training has not finished, minus infinity where it cannot.
        metrics: all of that validation.
        reason: why there is no result; empty where there is one.
        cost: CPU and GPU hours.
        folder: of the run; ``weights`` its last ones.
    """

    arm: str
    values: Mapping[str, Any]
    rung: int
    share: float
    score: float | None
    metrics: Mapping[str, float]
    reason: str
    cost: Mapping[str, float]
    folder: str
    weights: str

    @property
    def flat(self) -> dict[str, Any]:
        """As a line of a table."""
        summary = {name: value for name, value in self.metrics.items() if name.count("/") < 2}
        told = {"arm": self.arm, **self.values, "share": self.share, "score": self.score, **summary, **self.cost}
        return {**told, "reason": self.reason, "weights": self.weights}


def begin_row(folder: str, *, arm: str, values: Mapping[str, Any], rung: int, share: float) -> None:
    """Note in a training's folder which one of the sweep it is."""
    storage.write_json(storage.join(folder, ARM), {"arm": arm, "values": dict(values), "rung": rung, "share": share})


def read_rows(sweep_folder: str, metric: str) -> tuple[Row, ...]:
    """A row for each training below SWEEP/ARM that has begun: the longest schedules first, then the best."""
    rows = []
    for arm in _folders(sweep_folder):
        for name in _folders(storage.join(sweep_folder, arm)):
            folder = storage.join(sweep_folder, arm, name)
            if storage.exists(storage.join(folder, ARM)):
                rows.append(_row(folder, metric))
    return tuple(sorted(rows, key=lambda row: (-row.rung, math.inf if row.score is None else -row.score, row.arm)))


def _row(folder: str, metric: str) -> Row:
    said = storage.read_json(storage.join(folder, ARM))
    ended, score, reason = storage.join(folder, ENDED), None, "not finished"
    result = (
        RunFolder(uri=folder, fingerprint="").finished() if storage.exists(storage.join(folder, FINISHED)) else None
    )
    if result is not None:
        score, reason = result.validations[-1].get(metric), ""
    elif storage.exists(ended):
        score, reason = -math.inf, storage.read_json(ended)["reason"]
    return Row(
        **said,
        score=score,
        metrics=result.validations[-1] if result else {},
        reason=reason,
        cost=result.cost if result else {},
        folder=folder,
        weights=result.weights if result else "",
    )


def _folders(uri: str) -> list[str]:
    fs, path = storage.locate(uri)
    found = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)


def write_results(folder: str, rows: Sequence[Row], tracker: Tracker, metric: str) -> None:
    """The sweep's run gets the table, the figures, and the numbers of the best arm."""
    tracker.table("results", [row.flat for row in rows])
    for path in dict.fromkeys(path for row in rows for path in row.values):
        if (figure := by_value(rows, path, metric)) is not None:
            tracker.figure(f"by_{path}.png", figure)
    best = rows[0]
    tracker.log(best.metrics, step=len(rows))
    tracker.tags({"best.arm": best.arm, "weights.best": best.weights})
    storage.write_json(storage.join(folder, RESULTS), [row.flat for row in rows])


def by_value(rows: Sequence[Row], path: str, metric: str) -> Figure | None:
    """The metric, and AP of each band where there is one, over the values of one field; a line a rung, a dot a
    training. None where the values are no numbers or there is one only."""
    scored = [row for row in rows if row.score is not None and math.isfinite(row.score)]
    numbers = [row for row in scored if isinstance(row.values.get(path), int | float)]
    if len({row.values[path] for row in numbers}) < 2:
        return None
    names = [metric, *(f"val/AP_{band}" for band in BANDS if any(f"val/AP_{band}" in row.metrics for row in numbers))]
    figure = Figure(figsize=(3.2 * len(names), 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), sharex=True, squeeze=False)[0], names, strict=True):
        for share in sorted({row.share for row in numbers}):
            points = [(row.values[path], row.metrics.get(name, math.nan)) for row in numbers if row.share == share]
            xs = sorted({x for x, _ in points})
            means = [_mean([y for at, y in points if at == x]) for x in xs]
            line = axes.plot(xs, means, label=f"{share:g} of the schedule")[0]
            axes.plot(*zip(*points, strict=True), "o", color=line.get_color(), markersize=4)
        axes.set_title(name.removeprefix("val/"))
        axes.set_xlabel(path.rsplit(".", 1)[-1])
        axes.grid(alpha=0.3)
    if len({row.share for row in numbers}) > 1:
        axes.legend(fontsize="small")
    return figure


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def results_table(rows: Sequence[Row], title: str) -> Table:
    """The rows to be printed."""
    paths = list(dict.fromkeys(path for row in rows for path in row.values))
    table = Table("arm", "share", "score", *BANDS, "CPU h", "GPU h", "", title=title)
    for column in table.columns[1:8]:
        column.justify = "right"
    for row in rows:
        bands = [_percent(row.metrics.get(f"val/AP_{band}")) for band in BANDS]
        cost = [f"{row.cost[name]:.2f}" if name in row.cost else "-" for name in ("cpu_hours", "gpu_hours")]
        name = ", ".join(f"{path.rsplit('.', 1)[-1]}={row.values.get(path)}" for path in paths)
        table.add_row(name, f"{row.share:g}", _percent(row.score), *bands, *cost, row.reason)
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"

"""What the trainings of a sweep came to: rows read from the run folders, and a table of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs

from xray_det import storage
from xray_det.display import Table
from xray_det.labels.frequency import BANDS
from xray_det.orchestrate.run_folder import FINISHED, RunFolder

#: In a training's folder: which one of the sweep it is, and why it ended without a result.
ARM, ENDED = "arm.json", "ended.json"
#: In the sweep's folder, written last.
RESULTS = "results.json"


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

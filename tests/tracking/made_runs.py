"""Run folders as a training leaves them, written by hand, for tests that read runs back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xray_det import storage

#: name, training count, AP a validation (None: no truth)
Row = tuple[str, int, float | None]


def write_run(
    folder: Path,
    classes: Mapping[str, Sequence[Row]],
    *,
    lam: float = 0.0,
    seed: int = 0,
    step: int = 100,
    cost: Mapping[str, float] | None = None,
    finished: bool = True,
) -> str:
    """One run; ``classes``: DATASET/PROTOCOL -> rows. Its folder."""
    experiment = {
        "name": folder.name,
        "seed": seed,
        "log_every": len(folder.name),
        "phases": [{"epochs": 3}, {"epochs": 2, "sampling": {"type": "SoftBalance", "lam": lam}}],
    }
    storage.write_json(
        folder / "experiment.json", {"experiment": experiment, "datasets": {"d": "f0"}, "fingerprint": ""}
    )
    write_validation(folder, 1, 2, step, classes)
    if finished:
        storage.write_json(folder / "finished.json", {"steps": step, "cost": dict(cost or {})})
    return str(folder)


def write_validation(folder: Path, phase: int, epoch: int, step: int, classes: Mapping[str, Sequence[Row]]) -> None:
    rows = {key: [{"name": n, "count": c, "ap": ap} for n, c, ap in found] for key, found in classes.items()}
    value: dict[str, Any] = {"phase": phase, "epoch": epoch, "step": step, "metrics": {}, "classes": rows}
    storage.write_json(folder / "validations" / f"phase-{phase}-epoch-{epoch}.json", value)

"""The benchmark of the losses runs, and names every loss with a ratio."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_it_prints_a_ratio_for_every_loss() -> None:
    script = ROOT / "experiments/benchmarks/classification_losses.py"
    command = [sys.executable, str(script), "--classes", "5", "--rows", "16", "--scale", "0.01", "--no-step"]
    shown = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "120"}
    ).stdout
    for name in ("concurrent softmax", "softmax", "effective number", "Seesaw", "federated", "EQL v2"):
        assert shown.count(f"│ {name} ") == 4

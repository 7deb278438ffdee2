"""A sweep from the command line on a real, small dataset, and the comparison of what it found."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from xray_det import storage

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "orchestrate"))
from made_dataset import write_dataset  # noqa: E402

SETTINGS = [
    "model.backbone.name=mobilenet_v3_small",
    "model.levels=3,5",
    "model.channels=16",
    "model.head_layers=1",
    "augmentation.short_side=64",
    "augmentation.max_side=64",
    "batch=4",
    "device=cpu",
    "phases.0.lr=0.005",
    "phases.0.clip=1",
    "phases.1.lr=0.002",
    "phases.1.clip=1",
    "phases.1.epochs=2",
]


def run(script: str, *arguments: str, home: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / script), *arguments],
        env={**environment, "XRAY_DET_HOME": str(home), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_and_its_comparison(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "squares")
    told = [data, "--val", data, "--run", "lams", "--lam", "0", "0.7", "--rungs", "0.5", "1", "--set", *SETTINGS]
    said = run("sweep_lambda.py", *told, home=tmp_path)
    rows = storage.read_json(tmp_path / "runs" / "lams" / "results.json")
    assert {(row["phases.1.sampling.lam"], row["share"]) for row in rows} >= {(0.0, 0.5), (0.7, 0.5)}
    assert {"lam=0.0", "lam=0.7"} <= {word.strip() for line in said.splitlines() for word in line.split("│")}
    # again: what was found, at once
    again = run("sweep_lambda.py", *told, home=tmp_path)
    assert again.splitlines()[-3:] == said.splitlines()[-3:]
    # compared, and the report is at the sweep's run
    report = run("compare.py", str(tmp_path / "runs" / "lams"), "--out", str(tmp_path / "report"), home=tmp_path)
    assert "phases.1.sampling.lam" in report
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("sweep_lambda").experiment_id])
    (parent,) = [found for found in runs if "mlflow.parentRunId" not in found.data.tags]
    assert {item.path for item in client.list_artifacts(parent.info.run_id, "compare")} >= {"compare/report.html"}

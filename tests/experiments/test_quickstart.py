"""The demo, as `make demo` runs it: every step leaves what it promises, and a second call answers at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def quickstart(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"XRAY_DET_HOME": str(home)}
    command = [sys.executable, "experiments/quickstart.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_demo(tmp_path: Path) -> None:
    done = quickstart(tmp_path)
    print(done.stdout[-4000:])
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "PlacementGroupCleaner" not in done.stdout + done.stderr  # it warns where there is no dashboard

    # the repair report names every planted kind
    (miniature,) = tmp_path.glob("miniature-*")
    planted = json.loads((miniature / "miniature.json").read_text())["planted"]
    for release, kinds in planted.items():
        manifest = json.loads((miniature / "shards" / release / "manifest.json").read_text())
        found = {**manifest["repaired"], **manifest["quarantined"]}
        assert {kind: found[kind] for kind in kinds} == kinds
        assert all(kind in done.stdout for kind in kinds)

    run = tmp_path / "runs" / "quickstart"
    result = json.loads((run / "result.json").read_text())
    assert (run / "data" / "long_tail.png").stat().st_size > 10_000
    pictures = {path.name for path in (run / "pictures").iterdir()}
    assert {
        "0.png",
        "1.png",
        "by_frequency_objects365_coco.png",
        "by_frequency_open_images_open_images.png",
    } <= pictures
    assert (Path(result["weights"]) / "model.safetensors").exists()
    rows = {(row["phase"], row["dataset"], row["protocol"]): row for row in result["rows"]}
    assert set(rows) == {
        (phase, *what)
        for phase in (1, 2)
        for what in (("objects365", "coco"), ("open_images", "coco"), ("open_images", "open_images"))
    }
    # it has learnt something, and the tail rises from the natural phase to the balanced one
    first, second = (rows[phase, "open_images", "open_images"] for phase in (1, 2))
    assert second["mAP"] > 0.2
    assert second["AP_tail"] > first["AP_tail"]

    # MLflow has the run, finished, with the measured points
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("quickstart")
    assert experiment is not None
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    points = client.get_metric_history(tracked.info.run_id, "val/open_images/open_images/AP_tail")
    assert sorted(point.value for point in points) == sorted([first["AP_tail"], second["AP_tail"]])

    # finished: the same command prints the result again, another configuration is refused with the difference
    again = quickstart(tmp_path)
    assert again.returncode == 0
    assert again.stdout.splitlines()[-12:] == done.stdout.splitlines()[-12:]
    other = quickstart(tmp_path, "--seed", "1")
    assert other.returncode != 0
    assert "experiment.seed: 0 -> 1" in other.stderr

"""Runs that ended while MLflow was away are sent later."""

from pathlib import Path

import pytest

from xray_det.tracking.resend import Args, main, resend, send_left
from xray_det.tracking.tracker import Tracker


@pytest.mark.medium
def test_what_a_sweeps_runs_had_left_is_sent_at_its_end(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri, runs = f"sqlite:///{tmp_path}/mlflow.db", [str(tmp_path / name) for name in ("a", "b")]
    for run in runs:
        tracker = Tracker(run, experiment="e", name="n", uri=uri, system_metrics_s=0, wait=False)
        tracker.log({"loss": 1.0}, 1)
        assert tracker.finish(patience_s=0.1) > 0
    assert send_left(runs, "http://127.0.0.1:1", patience_s=0.1) == runs
    assert send_left(runs, "off") == []
    assert send_left(runs, uri) == []
    client = MlflowClient(tracking_uri=uri)
    (experiment,) = client.search_experiments(filter_string="name = 'e'")
    found = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["run_folder"] for run in found) == runs
    assert {run.info.status for run in found} == {"FINISHED"}


def test_a_run_that_is_tracked_nowhere_has_nothing_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "a")
    with Tracker(run, experiment="e", name="n", uri="off", system_metrics_s=0) as tracker:
        tracker.log({"loss": 1.0}, 1)
    assert resend(run) == 0
    # who asks for it is told why nothing happens
    assert main(Args(run_folders=(run,))) == 1
    assert "was tracked by journal only (uri off). Give --uri ADDRESS" in capsys.readouterr().err

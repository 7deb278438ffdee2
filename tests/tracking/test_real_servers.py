"""Tracking through MLflow's server on PostgreSQL and S3, as a team runs it, while parts of that are away."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from servers.mlflow_server import MlflowServer
from servers.object_store import ObjectStore, stored
from servers.postgres import PASSWORD, Postgres

from xray_det.errors import InputError
from xray_det.tracking.journal import Journal
from xray_det.tracking.outbox import Outbox
from xray_det.tracking.tracker import Tracker

pytestmark = pytest.mark.slow

SECONDS_AWAY = 10.0


class Training(threading.Thread):
    """Logs steps until it is told to stop, as a worker does."""

    def __init__(self, run: str) -> None:
        super().__init__(daemon=True)
        self.steps, self.longest_s = 0, 0.0
        self._run, self._stop_now = run, threading.Event()
        self.start()

    def run(self) -> None:
        with Journal(self._run, "rank0") as journal:
            while not self._stop_now.wait(0.02):
                began = time.perf_counter()
                journal.log({"train/loss": 1 / (self.steps + 1), "lr": 0.1, "train/box": float(self.steps)}, self.steps)
                self.longest_s = max(self.longest_s, time.perf_counter() - began)
                self.steps += 1

    def stop(self) -> None:
        self._stop_now.set()
        self.join()


def test_nothing_is_lost_or_doubled_while_server_and_object_store_are_away(
    mlflow_server: MlflowServer, postgres: Postgres, s3: ObjectStore, tmp_path: Path
) -> None:
    """A parent and two children, one run folder on S3; the server is gone for 10 s, then the store refuses for 10 s."""
    from mlflow.tracking import MlflowClient

    uri, bucket = mlflow_server.uri, s3.new_bucket()
    folders = [str(tmp_path / "sweep"), f"{bucket}/runs/trial-0", str(tmp_path / "trial-1")]
    parent = Tracker(folders[0], experiment="away", name="sweep", uri=uri, system_metrics_s=0)
    children = [
        Tracker(folder, experiment="away", name=f"trial-{i}", uri=uri, system_metrics_s=0, parent_folder=folders[0],
                wait=False)
        for i, folder in enumerate(folders[1:])
    ]  # fmt: skip
    params = {f"phases.{i}.sampling.lam": i / 10 for i in range(250)}
    parent.params(params)
    trainings = [Training(folder) for folder in folders[1:]]
    for child in children:
        child.ready()

    mlflow_server.kill()  # with requests on their way
    time.sleep(SECONDS_AWAY)
    mlflow_server.start()
    deadline = time.monotonic() + 60
    while Outbox(folders[2], uri).left() > 200:  # the sender has noticed
        assert time.monotonic() < deadline
        time.sleep(0.5)

    picture = os.urandom(20_000_000)
    s3.proxy.refused_paths.clear()
    s3.proxy.refuse_writes(SECONDS_AWAY)
    children[1].artifact("pictures/large.bin", picture)  # on its way to a store that refuses
    children[0].table("bands", [{"band": "tail", "AP": 0.5}])  # waits: its run folder lies in that store
    time.sleep(2)
    for training in trainings:
        training.stop()
    assert [tracker.finish(patience_s=60) for tracker in (*children, parent)] == [0, 0, 0]
    for part in ("/artifacts/pictures/large.bin", "/runs/trial-0/tracking/journal/"):
        assert any(part in path for path in s3.proxy.refused_paths)
    assert max(training.longest_s for training in trainings) < 5

    client = MlflowClient(tracking_uri=uri)
    ids = [tracker.destination.run_id for tracker in (parent, *children) if tracker.destination]
    runs = client.search_runs([parent.destination.experiment_id])  # type: ignore[union-attr]
    assert sorted(run.info.run_id for run in runs) == sorted(ids), "and no fourth one"
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {client.get_run(child).data.tags["mlflow.parentRunId"] for child in ids[1:]} == {ids[0]}
    assert client.get_run(ids[0]).data.params == {key: str(value) for key, value in params.items()}
    for training, run_id in zip(trainings, ids[1:], strict=True):
        assert training.steps > 500
        points = client.get_metric_history(run_id, "train/loss")
        assert sorted((m.step, m.value) for m in points) == [(s, 1 / (s + 1)) for s in range(training.steps)]
    kept = Path(client.download_artifacts(ids[2], "pictures/large.bin", str(tmp_path)))
    assert hashlib.sha256(kept.read_bytes()).digest() == hashlib.sha256(picture).digest()
    assert [f.path for f in client.list_artifacts(ids[1], "tables")] == ["tables/bands.json"]
    objects = stored(s3.client(), mlflow_server.artifacts.rpartition("/")[0])
    assert Counter(Path(key).name for key in objects) >= Counter(["large.bin", "bands.json"])

    # As PostgreSQL has it.
    database = mlflow_server.store.rpartition("/")[2]
    count = "SELECT count(*), count(DISTINCT (key, step)) FROM metrics WHERE run_uuid = %s"
    for training, run_id in zip(trainings, ids[1:], strict=True):
        assert postgres.query(database, count, run_id) == [(3 * training.steps, 3 * training.steps)]
    assert postgres.query(database, "SELECT count(*) FROM params WHERE run_uuid = %s", ids[0]) == [(250,)]


# Addresses that cannot work


def test_a_server_that_does_not_know_our_host_is_an_error_at_once(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    options = ["--allowed-hosts", "mlflow.example.org"]
    server = MlflowServer(tmp_path, store=mlflow_server.store, artifacts=str(tmp_path / "artifacts"), options=options)
    server.start()
    try:
        began = time.monotonic()
        with pytest.raises(InputError, match=rf"{server.uri}: HTTP 403.*--allowed-hosts"):
            Tracker(tmp_path / "run", experiment="e", name="n", uri=server.uri, system_metrics_s=0)
        assert time.monotonic() - began < 40
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((f":{PASSWORD}@", ":wrong-horse@"), "password authentication failed.*Correct user and password"),
        (("/mlflow", "/no_such_"), 'database "no_such_.*" does not exist.*Create the database'),
        (("127.0.0.1", "no-such-host.invalid"), "resolve host.*Correct the host's name"),
        (("+psycopg:", "+psycopg2:"), "driver is not here.*psycopg\\[binary\\]"),
    ],
    ids=["password", "database", "host", "driver"],
)
def test_a_database_address_that_cannot_work_is_an_error_at_once(
    postgres: Postgres, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    uri = postgres.uri("mlflow").replace(*change)
    began = time.monotonic()
    with pytest.raises(InputError, match=message) as caught:
        Tracker(tmp_path, experiment="e", name="n", uri=uri, system_metrics_s=0)
    assert time.monotonic() - began < 40
    assert "horse" not in str(caught.value)


def test_a_database_that_is_away_is_waited_for(
    postgres: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = postgres.uri("mlflow").replace(str(postgres.port), "1")
    tracker = Tracker(tmp_path, experiment="e", name="n", uri=uri, system_metrics_s=0)
    assert tracker.finish(patience_s=0.5) == 3
    assert "does not answer (connection failed" in caplog.text
    assert "horse" not in caplog.text


# A database server without an MLflow server before it


def test_runs_go_to_postgresql_itself_and_the_password_nowhere(postgres: Postgres, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri, run = postgres.uri(postgres.new_database()), tmp_path / "run"
    tracker = Tracker(run, experiment="direct", name="n", uri=uri, system_metrics_s=0)
    command = Path(f"/proc/{tracker._sender._process.pid}/cmdline").read_bytes()  # type: ignore[union-attr]
    for step in range(1500):
        tracker.log({"loss": step}, step)
    assert tracker.finish(patience_s=60) == 0
    assert b"horse" not in command
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"horse" in path.read_bytes()]
    assert tracker.destination is not None
    client = MlflowClient(tracking_uri=uri)
    points = client.get_metric_history(tracker.destination.run_id, "loss")
    assert sorted(m.step for m in points) == list(range(1500))

    with Journal(run, "later") as journal:
        journal.tags({"reviewed": "yes"})
    command = [sys.executable, "-m", "xray_det.tracking.resend", str(run)]
    without = subprocess.run(command, capture_output=True, text=True)
    assert without.returncode == 1
    assert "Set MLFLOW_TRACKING_URI" in without.stderr
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout == f"{run}: all is sent\n"
    assert client.get_run(tracker.destination.run_id).data.tags["reviewed"] == "yes"

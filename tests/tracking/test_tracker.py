"""Tracking against a real SQLite store, and against addresses that cannot work."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from xray_det.errors import InputError
from xray_det.tracking.journal import Journal
from xray_det.tracking.outbox import Outbox
from xray_det.tracking.tracker import Tracker, check_uri, default_uri


@contextmanager
def http_server(status: int, body: bytes, seconds: float = 0.0) -> Iterator[str]:
    """A server that answers every request alike, after a pause; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(seconds)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def points(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    """(step, value) of a metric as MLflow has it."""
    from mlflow.tracking import MlflowClient

    return sorted((m.step, m.value) for m in MlflowClient(tracking_uri=uri).get_metric_history(run_id, key))


# Addresses


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "ftp://host/x", "htp://host:5000", "databricks"])
def test_an_address_mlflow_cannot_take_is_refused_at_once(uri: str) -> None:
    with pytest.raises(InputError, match="tracking address"):
        check_uri(uri)


def test_addresses_that_can_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for uri in ("http://h:5000", "https://h", "postgresql+psycopg://u:p@h/db", f"sqlite:///{tmp_path}/new/a.db", "off"):
        assert check_uri(uri) == uri
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        check_uri(f"sqlite:///{tmp_path}/file/a.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("XRAY_DET_HOME", str(tmp_path))
    assert default_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://h:5000")
    assert default_uri() == "http://h:5000"


def test_off_tracks_into_the_run_folder_alone(tmp_path: Path) -> None:
    with Tracker(tmp_path, experiment="e", name="n", uri="off", system_metrics_s=0) as tracker:
        tracker.log({"loss": 1}, 0)
        assert tracker.destination is None
    with pytest.raises(InputError, match="experiment 'e'"):
        Tracker(tmp_path, experiment="other", name="n", uri="off")


@pytest.mark.medium
@pytest.mark.parametrize(
    ("status", "body"),
    [(403, b"Invalid Host header"), (401, b"{}"), (404, b"gone"), (200, b"<html>another service</html>"), (400, b"")],
)
def test_an_answer_that_no_waiting_mends_is_refused(tmp_path: Path, status: int, body: bytes) -> None:
    from xray_det.tracking.mlflow_run import MlflowRun

    Tracker(tmp_path, experiment="e", name="n", uri="off", system_metrics_s=0).finish()
    with http_server(status, body) as uri, pytest.raises(InputError, match=f"{status}|not MLflow"):
        MlflowRun(str(tmp_path), uri).connect()


@pytest.mark.medium
def test_an_unknown_host_is_refused_and_a_sick_server_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xray_det.tracking.mlflow_run import MlflowRun

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    Tracker(tmp_path, experiment="e", name="n", uri="off", system_metrics_s=0).finish()
    with pytest.raises(InputError, match="no such host"):
        MlflowRun(str(tmp_path), "http://no-such-host.invalid:5000").connect()
    for status in (500, 502, 503):
        with http_server(status, b"sick") as uri, pytest.raises(Exception, match=str(status)) as caught:
            MlflowRun(str(tmp_path), uri).connect()
        assert not isinstance(caught.value, InputError)


@pytest.mark.medium
def test_a_wrong_address_ends_the_start(tmp_path: Path) -> None:
    with http_server(403, b"Invalid Host header") as uri, pytest.raises(InputError, match="403"):
        Tracker(tmp_path, experiment="e", name="n", uri=uri, system_metrics_s=0)


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["refuses", "hangs"])
def test_a_dead_server_only_warns(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every call returns although nothing ever answers, and the end says what is left and how to send it."""
    with socket.socket() as listener:  # accepts (the kernel does), never answers
        listener.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if kind == "hangs":
            listener.listen()
        tracker = Tracker(tmp_path, experiment="e", name="n", uri=uri, system_metrics_s=0, patience_s=6)
        for step in range(100):
            tracker.log({"loss": step}, step)
        left = tracker.finish(patience_s=0.5)
    assert left == 103  # 100 points, RUNNING, the environment's tags, FINISHED
    assert "xray_det.tracking.resend" in caplog.text
    assert Outbox(tmp_path, uri).left() == left


# The SQLite store


@pytest.mark.medium
def test_one_run_with_everything_and_the_same_after_a_restart(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri, run = f"sqlite:///{tmp_path}/db/mlflow.db", tmp_path / "run"
    config = {"model": {"width": 64}, "phases": [{"lam": 0.0}, {"lam": 0.7}], "long": "x" * 9000}
    config["many"] = {f"field{i}": i for i in range(250)}

    first = Tracker(run, experiment="exp/1", name="one", uri=uri, system_metrics_s=1)
    first.config(config)
    with Journal(run, "rank0") as journal:
        for step in range(6):
            journal.log({"loss": 6 - step, "AP/a+b": 0.1, "AP/a*b": 0.2, "bad": float("nan")}, step)
    first.table("bands", [{"band": "head", "AP": 0.5}])
    first.inputs([{"name": "fod", "digest": "d" * 64, "source": "/data/fod", "profile": '{"images": 3}'}])
    assert first.finish("FAILED") == 0
    assert first.destination is not None
    run_id = first.destination.run_id

    again = Tracker(run, experiment="exp/1", name="one", uri=uri, system_metrics_s=0)
    again.config({**config, "model": {"width": 32}})
    with Journal(run, "rank0") as journal:
        for step in range(3, 10):
            journal.log({"loss": 60 - step}, step)
    child = Tracker(tmp_path / "child", experiment="exp/1", name="trial", uri=uri, system_metrics_s=0,
                    parent_folder=str(run))  # fmt: skip
    assert child.finish() == again.finish() == 0

    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([again.destination.experiment_id])  # type: ignore[union-attr]
    assert len(runs) == 2  # the restart made no third one
    assert client.get_run(child.destination.run_id).data.tags["mlflow.parentRunId"] == run_id  # type: ignore[union-attr]
    info, data = client.get_run(run_id).info, client.get_run(run_id).data
    assert (info.status, info.run_name) == ("FINISHED", "one")
    assert points(uri, run_id, "loss") == [*((s, 6.0 - s) for s in range(6)), *((s, 60.0 - s) for s in range(6, 10))]
    assert sorted(v for k, v in data.metrics.items() if k.startswith("AP/a_b")) == [0.1, 0.2]
    assert len(points(uri, run_id, "bad")) == 6
    assert data.params["model.width"] == "64"
    assert data.tags["changed.model.width"] == "32"
    assert data.params["phases.1.lam"] == "0.7"
    assert data.params["many.field249"] == "249"
    assert len(data.params["long"]) == 6000
    assert json.loads(data.tags["mlflow.loggedArtifacts"]) == [{"path": "tables/bands.json", "type": "table"}]
    assert {"commit", "python", "version.torch"} <= set(data.tags)
    assert {f.path for f in client.list_artifacts(run_id)} == {"config.json", "tables"}
    saved = Path(client.download_artifacts(run_id, "config.json", str(tmp_path)))
    assert json.loads(saved.read_text())["long"] == "x" * 9000
    inputs = client.get_run(run_id).inputs.dataset_inputs
    assert [(i.dataset.name, i.tags[0].value) for i in inputs] == [("fod", "training")]
    assert not (Path.cwd() / "mlruns").exists()


@pytest.mark.medium
def test_what_the_server_or_the_artifact_store_refuses_holds_up_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    from xray_det.tracking.mlflow_run import MlflowRun

    run, uri = tmp_path / "run", f"sqlite:///{tmp_path}/mlflow.db"
    tracker = Tracker(run, experiment="e", name="n", uri="off", system_metrics_s=0)
    for step in range(20):
        tracker.log({"loss": step, "poison" if step == 7 else "fine": step}, step)
    tracker.json("report", {"a": 1})
    tracker.finish()
    log_batch, log_artifact, broken = MlflowClient.log_batch, MlflowClient.log_artifact, [True]

    def picky(self: MlflowClient, run_id: str, **entities: Any) -> None:
        if any(m.key == "poison" for m in entities.get("metrics", [])):
            raise MlflowException("poison", error_code=1000)  # INVALID_PARAMETER_VALUE
        log_batch(self, run_id, **entities)

    def no_store(self: MlflowClient, *arguments: Any) -> None:
        if broken[0]:
            raise ImportError("No module named 'boto3'")
        log_artifact(self, *arguments)

    monkeypatch.setattr(MlflowClient, "log_batch", picky)
    monkeypatch.setattr(MlflowClient, "log_artifact", no_store)
    sender = MlflowRun(str(run), uri)
    sender.send()
    assert sender.outbox.run_id is not None
    assert len(points(uri, sender.outbox.run_id, "loss")) == 20
    assert len(points(uri, sender.outbox.run_id, "fine")) == 19
    assert "refuses metrics 'poison'" in caplog.text
    assert Outbox(run, uri).left() == 1  # the artifact
    broken[0] = False
    sender.send(final=True)
    assert Outbox(run, uri).left() == 0
    assert [f.path for f in MlflowClient(tracking_uri=uri).list_artifacts(sender.outbox.run_id)] == ["report.json"]

    # The same records sent twice (a crash before that was written down) are stored once.
    state = next((run / "tracking").glob("sent-*.json"))
    state.write_text(json.dumps({**json.loads(state.read_text()), "sent": {}}))
    MlflowRun(str(run), uri).send(final=True)
    assert len(points(uri, sender.outbox.run_id, "loss")) == 20

    # A run somebody deleted is made again from the journal.
    MlflowClient(tracking_uri=uri).delete_run(sender.outbox.run_id)
    anew = MlflowRun(str(run), uri)
    anew.send(final=True)
    assert anew.outbox.run_id not in (None, sender.outbox.run_id)
    assert len(points(uri, str(anew.outbox.run_id), "loss")) == 20


@pytest.mark.medium
def test_two_runs_that_name_a_dataset_at_the_same_moment_both_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite lets one of the two in and calls the other invalid (UNIQUE constraint failed); once more, and it is in."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    from xray_det.tracking.mlflow_run import MlflowRun

    run, uri = tmp_path / "run", f"sqlite:///{tmp_path}/mlflow.db"
    tracker = Tracker(run, experiment="e", name="n", uri="off", system_metrics_s=0)
    tracker.inputs([{"name": "fod", "digest": "0" * 16}])
    tracker.finish()
    log_inputs, refused = MlflowClient.log_inputs, []

    def colliding(self: MlflowClient, *arguments: Any) -> None:
        if not refused:
            refused.append(1)
            raise MlflowException("UNIQUE constraint failed: datasets.digest", error_code=4)  # BAD_REQUEST
        log_inputs(self, *arguments)

    monkeypatch.setattr(MlflowClient, "log_inputs", colliding)
    sender = MlflowRun(str(run), uri)
    sender.send()
    held = MlflowClient(tracking_uri=uri).get_run(str(sender.outbox.run_id)).inputs.dataset_inputs
    assert [one.dataset.name for one in held] == ["fod"]
    assert refused
    assert "refuses" not in caplog.text


DRIVER = """
import sys, time
from xray_det.tracking.tracker import Tracker
tracker = Tracker(sys.argv[1], experiment="e", name="n", uri=sys.argv[2], system_metrics_s=0)
for step in range(1_000_000):
    tracker.log({"loss": step}, step)
    print(step, tracker.destination.run_id, flush=True)
    time.sleep(0.02)
"""


@pytest.mark.slow
def test_a_killed_driver_leaves_no_process_and_a_run_that_says_killed(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "run"), uri], stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            step, run_id = line.split()
            if int(step) == 50:
                break
        children = [int(p) for p in Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()]
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert children
    deadline = time.time() + 60
    while any(_alive(pid) for pid in children) and time.time() < deadline:
        time.sleep(0.2)
    assert not any(_alive(pid) for pid in children)
    client = MlflowClient(tracking_uri=uri)
    assert client.get_run(run_id).info.status == "KILLED"
    assert len(points(uri, run_id, "loss")) >= 51  # the journal's records of the last second too
    with Tracker(tmp_path / "run", experiment="e", name="n", uri=uri, system_metrics_s=0) as tracker:
        assert tracker.destination is not None
        assert tracker.destination.run_id == run_id
        deadline = time.time() + 60  # what the start waits for is the first answer, not the first record sent
        while client.get_run(run_id).info.status != "RUNNING" and time.time() < deadline:
            time.sleep(0.1)
        assert client.get_run(run_id).info.status == "RUNNING"
    assert client.get_run(run_id).info.status == "FINISHED"


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


# A real server


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "server.log", "ab") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield server
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.slow
def test_a_server_killed_and_started_again_has_every_point_once(tmp_path: Path) -> None:
    """A run that begins with no server, sees it come, lose its life twice, and come back: nothing lost or doubled."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri, run = f"http://127.0.0.1:{port}", tmp_path / "run"
    tracker = Tracker(run, experiment="e", name="n", uri=uri, system_metrics_s=0, patience_s=30)
    assert tracker.destination is None
    journal, step = Journal(run, "rank0"), 0

    def train(seconds: float) -> None:
        nonlocal step
        end = time.time() + seconds
        while time.time() < end:
            journal.log({"loss": 1 / (step + 1), "lr": 0.1}, step)
            step += 1
            time.sleep(0.005)

    def sent() -> int:
        return step + 10 - Outbox(run, uri).left()

    def train_until_sent(count: int) -> None:
        deadline = time.time() + 120
        while sent() < count and time.time() < deadline:
            train(0.5)
        assert sent() >= count, (tmp_path / "server.log").read_text()[-3000:]

    train(1)
    for _ in range(2):
        with mlflow_server(tmp_path, port) as server:
            train_until_sent(step + 200)
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        train(2)
    tracker.json("report", {"a": 1})
    journal.close()
    assert tracker.finish(patience_s=1) > 0

    with mlflow_server(tmp_path, port):
        resend = [sys.executable, "-m", "xray_det.tracking.resend", "--patience-s", "120", str(run)]
        for _ in range(2):  # the second finds nothing to do
            answer = subprocess.run(resend, capture_output=True, text=True)
            assert answer.stdout == f"{run}: all is sent\n", answer.stderr
        assert tracker.destination is not None
        expected = [(s, 1 / (s + 1)) for s in range(step)]
        assert points(uri, tracker.destination.run_id, "loss") == expected
        assert len(points(uri, tracker.destination.run_id, "lr")) == step
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        assert [f.path for f in client.list_artifacts(tracker.destination.run_id)] == ["report.json"]
        assert client.get_run(tracker.destination.run_id).info.status == "FINISHED"

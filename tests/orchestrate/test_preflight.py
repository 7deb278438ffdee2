"""The preflight: each thing that would fail a training later is named now, with its node and its remedy."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from made_dataset import experiment, write_dataset
from raylets import Raylets, hide, instead, may_mount, raylets, read_only
from servers.object_store import ObjectStore, stored

from xray_det import storage
from xray_det.data.annotations import Selection
from xray_det.errors import InputError
from xray_det.orchestrate import verdicts
from xray_det.orchestrate.experiment import Data
from xray_det.orchestrate.inspection import sample_dataset, source_files, versions
from xray_det.orchestrate.preflight import Finding, preflight, require
from xray_det.orchestrate.reach import check_tracking

ROOT = Path(__file__).resolve().parents[2]
GB = 10**9


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data") / "squares", images=6)


# Tracking


@contextmanager
def http_server(status: int, body: bytes) -> Iterator[str]:
    """A server that answers every request alike; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.medium
@pytest.mark.parametrize(
    ("status", "body", "detail"),
    [
        (403, b"Invalid Host header", "HTTP 403: Invalid Host header"),
        (401, b"who are you", "HTTP 401: who are you"),
        (200, b"<html>something else</html>", "what answers there is not MLflow: <html>something else</html>"),
    ],
)
def test_an_address_that_cannot_work_is_a_failure(status: int, body: bytes, detail: str) -> None:
    with http_server(status, body) as uri:
        finding = check_tracking(uri, driver="a", nodes=1, patience_s=90)
    assert (finding.check, finding.where, finding.ok, finding.detail) == ("tracking", uri, False, detail)
    assert "--allowed-hosts" in finding.remedy


@pytest.mark.medium
def test_a_server_that_is_down_is_a_warning() -> None:
    with http_server(503, b"sick") as uri:
        finding = check_tracking(uri, driver="a", nodes=1, patience_s=90)
    assert finding.ok is None
    assert finding.detail.startswith("does not answer a (HTTP 503: sick); a training's records would wait")
    finding = check_tracking("http://127.0.0.1:9", driver="a", nodes=1, patience_s=90)
    assert finding.ok is None
    assert "a training's records would wait in its run folder" in finding.detail


def test_a_server_that_answers_is_found_without_importing_mlflow() -> None:
    began = time.monotonic()
    with http_server(200, b'{"experiments": []}') as uri:
        assert check_tracking(uri, driver="a", nodes=1) == verdicts.good("tracking", uri, "answers a")
    assert time.monotonic() - began < 2


def test_tracking_into_a_file(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert check_tracking(uri, driver="a", nodes=3).detail == "a file that a alone writes"
    finding = check_tracking(uri, driver="a", nodes=3, trials=4)
    assert finding.ok is None
    assert finding.detail == "a file of a: a trial whose controller runs on another node would have a file of its own"
    assert not (tmp_path / "mlflow.db").exists()
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    assert check_tracking(uri, driver="a", nodes=1).detail.startswith("is no database that can be read")
    assert check_tracking("mlruns", driver="a", nodes=1).ok is False
    assert check_tracking("off", driver="a", nodes=1).detail == "nothing is sent"
    finding = check_tracking("postgresql+nothing://me:secret@localhost/db", driver="a", nodes=1)
    assert finding.where == "postgresql+nothing://me:***@localhost/db"
    assert finding.ok is False
    assert "secret" not in str(finding)


# On one machine


def failures(findings: tuple[Finding, ...]) -> list[tuple[str, str]]:
    return [(finding.check, finding.detail) for finding in findings if finding.ok is False]


@pytest.mark.medium
@pytest.mark.usefixtures("ray_cluster")
def test_one_machine_in_a_second_and_nothing_left_behind(dataset: str, tmp_path: Path) -> None:
    made = experiment(dataset, tmp_path / "new" / "runs")
    preflight(made, tracking="off")  # what is imported at first use
    began = time.monotonic()
    findings = preflight(made, tracking="off", working_dir=ROOT)
    seconds = time.monotonic() - began
    require(findings)
    found = {finding.check: finding for finding in findings}
    assert list(found) == [
        "nodes", "resources", "storage", "data", "home", "versions", "tracking", "clocks", "disk", "upload",
    ]  # fmt: skip
    assert found["resources"].detail == "2 workers on cpu, 1.1 CPUs for the data of each; nodes: 1 x (4 CPUs)"
    assert found["storage"].detail == f"{tmp_path}/new/runs is read and written"
    assert found["upload"].ok is True
    assert not (tmp_path / "new").exists()
    assert not [*(storage.home() / "cache").glob("*preflight*")]
    assert seconds < 5, seconds  # 0.3 on a quiet machine


@pytest.mark.medium
@pytest.mark.usefixtures("ray_cluster")
def test_what_is_wrong_on_one_machine_is_found(dataset: str, tmp_path: Path) -> None:
    broken = write_dataset(tmp_path / "broken", name="broken", images=4)
    (tmp_path / "broken" / "3.jpg").write_bytes(b"no image")
    gone = Selection(folder=str(tmp_path / "gone"))
    (tmp_path / "file").write_text("")
    made = experiment(
        dataset,
        tmp_path / "file" / "runs",
        data=Data(train=(Selection(folder=dataset), Selection(folder=broken)), val=(gone,)),
        workers=64,
        batch=64,
        start_from=str(tmp_path / "weights"),
    )
    with http_server(403, b"Invalid Host header") as uri:
        findings = preflight(made, tracking=uri, patience_s=90)
    # a person reads them in this order
    expected = [
        ("resources", "64 and their data tasks need more than 4 CPUs and would wait for ever"),
        ("storage", f"{tmp_path}/file/runs cannot be written (Not a directory)"),
        ("data", f"{gone.folder}: no ingested dataset lies here (no manifest.json)"),
        ("data", f"{broken}: image {tmp_path}/broken/3.jpg: unreadable_image: "),
        ("data", f"{tmp_path}/weights/config.json: is not there"),
        ("tracking", "HTTP 403: Invalid Host header"),
    ]
    found = failures(findings)
    assert [check for check, _ in found] == [check for check, _ in expected]
    for (_, detail), (_, start) in zip(found, expected, strict=True):
        assert detail.startswith(start)
    with pytest.raises(InputError, match="6 checks failed"):
        require(findings)


@pytest.mark.medium
@pytest.mark.usefixtures("ray_cluster")
def test_datasets_that_do_not_go_together_and_what_is_taken(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_dataset(tmp_path / "other", images=4, seed=1)
    made = experiment(dataset, tmp_path, data=Data(train=(Selection(folder=dataset), Selection(folder=other))))
    findings = preflight(made, tracking="off")
    assert len(failures(findings)) == 1
    assert failures(findings)[0][1].endswith("are different datasets of one name, squares")
    assert failures(findings)[0][0] == "experiment"
    # a cluster with too little now, and an autoscaler
    monkeypatch.setenv("XRAY_DET_AUTOSCALER", "1")
    made = experiment(dataset, tmp_path, workers=8, batch=8)
    (finding,) = [f for f in preflight(made, tracking="off") if f.check == "resources"]
    assert finding.ok is None
    assert finding.detail == (
        "8 and their data tasks need more than 4 CPUs; an autoscaler has to bring what is missing"
    )
    monkeypatch.setenv("XRAY_DET_AUTOSCALER", "no")
    with pytest.raises(InputError, match="'no' says nothing"):
        preflight(made, tracking="off")


@pytest.mark.medium
@pytest.mark.usefixtures("ray_cluster")
def test_storage_in_an_object_store(dataset: str, tmp_path: Path, s3: ObjectStore) -> None:
    bucket = s3.new_bucket()
    made = replace(experiment(dataset, tmp_path), out=f"{bucket}/runs")
    findings = preflight(made, tracking="off")
    require(findings)
    assert ("storage", f"{bucket}/runs is read and written") in [(f.check, f.detail) for f in findings]
    assert {*stored(s3.client(), bucket)} <= {"runs/"}  # pyarrow's mark of an empty folder
    findings = preflight(replace(made, out="s3://no-such-bucket/runs"), tracking="off")
    ((check, detail),) = failures(findings)
    assert check == "storage"
    assert detail.startswith("s3://no-such-bucket/runs the object store refuses")


def test_a_sample_is_of_the_first_and_the_last_shard(dataset: str) -> None:
    from xray_det.data.manifest import Manifest

    manifest = Manifest.load(dataset)
    sample = sample_dataset(manifest)
    assert sample.shards == (("shards/0.parquet", 6),)
    assert [Path(path).name for path, _, _ in sample.images] == ["0.jpg", "2.jpg", "5.jpg"]
    Path(dataset, "shards", "0.parquet").rename(Path(dataset, "away"))
    try:
        with pytest.raises(InputError, match=r"0\.parquet: cannot be read"):
            sample_dataset(manifest)
    finally:
        Path(dataset, "away").rename(Path(dataset, "shards", "0.parquet"))
    with pytest.raises(InputError, match="has no images"):
        sample_dataset(replace(manifest, shards=()))


# On several nodes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, dataset: str) -> Iterator[tuple[Raylets, Path]]:
    """Three nodes. alpha has another home, and sees neither the second storage nor the second dataset; beta has another
    source and another torch, and may not write to the second storage."""
    if not may_mount():
        pytest.skip("this user may not make mount namespaces")
    base = tmp_path_factory.mktemp("nodes")
    for name in ("home", "sound", "faulty", "logs"):
        (base / name).mkdir()
    write_dataset(base / "hidden", name="hidden", images=4)
    # all run from a copy, in which nobody edits, and beta from another one at the same path
    for copy in ("checkout", "other"):
        for folder in ("xray_det", "experiments"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(
                (ROOT if copy == "checkout" else base / "checkout") / folder, base / copy / folder, ignore=ignored
            )
    with open(base / "other" / "xray_det" / "__init__.py", "a") as module:
        module.write("# another commit\n")
    torch = versions()["torch"]
    about = Path(str(distribution("torch").locate_file(f"torch-{torch}.dist-info/METADATA")))
    (base / "METADATA").write_text(about.read_text().replace(f"\nVersion: {torch}", "\nVersion: 1.2.3", 1))
    views = {
        "alpha": " && ".join(map(hide, (base / "faulty", base / "home", base / "hidden"))),
        "beta": " && ".join(
            (
                read_only(base / "faulty"),
                instead(base / "checkout", base / "other"),
                instead(about, base / "METADATA"),
            )
        ),
    }
    environment = {"XRAY_DET_HOME": str(base / "home"), "PYTHONPATH": str(base / "checkout")}
    with raylets("front", views, environment, base / "logs") as made:
        yield made, base


def looked(cluster: tuple[Raylets, Path], *arguments: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, what was printed, and the JSON of the script."""
    made, base = cluster
    command = [
        sys.executable, base / "checkout" / "experiments" / "preflight.py", *arguments, "--tracking", "off",
        "--json", base / "found.json", "--set", "workers=2", "batch=4", "device=cpu",
    ]  # fmt: skip
    environment = made.environment | {"COLUMNS": "200"}
    ran = subprocess.run(
        [str(word) for word in command], cwd=base / "checkout", env=environment, capture_output=True, text=True
    )
    assert (base / "found.json").exists(), ran.stderr
    return ran.returncode, ran.stdout, json.loads((base / "found.json").read_text())


def by_node(document: dict[str, Any], check: str) -> dict[str, tuple[bool | None, str]]:
    return {f["where"]: (f["ok"], f["detail"]) for f in document["findings"] if f["check"] == check}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_node_looks_for_itself(cluster: tuple[Raylets, Path], dataset: str) -> None:
    _, base = cluster
    code, printed, document = looked(cluster, dataset, "--out", str(base / "sound"))
    assert code == 1  # of versions, which differ
    nodes = by_node(document, "nodes")
    assert list(nodes) == ["front", "alpha", "beta"]
    assert all(detail.startswith("2 CPUs, looked for") for _, detail in nodes.values())
    assert by_node(document, "storage") == dict.fromkeys(nodes, (True, f"{base}/sound is read and written"))
    assert by_node(document, "data") == dict.fromkeys(nodes, (True, f"shards and images are read: {dataset}"))
    assert by_node(document, "resources") == {
        "cluster": (True, "2 workers on cpu, 2.1 CPUs for the data of each; nodes: 3 x (2 CPUs)")
    }
    assert by_node(document, "home") == {
        "front": (True, f"{base}/home"),
        "alpha": (True, f"{base}/home, the node's own"),
        "beta": (True, f"{base}/home"),
    }
    same = by_node(document, "versions")
    assert [same["front"][0], same["alpha"][0]] == [True, True]
    torch = versions()["torch"]
    assert same["beta"] == (
        False,
        f"torch 1.2.3 (the driver: {torch}); another xray_det than the driver's: xray_det/__init__.py",
    )
    assert "failed versions, beta: torch 1.2.3" in printed
    assert document["seconds"] < 20  # 2 on a quiet machine
    assert list((base / "sound").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_does_not_see_the_storage_is_named(cluster: tuple[Raylets, Path], dataset: str) -> None:
    _, base = cluster
    out, hidden = base / "faulty", base / "hidden"
    code, printed, document = looked(cluster, dataset, str(hidden), "--out", str(out))
    assert code == 1
    assert by_node(document, "storage") == {
        "front": (True, f"{out} is read and written"),
        "alpha": (False, f"{out} is not shared: this node does not see what the driver writes"),
        "beta": (False, f"{out} is shared, but cannot be written (Read-only file system) on this node"),
    }
    assert by_node(document, "data")["alpha"] == (False, f"{hidden}: no ingested dataset lies here (no manifest.json)")
    assert by_node(document, "data")["beta"][0] is True
    assert f"failed storage, alpha: {out} is not shared: this node does not see what the driver writes\n" in printed
    assert "Give --out s3://BUCKET/FOLDER, or a folder that every node mounts at the same path" in printed
    assert "Give this node the right to write there (mount options, permissions, credentials)" in printed
    assert list(out.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_does_not_answer_is_named_not_waited_for(cluster: tuple[Raylets, Path], dataset: str) -> None:
    made, base = cluster
    made.freeze("beta")
    began = time.monotonic()
    code, printed, document = looked(cluster, dataset, "--out", str(base / "sound"))
    assert code == 1
    assert by_node(document, "nodes")["beta"] == (False, "has not answered within 20 s")
    assert by_node(document, "nodes")["alpha"][0] is True
    assert "failed nodes, beta: has not answered within 20 s\n        Take it out of the cluster or mend it" in printed
    assert document["seconds"] < 30
    assert time.monotonic() - began < 90


def test_the_source_is_told_file_by_file() -> None:
    files = source_files()
    assert "xray_det/orchestrate/preflight.py" in files
    assert all(len(digest) == 8 for digest in files.values())

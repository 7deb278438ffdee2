"""Storage on a real S3 server, with the addresses that users give and a server that refuses for a while."""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from servers.object_store import ObjectStore, stored
from servers.refusing_proxy import WRITES

from xray_det import storage
from xray_det.errors import InputError

pytestmark = pytest.mark.medium


@pytest.fixture
def bucket(s3: ObjectStore) -> str:
    return s3.new_bucket()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals are waited out for about a second."""
    monkeypatch.setenv("XRAY_DET_STORAGE_PATIENCE_S", "1")


# Addresses


def test_the_environment_says_which_store(s3: ObjectStore, bucket: str) -> None:
    address = storage.join(bucket, "runs", "a", "result.json")
    assert not storage.exists(address)
    storage.write_json(address, {"AP": 0.5})
    assert storage.exists(address)
    assert storage.exists(f"{bucket}/runs/a"), "a folder is there when something lies in it"
    assert storage.read_json(address) == {"AP": 0.5}
    assert list(stored(s3.client(), bucket)) == ["runs/a/result.json"], "and no other object beside it"
    with pytest.raises(InputError, match=r"runs/none\.json: no such file"):
        storage.read_json(f"{bucket}/runs/none.json")


@pytest.mark.parametrize("options", ["endpoint_override={host}&scheme=http", "endpoint_override=http://{host}"])
def test_an_address_says_which_store(
    s3: ObjectStore, bucket: str, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    options = options.format(host=s3.proxy.endpoint.removeprefix("http://"))
    folder = f"{bucket}/runs?{options}"
    address = storage.join(folder, "a", "x y%20z")
    assert address == f"{bucket}/runs/a/x y%20z?{options}"
    assert storage.below(address, folder) == "a/x y%20z"
    storage.write_bytes(address, b"1")
    assert storage.read_bytes(address) == b"1"
    assert storage.locate(address)[1].endswith("/runs/a/x y z")


def test_below_names_the_rest_of_a_path() -> None:
    assert storage.below("/runs/a/phases/0", "/runs/a") == "phases/0"
    assert storage.below("/runs/ab/x", "/runs/a") == "/runs/ab/x"
    assert storage.below("s3://b/a/x", "s3://b/a/") == "x"


def test_one_client_a_store_and_environment(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = storage.locate(f"{bucket}/a")
    assert storage.locate(f"{bucket}/b")[0] is first
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    assert storage.locate(f"{bucket}/b")[0] is not first


def test_a_host_nobody_knows_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://no-such-host.invalid:9000")
    with pytest.raises(InputError, match=r"no-such-host\.invalid:9000: no such host\. Correct AWS_ENDPOINT_URL"):
        storage.locate("s3://bucket/x")


def test_keys_in_an_address_are_not_shown(s3: ObjectStore, impatient: None) -> None:
    with pytest.raises(InputError, match=r"NO_SUCH_BUCKET|INVALID_ACCESS_KEY") as caught:
        storage.write_bytes("s3://someone:hush@nowhere/x", b"1")
    assert "hush" not in str(caught.value)
    assert caught.value.where == "s3://nowhere/x"


# Refusals


@pytest.mark.parametrize("how", ["slow down", "reset"])
def test_a_refusal_of_seconds_is_waited_out(s3: ObjectStore, bucket: str, how: Any) -> None:
    address, payload = f"{bucket}/x", os.urandom(11_000_000)
    s3.proxy.refuse(3, how=how)
    began = time.monotonic()
    storage.write_bytes(address, payload)
    assert 3 <= time.monotonic() - began < 30
    s3.proxy.refuse(0.5, how=how)
    assert storage.exists(address)
    s3.proxy.refuse(0.5, how=how)
    assert storage.read_bytes(address, start=10_999_000) == payload[10_999_000:]
    s3.proxy.refuse(0.5, how=how)
    storage.delete(address)
    assert stored(s3.client(), bucket) == {}


@pytest.mark.parametrize("how", ["slow down", "reset"])
def test_a_longer_one_names_object_problem_and_remedy(s3: ObjectStore, bucket: str, how: Any, impatient: None) -> None:
    storage.write_bytes(f"{bucket}/x", b"before")
    expected = (
        rf"{bucket}/x: the object store refuses .*(SLOW_DOWN|503|NETWORK_CONNECTION).*XRAY_DET_STORAGE_PATIENCE_S"
    )
    with s3.proxy.refusing(how=how):
        for work in (
            storage.read_bytes,
            storage.exists,
            storage.delete,
            lambda uri: storage.write_bytes(uri, b"after"),
        ):
            began = time.monotonic()
            with pytest.raises(InputError, match=expected):
                work(f"{bucket}/x")
            assert 0.5 < time.monotonic() - began < 20
    assert storage.read_bytes(f"{bucket}/x") == b"before"


def test_a_store_that_is_away_is_an_error_after_the_patience(s3: ObjectStore, bucket: str, impatient: None) -> None:
    address = f"{bucket}/x?endpoint_override=http://127.0.0.1:1"
    with pytest.raises(InputError, match=rf"{bucket}/x: .*Could not connect"):
        storage.write_bytes(address, b"1")


def test_what_waiting_does_not_mend_fails_at_once(s3: ObjectStore, bucket: str) -> None:
    storage.write_bytes(f"{bucket}/x", b"1")
    began = time.monotonic()
    with pytest.raises(InputError, match=r"s3://no-such-bucket/a/x: .*NO_SUCH_BUCKET.*Create the bucket"):
        storage.write_bytes("s3://no-such-bucket/a/x", b"1")
    with s3.proxy.refusing(how="forbidden"):
        for work in (storage.read_bytes, storage.exists, lambda uri: storage.write_bytes(uri, b"2")):
            with pytest.raises(InputError, match=rf"{bucket}/x: .*ACCESS_DENIED.*Check AWS_ACCESS_KEY_ID"):
                work(f"{bucket}/x")
    assert time.monotonic() - began < 10


def test_an_answer_that_was_lost_is_no_error(s3: ObjectStore, bucket: str) -> None:
    """The store ended a multipart upload, the connection broke before it could say so, and the upload is gone."""
    for payload in (b"small", os.urandom(12_000_000)):
        s3.proxy.lose_answers(1, "POST" if len(payload) > 5 else "PUT")
        storage.write_bytes(f"{bucket}/x", payload)
        assert storage.read_bytes(f"{bucket}/x") == payload


def test_a_pickled_file_system_keeps_its_patience(s3: ObjectStore, bucket: str) -> None:
    """As Ray sends it to a worker on another node, where the environment may not say which store."""
    fs, path = storage.locate(f"{bucket}/x?endpoint_override={s3.proxy.endpoint}")
    program = f"""
import pickle, sys
fs = pickle.loads(pickle.dumps(pickle.loads(bytes.fromhex({pickle.dumps(fs).hex()!r}))))
with fs.open_output_stream({path!r}) as sink:
    sink.write(b"1")
"""
    environment = {**os.environ, "XRAY_DET_STORAGE_PATIENCE_S": "1"}
    del environment["AWS_ENDPOINT_URL"]
    s3.proxy.refused.clear()
    with s3.proxy.refusing():
        answer = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "SLOW_DOWN" in answer.stderr
    assert s3.proxy.refused == {"PUT": 6}, "pyarrow's own pauses are 0.2 s, 30 times"


def test_an_error_while_writing_publishes_nothing(
    s3: ObjectStore, bucket: str, tmp_path: Path, impatient: None
) -> None:
    """A pyarrow stream left by an error is closed, and closing publishes what came so far."""

    def write(uri: str, then: Callable[[], object]) -> None:
        with storage.writing(uri) as sink:
            sink.write(b"1" * 11_000_000)
            sink.flush()
            then()
            sink.write(b"2" * 11_000_000)

    for folder in (bucket, str(tmp_path)):
        with pytest.raises(KeyError):
            write(f"{folder}/half", lambda: {}["no such column"])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="SLOW_DOWN"):
        write(f"{bucket}/half", lambda: s3.proxy.refuse(3600, WRITES))
    s3.proxy.refuse(0)
    assert stored(s3.client(), bucket) == {}


# Folders


def made_folder(folder: Path) -> Path:
    (folder / "weights" / "deep").mkdir(parents=True)
    (folder / "weights" / "model.safetensors").write_bytes(os.urandom(25_000_000))
    (folder / "weights" / "deep" / "config.json").write_text("{}")
    (folder / "training.safetensors").write_bytes(os.urandom(1000))
    (folder / "empty").write_bytes(b"")
    return folder


def test_a_folder_goes_up_whole_through_refusals_and_down_again(s3: ObjectStore, bucket: str, tmp_path: Path) -> None:
    folder = made_folder(tmp_path / "checkpoint")
    sizes = {f.relative_to(tmp_path).as_posix(): f.stat().st_size for f in folder.rglob("*") if f.is_file()}
    s3.proxy.refuse_writes(3)
    storage.upload(folder, f"{bucket}/checkpoint")
    assert s3.proxy.refused["PUT"] > 2
    assert stored(s3.client(), bucket) == sizes
    with (
        s3.proxy.refusing(("PUT",), "forbidden"),
        pytest.raises(storage.Refused, match=rf"{bucket}/elsewhere/empty: .*ACCESS_DENIED"),
    ):
        storage.upload(folder, f"{bucket}/elsewhere")
    assert stored(s3.client(), bucket) == sizes
    storage.upload(folder, f"{bucket}/checkpoint")  # again, as after a restart
    assert stored(s3.client(), bucket) == sizes
    fs, path = storage.locate(f"{bucket}/checkpoint")
    pafs.copy_files(path, str(tmp_path / "down"), source_filesystem=fs)
    for file in folder.rglob("*"):
        if file.is_file():
            assert (tmp_path / "down" / file.relative_to(folder)).read_bytes() == file.read_bytes()
    storage.write_bytes(f"{bucket}/checkpoint-2/x", b"1")
    storage.delete(f"{bucket}/checkpoint")
    assert [key for key in stored(s3.client(), bucket) if not key.endswith("/")] == ["checkpoint-2/x"]
    assert not storage.exists(f"{bucket}/checkpoint")
    storage.delete(f"{bucket}/checkpoint")  # what is not there is fine


def test_a_large_file_is_never_whole_in_memory(s3: ObjectStore, bucket: str, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(200_000_000)
    s3.proxy.pause_s = 0.5  # a network slower than the disk
    program = f"""
import resource
from xray_det import storage
storage.write_bytes({bucket!r} + "/warm", b"1")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
storage.upload({str(tmp_path / "large")!r}, {bucket!r} + "/large")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(answer.stdout) < 100, "MB of memory"
    assert stored(s3.client(), bucket)["large"] == 200_000_000


def test_folders_on_a_disk(tmp_path: Path) -> None:
    folder = made_folder(tmp_path / "from")
    storage.upload(folder, tmp_path / "to" / "there")
    storage.upload(folder / "training.safetensors", tmp_path / "to" / "one")
    there = {f.relative_to(tmp_path / "to" / "there") for f in (tmp_path / "to" / "there").rglob("*") if f.is_file()}
    assert there == {f.relative_to(folder) for f in folder.rglob("*") if f.is_file()}
    assert (tmp_path / "to" / "one").read_bytes() == (folder / "training.safetensors").read_bytes()
    storage.delete(tmp_path / "to" / "one")
    storage.delete(tmp_path / "to")
    storage.delete(tmp_path / "to")
    assert [p.name for p in tmp_path.iterdir()] == ["from"]
    with pytest.raises(InputError, match="none: no such file or folder"):
        storage.upload(tmp_path / "none", tmp_path / "to")

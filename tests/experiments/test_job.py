"""The quickstart as a submitted job: the README's command, on a head of its own, from upload to outputs."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def size_of(folder: Path) -> int:
    """Bytes of a folder that may be about to vanish, without what Python compiled there: nobody uploaded it."""
    sizes = 0
    with contextlib.suppress(OSError):
        for path in folder.rglob("*"):
            sizes += path.stat().st_size if path.is_file() and path.suffix != ".pyc" else 0
    return sizes


@pytest.fixture
def head(tmp_path: Path) -> Iterator[tuple[str, dict[str, str], Path]]:
    """``ray start --head`` with ports and folders of its own; ended by its process group, never by `ray stop`."""
    dashboard = free_port()
    sockets = tempfile.mkdtemp(prefix="ray-")  # the path of a socket has at most 107 bytes: tmp_path is too long
    environment = {
        **{k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "XRAY_DET_HOME": str(tmp_path / "home"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [
        BIN / "ray", "start", "--head", "--block", "--num-cpus=3", f"--port={free_port()}",
        f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}", f"--temp-dir={sockets}",
        f"--dashboard-agent-listen-port={free_port()}",
    ]  # fmt: skip
    with open(tmp_path / "head.log", "w") as log:
        process = subprocess.Popen(
            [str(c) for c in command], env=environment, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True
        )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        for _ in range(120):
            try:
                with urllib.request.urlopen(f"{address}/api/version", timeout=2):
                    break
            except urllib.error.HTTPError:  # it answers, if only that it wants a token
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "head.log").read_text()
                time.sleep(0.5)
        # the head wants a token by default, which it has written where the client looks for it
        yield address, environment | {"RAY_AUTH_MODE": "token"}, Path(sockets)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(sockets, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quickstart_as_a_job(head: tuple[str, dict[str, str], Path], tmp_path: Path) -> None:
    address, environment, sockets = head
    command = [
        BIN / "ray", "job", "submit", "--address", address, "--working-dir", ".",
        "--", "python", "experiments/quickstart.py", "--smoke",
    ]  # fmt: skip
    uploaded = 0
    with open(tmp_path / "submit.log", "w") as log:
        job = subprocess.Popen([str(c) for c in command], cwd=ROOT, env=environment, stdout=log, stderr=log)
        while job.poll() is None:  # the job's working copy is unpacked while it runs, and removed when it has ended
            uploaded = max([uploaded, *map(size_of, sockets.glob("session_2*/runtime_resources/*/_ray_pkg_*"))])
            time.sleep(0.5)
    text = (tmp_path / "submit.log").read_text()
    assert job.returncode == 0, text[-5000:]
    assert "succeeded" in text
    assert 1e5 < uploaded < 2.8e6, f"{uploaded} bytes, unpacked: some three times what was sent"

    # The outputs outlive the job's working copy, and know the commit.
    result = json.loads((tmp_path / "home" / "runs" / "quickstart-smoke" / "result.json").read_text())
    assert Path(result["weights"], "model.safetensors").exists()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result["commit"].startswith(commit.stdout.strip())

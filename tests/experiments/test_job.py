"""The quickstart as a submitted job: the README's command, on a head of its own, from upload to outputs."""

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
    done = subprocess.run(
        [str(c) for c in command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800, check=False
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-5000:]
    assert "succeeded" in text

    # what was uploaded, as it was unpacked for the job: the sources alone
    (copy,) = sockets.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*[!p]")
    size = sum(path.stat().st_size for path in copy.rglob("*") if path.is_file())
    assert (copy / "experiments" / "quickstart.py").exists()
    assert size < 5e6, f"uploaded {size} bytes"

    # The outputs outlive the job's working copy, and know the commit.
    result = json.loads((tmp_path / "home" / "runs" / "quickstart-smoke" / "result.json").read_text())
    assert Path(result["weights"], "model.safetensors").exists()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result["commit"].startswith(commit.stdout.strip())

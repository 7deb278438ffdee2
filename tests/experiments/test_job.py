"""The quickstart as a submitted job: the README's command, on a head of its own, from upload to outputs."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
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
def head(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """``ray start --head`` with ports and folders of its own; ended by its process group, never by `ray stop`."""
    dashboard = free_port()
    environment = {
        **{k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "XRAY_DET_HOME": str(tmp_path / "home"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [
        BIN / "ray", "start", "--head", "--block", "--num-cpus=3", f"--port={free_port()}",
        f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}", f"--temp-dir={tmp_path}/ray",
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
            except OSError:
                assert process.poll() is None, (tmp_path / "head.log").read_text()
                time.sleep(0.5)
        yield address, environment
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quickstart_as_a_job(head: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, environment = head
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

    uploaded = re.search(r"(?:package|working dir).*\(([\d.]+)\s*(KiB|MiB|B)\)", text)
    assert uploaded, text[:3000]
    size = float(uploaded[1]) * {"B": 1, "KiB": 2**10, "MiB": 2**20}[uploaded[2]]
    assert size < 5e6, f"uploaded {size:.0f} bytes"

    # The outputs outlive the job's working copy, and know the commit.
    result = json.loads((tmp_path / "home" / "runs" / "quickstart-smoke" / "result.json").read_text())
    assert Path(result["weights"], "model.safetensors").exists()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result["commit"].startswith(commit.stdout.strip())

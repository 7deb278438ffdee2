"""A Ray cluster of several raylets on this machine, each with its own name and, where told, its own view of folders.

A node's view is made by mount namespaces, so that what differs between nodes really differs for the processes there.
"""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent


def may_mount() -> bool:
    """Whether this user may make mount namespaces, and names of hosts."""
    command = ["unshare", "-m", "-u", "sh", "-c", "mount -t tmpfs none /mnt && hostname other"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


def hide(folder: Path) -> str:
    """A shell command: an empty folder of the node's own instead of this one."""
    return f"mount -t tmpfs none {shlex.quote(str(folder))}"


def read_only(folder: Path) -> str:
    """A shell command: the folder cannot be written on the node."""
    place = shlex.quote(str(folder))
    return f"mount --bind {place} {place} && mount -o remount,bind,ro {place}"


def instead(path: Path, other: Path) -> str:
    """A shell command: at ``path`` lies ``other`` on the node."""
    return f"mount --bind {shlex.quote(str(other))} {shlex.quote(str(path))}"


@dataclass(frozen=True, kw_only=True)
class Raylets:
    """The cluster's address, the environment that a driver needs, and the processes of nodes by name."""

    address: str
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]]

    def freeze(self, name: str) -> None:
        """Stop the raylet of a node as a machine does that swaps: it is there, and does not answer."""
        (raylet,) = (
            p for p in psutil.Process(self.processes[name].pid).children(recursive=True) if p.name() == "raylet"
        )
        raylet.send_signal(signal.SIGSTOP)


@contextlib.contextmanager
def raylets(head: str, nodes: dict[str, str], environment: dict[str, str], logs: Path) -> Iterator[Raylets]:
    """A head and nodes of 2 CPUs each.

    Args:
        head: its name.
        nodes: name -> shell command that makes the node's view.
        environment: variables of all raylets.
        logs: folder of their output.
    """
    sockets = Path(tempfile.mkdtemp(prefix="ray-"))  # the path of a socket has at most 107 bytes: tmp_path is too long
    told = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    told |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", **environment}
    port = _free_port()
    processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(name: str, view: str, *options: str) -> None:
        ray = [str(BIN / "ray"), "start", "--block", "--num-cpus=2", f"--temp-dir={sockets / name}", *options]
        script = " && ".join(filter(None, [f"hostname {name}", view, f"exec {shlex.join(ray)}"]))
        log = open(logs / f"{name}.log", "wb")  # noqa: SIM115
        command = ["unshare", "-m", "-u", "sh", "-c", script]
        processes[name] = subprocess.Popen(command, env=told, stdout=log, stderr=log, start_new_session=True)

    try:
        start(
            head,
            "",
            "--head",
            f"--port={port}",
            "--include-dashboard=false",
            f"--ray-client-server-port={_free_port()}",
        )
        _wait_for(port, processes[head], logs / f"{head}.log")
        for name, view in nodes.items():
            start(name, view, f"--address=127.0.0.1:{port}")
        for name in nodes:
            _wait_for_node(processes[name], logs / f"{name}.log")
        yield Raylets(
            address=f"127.0.0.1:{port}",
            environment={**told, "RAY_ADDRESS": f"127.0.0.1:{port}"},
            processes=processes,
        )
    finally:
        for process in reversed(processes.values()):
            _end(process)
        shutil.rmtree(sockets, ignore_errors=True)


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(240):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
        assert process.poll() is None, log.read_text()
        time.sleep(0.25)
    _wait_for_node(process, log)


def _wait_for_node(process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(240):
        if "Ray runtime started" in log.read_text():
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.25)
    raise AssertionError(f"the node did not start: {log.read_text()}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """The node and all below it, also what is stopped."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(signal.SIGCONT)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(15)
    for child in [*family, process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

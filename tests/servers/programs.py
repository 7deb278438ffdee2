"""Programs that servers and browsers come from, started so that nothing outlives the tests."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

#: A server refuses to run as root (PostgreSQL) or should not: it gets this user instead.
UNPRIVILEGED = "nobody"


def program(name: str, *folders: str) -> str:
    """Where a program lies; a test that needs a missing one fails: skipped, it would prove nothing and say so nowhere.

    Args:
        folders: glob patterns of folders outside PATH, the last match wins.
    """
    found = shutil.which(name)
    for pattern in folders:
        for folder in sorted(Path("/").glob(pattern.removeprefix("/"))):
            found = shutil.which(name, path=str(folder)) or found
    if found is None:
        pytest.fail(f"{name} is not installed: run .ci/debian-packages (make test-slow does)", pytrace=False)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server process: its output goes to a file, it ends with the tests even when those are killed.

    Args:
        command: what to run.
        log: where its output goes.
        ready: answers whether it serves; asked until it says so.
        environment: added to this process's.
        user: whom to run it as; None: as ourselves.
        stop: the signal that ends it in good order.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        stop: signal.Signals = signal.SIGTERM,
    ) -> None:
        # setpriv changes the user and asks the kernel to end the server with us: a killed pytest runs no fixture's end.
        prefix = [program("setpriv"), f"--pdeathsig={stop.name}"]
        if user is not None:
            entry = pwd.getpwnam(user)
            prefix += [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
        self._command, self._stop_signal = [*prefix, *command], stop
        self.log, self._ready = log, ready
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, patience_s: float = 120.0) -> None:
        assert self._process is None, "it runs already"
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, cwd=self.log.parent,
            )  # fmt: skip
        deadline = time.monotonic() + patience_s
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"{' '.join(self._command)} does not serve:\n{self.said()}", pytrace=False)
            time.sleep(0.1)

    def stop(self) -> None:
        """In good order, or by force after a while; harmless when it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(self._stop_signal)
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it may have left in its session
        process.wait()

    def kill(self) -> None:
        """As a lost machine ends it."""
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True

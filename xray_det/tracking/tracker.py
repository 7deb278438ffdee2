"""The driver's side of tracking: one MLflow run a training, whatever happens to the server or to the training.

tracker = Tracker(run_folder, experiment="fod", name="soft-balance-0.7")     # in the driver
journal = Journal(run_folder, "rank0"); journal.log({"loss": 0.3}, step=12)  # in a worker, on any node
tracker.finish("FINISHED")
"""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final, Literal
from urllib.parse import urlencode

from xray_det import display, storage
from xray_det.errors import InputError
from xray_det.tracking.address import check_uri, default_uri, without_password
from xray_det.tracking.environment import environment_tags
from xray_det.tracking.journal import Journal, flatten, tracking_folder
from xray_det.tracking.outbox import Outbox
from xray_det.tracking.system import SystemMetrics

log = display.logger(__name__)

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

#: Without it the UI opens the pages that it has for tests of chat bots.
WORKFLOW: Final = {"workflowType": "machine_learning"}
#: Bounds of the sender's waits. mlflow's own retries are off: the sender has its own, and shows what it waits for.
SENDER_ENVIRONMENT: Final = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where the run is in MLflow."""

    uri: str
    run_id: str
    experiment_id: str

    @property
    def address(self) -> str:
        """What to open: the run's page."""
        return f"{_ui(self.uri)}/#/experiments/{self.experiment_id}/runs/{self.run_id}?{urlencode(WORKFLOW)}"


def compare_address(uri: str, experiment_ids: Sequence[str], run_ids: Sequence[str]) -> str:
    """The UI's page that compares runs: parallel coordinates, scatter and contour plots, tables of what differs.

    The page of an experiment hides trials below their parent and draws none of their metrics.
    """
    lists = {"runs": run_ids, "experiments": experiment_ids}
    query = {name: json.dumps(list(ids), separators=(",", ":")) for name, ids in lists.items()}
    return f"{_ui(uri)}/#/compare-runs?{urlencode({**query, **WORKFLOW})}"


def _ui(uri: str) -> str:
    """Where the pages are: on the server, or for a database where ``make ui`` serves them."""
    return uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"


class Tracker(Journal):
    """Owns a training's MLflow run: creates it or, after a restart, goes on with it; sends all journals of the run.

    It is a journal itself, for what the driver tracks: ``log``, ``params``, ``tags``, ``figure``, ``table``, ...

    The driver makes one. Calls never wait for the server: records go to the run folder, and a process of its own sends
    them. A server that is down, hangs or answers 5xx costs a warning.

    Args:
        run_folder: the run's folder, a local path or any pyarrow.fs URI.
        uri: tracking address; None: ``default_uri()``; ``off``: journal only.
        experiment: name of the MLflow experiment.
        name: name of the run.
        parent_run_id: MLflow id of the parent run, for a trial of a sweep.
        parent_folder: instead, the parent's run folder: works too when the server was down when the parent began.
        system_metrics_s: seconds between samples of this machine, 0 for none.
        patience_s: how long ``ready`` waits for the first answer before going on without one.
        wait: call ``ready`` at once. Without, other slow things can start meanwhile; call it then.

    Attributes:
        uri: the tracking address in use.
        created: seconds since 1970 at which the run folder was first tracked.

    Raises:
        InputError: the address cannot work: bad scheme, 401/403/404, no MLflow behind it, unknown host, deleted
            experiment; or the folder was tracked as another experiment.
    """

    def __init__(
        self,
        run_folder: str | os.PathLike[str],
        *,
        experiment: str,
        name: str,
        uri: str | None = None,
        parent_run_id: str | None = None,
        parent_folder: str | None = None,
        system_metrics_s: float = 10.0,
        patience_s: float = 60.0,
        wait: bool = True,
    ) -> None:
        self.uri = check_uri(uri or default_uri())
        self.run_folder = os.fspath(run_folder)
        super().__init__(run_folder, "driver")
        address = storage.join(tracking_folder(run_folder), "run.json")
        if storage.exists(address):
            run = storage.read_json(address)
            if run["experiment"] != experiment:
                raise InputError(
                    address,
                    f"this run is tracked in the experiment {run['experiment']!r}, not {experiment!r}",
                    "Give that experiment's name, or another run folder",
                )
        else:
            run = {
                "key": uuid.uuid4().hex,
                "created": time.time(),
                "experiment": experiment,
                "name": name,
                "parent_run_id": parent_run_id,
                "parent_folder": parent_folder,
            }
        run["uri"] = without_password(self.uri)
        storage.write_json(address, run)
        self.created: float = run["created"]
        self.status("RUNNING")
        self.tags(environment_tags())
        self._patience_s = patience_s
        self._sender = None if self.uri == "off" else SenderProcess(self.run_folder, self.uri)
        self._system = SystemMetrics(self, started=self.created, interval_s=system_metrics_s)
        if wait:
            self.ready()
        if system_metrics_s > 0:
            self._system.start()

    def ready(self) -> None:
        """Wait for the server's first answer, a bounded time (a database takes 4 to 8 s: MLflow is imported).

        Raises:
            InputError: the address cannot work.
        """
        if self._sender is None:
            return
        try:
            self._sender.first_word(self._patience_s)
        except InputError:
            self._system.stop()
            self._sender.kill()
            self.close()
            raise

    @property
    def destination(self) -> Destination | None:
        """The run in MLflow; None while no server has answered yet."""
        return self._sender.destination if self._sender else None

    def config(self, config: Mapping[str, Any]) -> None:
        """A resolved experiment: every leaf a parameter, and the whole as artifact ``config.json``."""
        self.params(flatten(config))
        self.json("config", config)

    def finish(self, status: Status = "FINISHED", patience_s: float = 30.0) -> int:
        """End the run; wait a bounded time until everything is sent; how many records are left (0: all sent).

        What is left stays in the run folder, and a warning says the command that sends it.
        """
        self._system.stop()
        self.status(status)
        super().close()
        if self._sender is None:
            return 0
        left = self._sender.finish(patience_s)
        if self._sender.wrong is not None:
            log.warning("%s", self._sender.wrong)
        if left:
            log.warning(
                "%s: MLflow did not take %d records; they are kept in %s. Send them with: "
                "python -m xray_det.tracking.resend %s",
                without_password(self.uri), left, self.run_folder, self.run_folder,
            )  # fmt: skip
        return left

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish("FINISHED")
        else:
            self.finish("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")


class SenderProcess:
    """The process that runs sender.py, and what it last said."""

    def __init__(self, run_folder: str, uri: str) -> None:
        self._run_folder, self._uri, self._shown = run_folder, uri, without_password(uri)
        self.destination: Destination | None = None
        self._spoke = threading.Event()
        self.wrong: InputError | None = None
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "xray_det.tracking.sender", self._run_folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                **SENDER_ENVIRONMENT,
                "MLFLOW_TRACKING_URI": self._uri,  # not an argument: everybody on the machine sees those
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            },
            start_new_session=True,  # Ctrl-C is for the training; its end is the sender's signal to finish
        )
        threading.Thread(target=self._listen, args=[self._process.stdout], daemon=True, name="tracking").start()

    def _listen(self, stdout: IO[bytes]) -> None:
        for line in stdout:
            try:
                said = json.loads(line)
            except ValueError:  # a library's print
                continue
            state = said.pop("state", None)
            if state == "ready":
                self.destination = Destination(uri=self._uri, **said)
            elif state == "wrong":
                self.wrong = InputError(**said)
            elif state == "down":
                log.warning("MLflow at %s does not answer (%s); records wait for it", self._shown, said["problem"])
            self._spoke.set()
        self._spoke.set()

    def first_word(self, patience_s: float) -> None:
        """Wait for the first answer. Raises InputError if the address is wrong."""
        if not self._spoke.wait(patience_s):
            log.warning("MLflow at %s has not answered for %g s; records are kept", self._shown, patience_s)
        if self.wrong is not None:
            raise self.wrong

    def finish(self, patience_s: float) -> int:
        """Let it send what is there, for at most ``patience_s``; how many records are left."""
        if self._process.poll() is not None and self.wrong is None:
            self._start()  # something killed it
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"close\n")
            self._process.stdin.flush()
            self._process.wait(patience_s)
        except (OSError, subprocess.TimeoutExpired):
            self.kill()
        return Outbox(self._run_folder, self._uri).left()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

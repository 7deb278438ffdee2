"""A run in MLflow, fed from the run's journal: with runs.py, which reads back, the only file that knows MLflow.

Nothing here depends on mlflow's global tracking address or active run: address and run are arguments.

How much was sent is written down after sending (outbox.py). A crash between the two sends a few records twice:
harmless, because MLflow stores the same (key, step, timestamp, value) once, and timestamps are the journal's.
"""

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from xray_det import display, storage
from xray_det.errors import InputError
from xray_det.tracking.address import database_file, without_password
from xray_det.tracking.database import check_database
from xray_det.tracking.journal import tracking_folder
from xray_det.tracking.outbox import Outbox

log = display.logger(__name__)

KEY_TAG: Final = "xray_det.key"  # finds the run again when the answer to its creation was lost
#: The UI then opens the experiment among model trainings; it takes one with tables for a test of chat bots.
EXPERIMENT_TAGS: Final = {"mlflow.experimentKind": "custom_model_development"}
METRICS_A_BATCH, PARAMS_A_BATCH = 1000, 100  # the server's limits
RECORDS_A_BATCH: Final = 500  # of the journal
PARAM_CHARACTERS, TAG_CHARACTERS, KEY_CHARACTERS = 6000, 5000, 250
#: The server read the record and calls it invalid.
REFUSED: Final = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})


class MlflowRun:
    """One run at one tracking address, and how much of the journal it has.

    Args:
        run_folder: the run's folder; ``tracking/run.json`` in it (written by Tracker) names key, experiment, run name,
            parent.
        uri: tracking address.
    """

    def __init__(self, run_folder: str, uri: str) -> None:
        self._folder, self._uri = tracking_folder(run_folder), uri
        self._run: dict[str, Any] = storage.read_json(storage.join(self._folder, "run.json"))
        self.outbox = Outbox(run_folder, uri)
        self._client: MlflowClient | None = None
        self._artifact_pause, self._artifacts_at = 1.0, 0.0

    def connect(self) -> None:
        """Find or create the experiment and the run; does nothing while connected.

        Raises:
            InputError: the address or the experiment is wrong; waiting does not help.
            Exception: whatever mlflow raises while the server is away.
        """
        if self._client is not None:
            return
        # A server that knew us is only away, whatever it answers; a database is asked each time, for mlflow's own
        # attempts would hold us up for minutes.
        if self.outbox.run_id is None or not self._uri.startswith("http"):
            check_answer(self._uri)
        try:
            self._connect()
        except MlflowException as error:
            if "out-of-date database schema" not in str(error):
                raise
            shown = without_password(self._uri)
            raise InputError(shown, first_line(error), "Run: mlflow db upgrade ADDRESS") from error

    def _connect(self) -> None:
        client, outbox = MlflowClient(tracking_uri=self._uri), self.outbox
        with _alone(self._uri):
            experiment_id = self._find_experiment(client)
        if outbox.run_id is not None and not _is_there(client, outbox.run_id):
            log.warning("the run is gone from %s: a new one gets the whole journal", self._uri)
            outbox.start_again()
        if outbox.run_id is None:
            outbox.run_id = self._find_run(client, experiment_id)
        outbox.experiment_id = experiment_id
        outbox.save()
        self._client = client

    def _find_experiment(self, client: MlflowClient) -> str:
        name = self._run["experiment"]
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                # Without a location mlflow puts artifacts of a local database into the working directory.
                folder = storage.home() / "mlartifacts" / _slug(name)
                location = None if self._uri.startswith("http") else folder.as_uri()
                return str(client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(name)  # another run's sender was faster
        if found is None or found.lifecycle_stage != "active":
            raise InputError(
                f"experiment {name!r}", "was deleted in MLflow", "Restore it there or give another experiment name"
            )
        return str(found.experiment_id)

    def _find_run(self, client: MlflowClient, experiment_id: str) -> str:
        key = self._run["key"]
        found = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'", ViewType.ACTIVE_ONLY, 1)
        if found:
            return str(found[0].info.run_id)
        tags = {KEY_TAG: key, "run_folder": self.outbox.run_folder}
        if parent := self._parent():
            tags["mlflow.parentRunId"] = parent
        created = client.create_run(
            experiment_id, start_time=int(self._run["created"] * 1000), tags=tags, run_name=self._run["name"]
        )
        return str(created.info.run_id)

    def _parent(self) -> str | None:
        if folder := self._run.get("parent_folder"):
            parent = Outbox(folder, self._uri).run_id
            if parent is None:
                raise RuntimeError(f"the parent run of {folder} is not in MLflow yet")
            return parent
        return self._run.get("parent_run_id")

    # Sending

    def send(self, *, final: bool = False) -> None:
        """Send everything new; raises whatever mlflow raises while the server is away.

        Artifacts that their store refuses are tried again after a pause, or now when this is the ``final`` time.
        """
        try:
            self.connect()
            self.outbox.read()
            while batch := [record for _, _, record in self.outbox.pending[:RECORDS_A_BATCH]]:
                self._send(batch)
                self.outbox.sent(len(batch))
            self._send_later(final)
        except Exception:
            self._client = None  # the next attempt looks whether the run is still there
            raise

    def mark_killed(self) -> None:
        """The training is gone without a last word; one that goes on says RUNNING again."""
        if self.outbox.running:
            self._mlflow.set_terminated(self.outbox.run_id, "KILLED")

    def _send(self, batch: list[dict[str, Any]]) -> None:
        metrics: list[Metric] = []
        for record in batch:
            for key, value in record.get("metrics", {}).items():
                metrics.append(Metric(entity_key(key), value, record["t"], record["step"]))
        for start in range(0, len(metrics), METRICS_A_BATCH):
            self._log_batch(metrics=metrics[start : start + METRICS_A_BATCH])
        for record in batch:
            if "params" in record:
                self._send_params(record["params"])
            elif "tags" in record:
                tags = [RunTag(entity_key(k), v[:TAG_CHARACTERS]) for k, v in record["tags"].items()]
                for start in range(0, len(tags), PARAMS_A_BATCH):
                    self._log_batch(tags=tags[start : start + PARAMS_A_BATCH])
            elif "artifact" in record:
                entry = [record["artifact"], record["kind"]]
                if entry not in self.outbox.later:  # written twice, or this batch is sent a second time
                    self.outbox.later.append(entry)
            elif "inputs" in record:
                self._unless_refused("inputs", partial(self._send_inputs, record["inputs"]))
            elif "status" in record:
                if record["status"] == "RUNNING":
                    self._mlflow.update_run(self.outbox.run_id, status="RUNNING")
                else:
                    self._mlflow.set_terminated(self.outbox.run_id, record["status"], end_time=record["t"])

    @property
    def _mlflow(self) -> MlflowClient:
        assert self._client is not None
        return self._client

    def _log_batch(self, **entities: Any) -> None:
        kind, items = next(iter(entities.items()))
        send = partial(self._mlflow.log_batch, self.outbox.run_id, **entities)
        if len(items) == 1:
            self._unless_refused(f"{kind} {items[0].key!r}", send)
        else:
            try:
                send()
            except MlflowException as error:
                if error.error_code not in REFUSED:
                    raise
                middle = len(items) // 2  # find the one that the server refuses, and let the others through
                self._log_batch(**{kind: items[:middle]})
                self._log_batch(**{kind: items[middle:]})

    def _unless_refused(self, what: str, send: Callable[[], None]) -> None:
        """A record that the server calls invalid twice is dropped with a warning: kept, it would hold up all others.

        Twice, since of two runs that name the same dataset first at the same moment one is called invalid.
        """
        for again in (True, False):
            try:
                send()
                break
            except MlflowException as error:
                if error.error_code not in REFUSED:
                    raise
                if not again:
                    log.warning("the server refuses %s: %s", what, first_line(error))

    def _send_params(self, values: Mapping[str, str]) -> None:
        """A parameter of MLflow cannot change; a run that goes on with another value says so in a tag."""
        cut = {entity_key(key): value[:PARAM_CHARACTERS] for key, value in values.items()}
        known = self._mlflow.get_run(self.outbox.run_id).data.params
        new = [Param(key, value) for key, value in cut.items() if key not in known]
        for start in range(0, len(new), PARAMS_A_BATCH):
            self._log_batch(params=new[start : start + PARAMS_A_BATCH])
        changed = [RunTag(f"changed.{k}"[:KEY_CHARACTERS], v[:TAG_CHARACTERS])
                   for k, v in cut.items() if known.get(k, v) != v]  # fmt: skip
        if changed:
            self._log_batch(tags=changed[:PARAMS_A_BATCH])

    def _send_later(self, final: bool) -> None:
        """Send artifacts; one that fails goes to the end of the queue, and all wait, so that metrics do not."""
        queue = self.outbox.later
        for _ in range(len(queue)):
            if not final and time.monotonic() < self._artifacts_at:
                return
            path, kind = queue.pop(0)
            try:
                self._send_artifact(path, kind)
                self._artifact_pause = 1.0
            except Exception as error:  # boto, requests, file systems: each store raises its own
                log.warning("artifact %s waits: %s", path, first_line(error))
                queue.append([path, kind])
                self._artifacts_at = time.monotonic() + self._artifact_pause
                self._artifact_pause = min(2 * self._artifact_pause, 60.0)
            self.outbox.save()

    def _send_artifact(self, path: str, kind: str) -> None:
        folder, _, name = path.rpartition("/")
        address = storage.join(self._folder, "artifacts", path)
        if not storage.exists(address):
            log.warning("artifact %s was removed before it was sent", address)
            return
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary) / name
            local.write_bytes(storage.read_bytes(address))
            self._mlflow.log_artifact(self.outbox.run_id, str(local), folder or None)
        if kind == "table":
            tag = "mlflow.loggedArtifacts"
            listed = json.loads(self._mlflow.get_run(self.outbox.run_id).data.tags.get(tag, "[]"))
            entry = {"path": path, "type": "table"}
            if entry not in listed:
                self._mlflow.set_tag(self.outbox.run_id, tag, json.dumps([*listed, entry]))

    def _send_inputs(self, datasets: list[dict[str, str]]) -> None:
        self._mlflow.log_inputs(
            self.outbox.run_id,
            [
                DatasetInput(
                    Dataset(
                        name=dataset["name"],
                        digest=dataset["digest"][:36],
                        source_type="local",
                        source=json.dumps({"uri": dataset.get("source", "")}),
                        profile=dataset.get("profile"),
                    ),
                    [InputTag("mlflow.data.context", dataset.get("context", "training"))],
                )
                for dataset in datasets
            ],
        )


def check_answer(uri: str) -> None:
    """Tell an address that cannot work from one that does not answer now.

    Raises:
        InputError: waiting does not mend it.
        Exception: it does not answer.
    """
    if uri.startswith("http"):
        check_server(uri)
    elif not uri.startswith("sqlite"):
        check_database(uri)


def check_server(uri: str) -> None:
    """Ask a server for its experiments, to tell a wrong address from a server that is away.

    Raises:
        InputError: an answer that no waiting mends: 4xx, something that is not MLflow, a host nobody knows.
        Exception: no answer, or 5xx.
    """
    path, problem = "/api/2.0/mlflow/experiments/search?max_results=1", ""
    try:
        response = http_request(get_default_host_creds(uri), path, "GET", raise_on_status=False)
    except MlflowException as error:
        if "NameResolutionError" not in str(error):
            raise
        problem = "no such host"
    else:
        status, text = response.status_code, response.text.strip()[:200]
        if status >= 500 or status in (408, 425, 429):
            raise ConnectionError(f"HTTP {status}: {text}")
        if status != 200:
            problem = f"HTTP {status}: {text}"
        elif not text.startswith("{"):
            problem = f"what answers there is not MLflow: {text}"
    if problem:
        remedy = "Correct the tracking address (--tracking-uri or MLFLOW_TRACKING_URI), its credentials"
        raise InputError(without_password(uri), problem, f"{remedy}, or the server's --allowed-hosts")


def entity_key(key: str) -> str:
    """A name MLflow takes: other characters become ``_``, and four digits of a hash keep two such names apart."""
    clean = re.sub(r"[^\w.\- /:]", "_", key)
    clean = "/".join(part.strip(".") or "_" for part in clean.split("/"))
    if clean == key and 0 < len(key) <= KEY_CHARACTERS:
        return key
    return f"{clean[: KEY_CHARACTERS - 5]}_{hashlib.sha256(key.encode(errors='replace')).hexdigest()[:4]}"


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process at a time for a SQLite address: four that create its tables together fail."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    import fcntl

    database = database_file(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{database}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _slug(name: str) -> str:
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-")
    return clean if clean == name else f"{clean}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _is_there(client: MlflowClient, run_id: str) -> bool:
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

"""A run in MLflow, fed from the run's journal: the only file that knows MLflow.

Nothing here depends on mlflow's global tracking address or active run: address and run are arguments.

What was sent is written to ``RUN/tracking/sent-HASH.json`` (HASH of the address). A crash between sending and
writing that down sends a few records twice: harmless, because MLflow stores the same (key, step, timestamp, value)
once, and timestamps are the journal's. Points that a resumed training passed a second time carry other timestamps;
they are dropped here, by (key, step).
"""

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from xray_det import storage
from xray_det.errors import InputError
from xray_det.tracking.journal import Reader, tracking_folder

log = logging.getLogger(__name__)

KEY_TAG: Final = "xray_det.key"  # finds the run again when the answer to its creation was lost
METRICS_A_BATCH, PARAMS_A_BATCH = 1000, 100  # the server's limits
PARAM_CHARACTERS, TAG_CHARACTERS, KEY_CHARACTERS = 6000, 5000, 250
#: Answers that waiting does not mend; seen before the run was ever reached they mean a wrong address.
WRONG: Final = frozenset(
    {
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "CUSTOMER_UNAUTHORIZED",
        "ENDPOINT_NOT_FOUND",
        "RESOURCE_DOES_NOT_EXIST",
        "NOT_FOUND",
        "BAD_REQUEST",
        "INVALID_PARAMETER_VALUE",
        "NOT_IMPLEMENTED",
        "FEATURE_DISABLED",
    }
)
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
        name = hashlib.sha256(uri.encode()).hexdigest()[:8]
        self._state_address = storage.join(self._folder, f"sent-{name}.json")
        state = storage.read_json(self._state_address) if storage.exists(self._state_address) else {}
        self.run_id: str | None = state.get("run_id")
        self.experiment_id: str | None = state.get("experiment_id")
        self._client: MlflowClient | None = None
        self._warned = False
        self.running = False  # by the last status record
        self._begin(run_folder, state.get("sent", {}), state.get("later", []))

    def _begin(self, run_folder: str, sent: dict[str, int], later: list[list[str]]) -> None:
        self._run_folder = run_folder
        self._sent = sent
        self._later = later  # artifacts (path, kind) that the artifact store refused: they must not hold up metrics
        self._reader = Reader(run_folder)  # from the beginning: points sent before are needed to know a repeat
        self._seen: dict[str, set[int]] = {}
        self._pending: list[tuple[str, int, dict[str, Any]]] = []

    def connect(self) -> None:
        """Find or create the experiment and the run.

        Raises:
            InputError: the address or the experiment is wrong; waiting does not help.
            Exception: whatever mlflow raises while the server is away.
        """
        reached_before = self.run_id is not None
        try:
            self._connect()
        except MlflowException as error:
            wrong = error.error_code in WRONG or "NameResolutionError" in str(error)
            if wrong and not reached_before:
                raise InputError(
                    self._uri,
                    f"is no tracking server for us: {first_line(error)}",
                    "Correct the tracking address (--tracking-uri or MLFLOW_TRACKING_URI) or its credentials",
                ) from error
            raise

    def _connect(self) -> None:
        client = MlflowClient(tracking_uri=self._uri)
        with _alone(self._uri):
            experiment_id = self._find_experiment(client)
        if self.run_id is not None:
            try:
                run = client.get_run(self.run_id)
                if run.info.lifecycle_stage != "active":
                    self.run_id = None
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                self.run_id = None
            if self.run_id is None:
                log.warning("the run is gone from %s: a new one receives the whole journal", self._uri)
                self._run["key"] = f"{self._run['key']}.again"
                self._begin(self._run_folder, {}, [])
        if self.run_id is None:
            self.run_id = self._find_run(client, experiment_id)
        self.experiment_id = experiment_id
        self._client = client
        self._save()

    def _find_experiment(self, client: MlflowClient) -> str:
        name = self._run["experiment"]
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                # Without a location mlflow puts artifacts of a local database into the working directory.
                location = None if self._uri.startswith("http") else str(storage.home() / "mlartifacts" / _slug(name))
                return str(client.create_experiment(name, artifact_location=location))
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
        tags = {KEY_TAG: key, "run_folder": self._run_folder}
        if parent := self._parent():
            tags["mlflow.parentRunId"] = parent
        created = client.create_run(
            experiment_id, start_time=int(self._run["created"] * 1000), tags=tags, run_name=self._run["name"]
        )
        return str(created.info.run_id)

    def _parent(self) -> str | None:
        if self._run.get("parent_run_id"):
            return str(self._run["parent_run_id"])
        if folder := self._run.get("parent_folder"):
            name = Path(self._state_address).name
            state = storage.join(tracking_folder(folder), name)
            if not storage.exists(state):
                raise RuntimeError(f"the parent run of {folder} is not there yet")
            return str(storage.read_json(state)["run_id"])
        return None

    # Sending

    def send(self) -> None:
        """Send everything new. Raises whatever mlflow raises while the server is away."""
        try:
            if self._client is None:
                self.connect()
            self._read()
            while self._pending:
                batch = self._pending[:500]
                self._send(batch)
                for segment, offset, _ in batch:
                    self._sent[segment] = offset
                del self._pending[: len(batch)]
                self._save()
            self._send_later()
        except Exception:
            self._client = None  # the next attempt looks whether the run is still there
            raise

    def left(self) -> int:
        """Records that are in the journal and not sent."""
        self._read()
        return len(self._pending) + len(self._later)

    def mark_killed(self) -> None:
        """The training is gone without a last word; one that goes on says RUNNING again."""
        if self.running:
            self._mlflow.set_terminated(self.run_id, "KILLED")

    def _read(self) -> None:
        for segment, offset, record in self._reader.new():
            new = {
                key: value
                for key, value in record.get("metrics", {}).items()
                if record["step"] not in self._seen.setdefault(key, set())
            }
            for key in new:
                self._seen[key].add(record["step"])
            if "status" in record:
                self.running = record["status"] == "RUNNING"
            if offset > self._sent.get(segment, 0) and (new or "metrics" not in record):
                self._pending.append((segment, offset, record | {"metrics": new} if new else record))

    def _send(self, batch: list[tuple[str, int, dict[str, Any]]]) -> None:
        metrics: list[Metric] = []
        for _, _, record in batch:
            for key, value in record.get("metrics", {}).items():
                metrics.append(Metric(entity_key(key), value, record["t"], record["step"]))
        for start in range(0, len(metrics), METRICS_A_BATCH):
            self._log_batch(metrics=metrics[start : start + METRICS_A_BATCH])
        for _, _, record in batch:
            if "params" in record:
                self._send_params(record["params"])
            elif "tags" in record:
                tags = [RunTag(entity_key(k), v[:TAG_CHARACTERS]) for k, v in record["tags"].items()]
                for start in range(0, len(tags), PARAMS_A_BATCH):
                    self._log_batch(tags=tags[start : start + PARAMS_A_BATCH])
            elif "artifact" in record:
                self._later.append([record["artifact"], record["kind"]])
            elif "inputs" in record:
                self._unless_refused("inputs", partial(self._send_inputs, record["inputs"]))
            elif "status" in record:
                if record["status"] == "RUNNING":
                    self._mlflow.update_run(self.run_id, status="RUNNING")
                else:
                    self._mlflow.set_terminated(self.run_id, record["status"], end_time=record["t"])

    @property
    def _mlflow(self) -> MlflowClient:
        assert self._client is not None
        return self._client

    def _log_batch(self, **entities: Any) -> None:
        kind, items = next(iter(entities.items()))
        send = partial(self._mlflow.log_batch, self.run_id, **entities)
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
        """A record that the server calls invalid is dropped with a warning: kept, it would hold up all others."""
        try:
            send()
        except MlflowException as error:
            if error.error_code not in REFUSED:
                raise
            log.warning("the server refuses %s: %s", what, first_line(error))

    def _send_params(self, values: Mapping[str, str]) -> None:
        """A parameter of MLflow cannot change; a run that goes on with another value says so in a tag."""
        cut = {entity_key(key): value[:PARAM_CHARACTERS] for key, value in values.items()}
        known = self._mlflow.get_run(self.run_id).data.params
        new = [Param(key, value) for key, value in cut.items() if key not in known]
        for start in range(0, len(new), PARAMS_A_BATCH):
            self._log_batch(params=new[start : start + PARAMS_A_BATCH])
        changed = [RunTag(f"changed.{k}"[:KEY_CHARACTERS], v[:TAG_CHARACTERS])
                   for k, v in cut.items() if known.get(k, v) != v]  # fmt: skip
        if changed:
            self._log_batch(tags=changed[:PARAMS_A_BATCH])

    def _send_later(self) -> None:
        """Artifacts, each tried once; those that fail stay for the next time."""
        failed: list[list[str]] = []
        for path, kind in self._later:
            try:
                self._send_artifact(path, kind)
            except Exception as error:  # boto, requests, file systems: each store raises its own
                failed.append([path, kind])
                if not self._warned:
                    log.warning("artifact %s waits: %s", path, first_line(error))
                self._warned = True
        if failed != self._later:
            self._later = failed
            self._save()

    def _send_artifact(self, path: str, kind: str) -> None:
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary) / name
            local.write_bytes(storage.read_bytes(storage.join(self._folder, "artifacts", path)))
            self._mlflow.log_artifact(self.run_id, str(local), folder or None)
        if kind == "table":
            tag = "mlflow.loggedArtifacts"
            listed = json.loads(self._mlflow.get_run(self.run_id).data.tags.get(tag, "[]"))
            entry = {"path": path, "type": "table"}
            if entry not in listed:
                self._mlflow.set_tag(self.run_id, tag, json.dumps([*listed, entry]))

    def _send_inputs(self, datasets: list[dict[str, str]]) -> None:
        self._mlflow.log_inputs(
            self.run_id,
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

    def _save(self) -> None:
        state = {"uri": self._uri, "run_id": self.run_id, "experiment_id": self.experiment_id}
        storage.write_json(self._state_address, state | {"sent": self._sent, "later": self._later})


def entity_key(key: str) -> str:
    """A name MLflow takes: other characters become ``_``, and four digits of a hash keep two such names apart."""
    clean = re.sub(r"[^\w.\- /:]", "_", key)
    clean = "/".join(part.strip(".") or "_" for part in clean.split("/"))
    if clean == key and 0 < len(key) <= KEY_CHARACTERS:
        return key
    return f"{clean[: KEY_CHARACTERS - 5]}_{hashlib.sha256(key.encode()).hexdigest()[:4]}"


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process at a time for a SQLite address: four that create its tables together fail."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    import fcntl

    database = Path(uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{database}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _slug(name: str) -> str:
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-")
    return clean if clean == name else f"{clean}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

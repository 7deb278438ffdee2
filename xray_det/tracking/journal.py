"""The journal: what a run wants tracked, written beside the run first and sent to MLflow afterwards.

Every process of a training appends records to a file of its own (a segment) under ``RUN/tracking/journal``; one
sender (sender.py) follows all of them. So the training never talks to a server, nothing that a server refuses is
lost, and a worker on another node needs no tracking address, only the run folder.

A record is one JSON line with a time ``t`` (milliseconds since 1970) and one of
``metrics`` + ``step`` | ``params`` | ``tags`` | ``artifact`` + ``kind`` | ``inputs`` | ``status``.

A point is a (key, step). Training that resumes from a checkpoint passes some steps again and journals their points
again; readers keep the first record of a point and drop the others (``read_points``, mlflow_run.py).
"""

import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow.fs as pafs

from xray_det import display, storage
from xray_det.errors import InputError
from xray_det.lettering import figure_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = display.logger(__name__)

#: An object store has no append: a segment there is rewritten whole every few seconds, so it must stay small.
REMOTE_SEGMENT_BYTES: Final = 256 * 1024
REMOTE_FLUSH_SECONDS: Final = 5.0


def tracking_folder(run_folder: str | os.PathLike[str]) -> str:
    return storage.join(run_folder, "tracking")


class Journal:
    """Appends records to a segment of its own; never waits for a server.

    On a local or mounted run folder each record is on the file system when the call returns (about 20 microseconds),
    so a process killed with SIGKILL loses none. On an object store records wait in memory for up to five seconds;
    call ``flush()`` before a checkpoint is reported. While a disk is full or an object store refuses, records wait in
    memory, which is said once.

    Args:
        run_folder: the run's folder, a local path or any pyarrow.fs URI, seen by every process of the run.
        writer: who writes, e.g. ``driver`` or ``rank0``; names the segments. Several processes may share a name.

    Raises:
        InputError: the run folder cannot be written.
    """

    def __init__(self, run_folder: str | os.PathLike[str], writer: str) -> None:
        self.folder = tracking_folder(run_folder)
        self._writer = writer
        self._address = storage.join(self.folder, "journal")
        fs, self._path = storage.locate(self._address)
        self._local = isinstance(fs, pafs.LocalFileSystem)
        self._lock, self._remote_lock = threading.RLock(), threading.Lock()
        self._waiting: list[bytes] = []  # records not yet on storage
        self._warned = False
        self._descriptor: int | None = None  # of the local segment
        self._segment: str | None = None  # of the remote segment
        self._segment_bytes = self._segment_stored = b""
        self._closed = threading.Event()
        if self._local:
            try:
                os.makedirs(self._path, exist_ok=True)
            except OSError as error:
                raise InputError(self._path, f"cannot be written ({error})", "Choose another run folder") from error
        else:  # has no folders
            threading.Thread(target=self._flush_for_ever, daemon=True, name="journal").start()

    # What can be tracked

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics of a step: any mapping of names to numbers (0-d tensors and arrays too); NaN and inf are kept."""
        self._append({"metrics": {key: float(value) for key, value in metrics.items()}, "step": int(step)})

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters, flat: ``{"phases.1.sampling.lam": 0.7}``. See ``flatten`` for a nested config."""
        self._append({"params": {key: display.lines(value) for key, value in values.items()}})

    def tags(self, values: Mapping[str, Any]) -> None:
        self._append({"tags": {key: display.lines(value) for key, value in values.items()}})

    def figure(self, name: str, figure: "Figure") -> str:
        """Save a matplotlib figure as artifact ``figures/NAME`` (.png unless the name says otherwise); its address."""
        name = storage.file_name(name if Path(name).suffix else f"{name}.png")
        image = figure_bytes(figure, format=Path(name).suffix[1:], bbox_inches="tight")
        return self.artifact(f"figures/{name}", image)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> str:
        """Save rows as artifact ``tables/NAME.json`` in the layout that the MLflow UI shows as a table; its address."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        value = {"columns": columns, "data": [[_plain(row.get(key)) for key in columns] for row in rows]}
        return self.artifact(f"tables/{name}.json", json.dumps(value).encode(), kind="table")

    def json(self, name: str, value: Any) -> str:
        """Save a JSON-able value as artifact ``NAME.json``; its address."""
        return self.artifact(f"{name}.json", json.dumps(value, indent=1, ensure_ascii=False, default=str).encode())

    def artifact(self, path: str, payload: bytes | str | Path, kind: str = "file") -> str:
        """Keep bytes (or a local file's content) as the artifact ``path`` of the run, replacing one of that name.

        For pictures, tables and reports. A checkpoint is gigabytes: tag its address instead.
        """
        content = payload if isinstance(payload, bytes) else Path(payload).read_bytes()
        address = storage.join(self.folder, "artifacts", path)
        storage.write_bytes(address, content)
        self._append({"artifact": path, "kind": kind})
        return address

    def inputs(self, datasets: Sequence[Mapping[str, str]]) -> None:
        """The datasets of the run: mappings with ``name``, ``digest`` (at most 36 characters), ``source`` (address),
        ``context`` (``training`` or ``validation``) and, if known, ``profile`` (JSON text of counts)."""
        self._append({"inputs": [dict(dataset) for dataset in datasets]})

    def status(self, value: str) -> None:
        """RUNNING, FINISHED, FAILED or KILLED."""
        self._append({"status": value})

    # Writing

    def flush(self) -> None:
        """Put every record on storage; an object store's refusal is tried again later and does not raise."""
        if self._local:
            with self._lock:
                if self._waiting:
                    self._write_local()
        else:
            with self._remote_lock:
                self._write_remote()

    def close(self) -> None:
        self._closed.set()
        self.flush()
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
            if lost := len(self._waiting) + self._segment_bytes[len(self._segment_stored) :].count(b"\n"):
                log.error("%s: %d records could not be written and are lost", self._address, lost)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps({"t": time.time_ns() // 1_000_000, **record}, separators=(",", ":")) + "\n"
        with self._lock:
            self._waiting.append(line.encode())
            if self._local:
                self._write_local()

    def _write_local(self) -> None:
        payload = b"".join(self._waiting)
        try:
            if self._descriptor is None:
                self._descriptor = self._new_segment()
            written = os.write(self._descriptor, payload)
            if written < len(payload):
                raise OSError(f"{written} of {len(payload)} bytes were taken")
        except OSError as error:
            # The segment may end in half a record now: leave it, readers ignore that tail, and start another.
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
            self._warn(error)
        else:
            self._waiting.clear()

    def _write_remote(self) -> None:
        with self._lock:  # held for a moment only: log() must not wait for the object store
            arrived, self._waiting = b"".join(self._waiting), []
        self._segment_bytes += arrived
        if self._segment_bytes == self._segment_stored:
            return
        if self._segment is None:
            self._segment = f"{self._writer}-{time.time_ns()}.jsonl"
        try:
            storage.write_bytes(storage.join(self._address, self._segment), self._segment_bytes)
        except InputError as error:
            self._warn(error)
            return
        self._segment_stored = self._segment_bytes
        if len(self._segment_bytes) > REMOTE_SEGMENT_BYTES:
            self._segment, self._segment_bytes, self._segment_stored = None, b"", b""

    def _new_segment(self) -> int:
        # A new process never appends to an old segment: a killed process may have left half a record at its end.
        name = f"{self._path}/{self._writer}-{time.time_ns()}.jsonl"
        return os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)

    def _flush_for_ever(self) -> None:
        while not self._closed.wait(REMOTE_FLUSH_SECONDS):
            self.flush()

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            log.warning("%s: records wait in memory, writing failed (%s)", self._address, error)
        self._warned = True


@dataclass
class Reader:
    """Reads the records of all segments, in the order of segment names, from where it stopped before.

    Args:
        run_folder: as for Journal.
        offsets: bytes already read of each segment.
    """

    run_folder: str
    offsets: dict[str, int] = field(default_factory=dict)

    def new(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """(segment, offset behind the record, record) of each complete record that is new."""
        folder = storage.join(tracking_folder(self.run_folder), "journal")
        for segment, size in storage.file_sizes(folder).items():
            start = self.offsets.get(segment, 0)
            if not segment.endswith(".jsonl") or size <= start:
                continue
            content = storage.read_bytes(storage.join(folder, segment), start)
            for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
                start += len(line)
                self.offsets[segment] = start
                try:
                    record = json.loads(line)
                except ValueError:  # a crashed machine can leave zeros in a file; the records around them are good
                    log.warning("%s: an unreadable record was skipped", segment)
                    continue
                yield segment, start, record


def read_points(run_folder: str | os.PathLike[str]) -> dict[str, dict[int, float]]:
    """Every metric of the run from its journal: key -> {step: value}, each point once, steps rising."""
    points: dict[str, dict[int, float]] = {}
    for _, _, record in Reader(os.fspath(run_folder)).new():
        for key, value in record.get("metrics", {}).items():
            points.setdefault(key, {}).setdefault(record["step"], value)
    return {key: dict(sorted(steps.items())) for key, steps in points.items()}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as flat parameters: ``{"a": {"b": [1, 2]}}`` -> ``{"a.b.0": 1, "a.b.1": 2}``.

    Lists of plain values that print shorter than 60 characters stay one parameter; empty ones too.
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{path}.")
        elif isinstance(value, (list, tuple)) and (len(str(value)) > 60 or any(isinstance(v, Mapping) for v in value)):
            flat |= flatten({str(index): item for index, item in enumerate(value)}, f"{path}.")
        else:
            flat[path] = value
    return flat


def _plain(value: Any) -> Any:
    """A table cell as JSON: numbers, text and None stay, NaN becomes None, anything else its text."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

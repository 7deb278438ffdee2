"""What of a run's journals one tracking address still has to get.

The state is ``RUN/tracking/sent-HASH.json`` (HASH of the address without its password): how far each segment was sent,
and the run's id there. Reading it needs no MLflow.
"""

import hashlib
import os
from typing import Any

from xray_det import storage
from xray_det.tracking.address import without_password
from xray_det.tracking.journal import Reader, tracking_folder


class Outbox:
    """Records that are not sent yet, points that were journalled twice already dropped.

    Args:
        run_folder: the run's folder.
        uri: tracking address.

    Attributes:
        run_id, experiment_id: of the run at that address; None before it was created.
        pending: (segment, offset behind it, record) in order; ``read`` adds to it, ``sent`` takes from its front.
        later: artifacts (path, kind) that the artifact store refused so far: they must not hold up metrics.
        running: whether the last status record says so.
    """

    def __init__(self, run_folder: str | os.PathLike[str], uri: str) -> None:
        self.run_folder, self.uri = os.fspath(run_folder), uri
        self._address = storage.join(tracking_folder(run_folder), f"sent-{_digest(without_password(uri))}.json")
        state = storage.read_json(self._address) if storage.exists(self._address) else {}
        self.run_id: str | None = state.get("run_id")
        self.experiment_id: str | None = state.get("experiment_id")
        self._begin(state.get("sent", {}), state.get("later", []))

    def _begin(self, sent: dict[str, int], later: list[list[str]]) -> None:
        self._sent, self.later = sent, later
        self._reader = Reader(self.run_folder)  # from the beginning: to know a repeat of a point sent long ago
        self._seen: dict[str, set[int]] = {}
        self.pending: list[tuple[str, int, dict[str, Any]]] = []
        self.running = False

    def start_again(self) -> None:
        """Nothing was sent: the run at the address is gone."""
        self.run_id = None
        self._begin({}, [])

    def read(self) -> None:
        for segment, offset, record in self._reader.new():
            metrics = record.get("metrics", {})
            new = {k: v for k, v in metrics.items() if record["step"] not in self._seen.setdefault(k, set())}
            for key in new:
                self._seen[key].add(record["step"])
            if "status" in record:
                self.running = record["status"] == "RUNNING"
            if offset > self._sent.get(segment, 0) and (new or not metrics):
                self.pending.append((segment, offset, {**record, "metrics": new} if metrics else record))

    def sent(self, count: int) -> None:
        """The first ``count`` of ``pending`` were sent."""
        for segment, offset, _ in self.pending[:count]:
            self._sent[segment] = offset
        del self.pending[:count]
        self.save()

    def save(self) -> None:
        state = {"uri": without_password(self.uri), "run_id": self.run_id, "experiment_id": self.experiment_id}
        storage.write_json(self._address, {**state, "sent": self._sent, "later": self.later})

    def left(self) -> int:
        """How many records are not sent."""
        self.read()
        return len(self.pending) + len(self.later)


def _digest(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()[:8]

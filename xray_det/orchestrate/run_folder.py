"""The folder of a run: what it is, whether it has finished, why it failed.

experiment.json        the resolved experiment, the datasets' fingerprints, the fingerprint of both
phases/N/weights/      the model at the end of phase N; phases/N/ema/ its average
phases/N/metrics.json  what a validation of phase N measured
checkpoints/           the last checkpoint, in Ray Train's keeping
tracking/              the journal (tracking/journal.py)
nonfinite-.../         evidence of a step that was not finite
failed.json            the error that ended the last attempt
finished.json          the result; written last
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow.fs as pafs

from xray_det import config, storage
from xray_det.errors import InputError

EXPERIMENT, FINISHED, FAILED, PROGRESS = "experiment.json", "finished.json", "failed.json", "progress.json"
#: The pointer to the newest checkpoint that Ray has confirmed, beside Ray's own record of them.
LATEST = "latest.json"
#: One of these lies in the folder of a run that has made a step.
BEGUN = (PROGRESS, LATEST, FINISHED)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a training leaves.

    Attributes:
        folder: URI of the run.
        weights: URI of the final weights folder (the averaged ones where the experiment averages).
        phases: such a folder for the end of each phase.
        steps: optimizer steps of the whole run.
        metrics: the last point of the training curves.
        validations: for each phase what was measured at its end, empty where nothing was.
        seconds: of the attempt that finished, from the call to ``total``: ``prepare``, until ``workers`` run, until the
            ``model`` is built, until the ``first_batch`` is there, and until the ``first_step`` is made.
    """

    folder: str
    weights: str
    phases: tuple[str, ...]
    steps: int
    metrics: dict[str, float]
    validations: tuple[dict[str, float], ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """See the module. ``fingerprint`` is that of the configuration the folder was opened with."""

    uri: str
    fingerprint: str

    @classmethod
    def open(cls, uri: str, document: dict[str, Any]) -> "RunFolder":
        """A new folder, or one that was begun with the same configuration.

        A run that never made a step (too many workers for the cluster, a class misspelt) has nothing to lose: its
        folder takes the new configuration.

        Args:
            document: Prepared.document.

        Raises:
            InputError: the folder holds a run of another configuration; the message names every difference.
        """
        address = storage.join(uri, EXPERIMENT)
        mark = config.fingerprint(document)
        if storage.exists(address):
            there = storage.read_json(address)
            if there.pop("fingerprint") != mark and any(storage.exists(storage.join(uri, part)) for part in BEGUN):
                lines = config.difference(there, document)
                raise InputError(
                    uri,
                    "holds a run of another configuration:\n  " + "\n  ".join(lines) + "\n",
                    "Give this run another name, or remove the folder",
                )
        storage.write_json(address, {**document, "fingerprint": mark})
        return cls(uri=uri, fingerprint=mark)

    def path(self, *parts: str) -> str:
        return storage.join(self.uri, *parts)

    def finished(self) -> Result | None:
        """The result, if the run has one. Addresses are of where the folder lies now."""
        address = self.path(FINISHED)
        if not storage.exists(address):
            return None
        value: dict[str, Any] = storage.read_json(address)
        value["phases"] = tuple(self.path(part) for part in value["phases"])
        value["validations"] = tuple(value["validations"])
        return Result(folder=self.uri, **{**value, "weights": self.path(value["weights"])})

    def finish(self, result: Result) -> None:
        value = {name: item for name, item in asdict(result).items() if name != "folder"}
        value["weights"] = self._below(result.weights)
        value["phases"] = [self._below(uri) for uri in result.phases]
        storage.write_json(self.path(FINISHED), value)

    def failure(self) -> dict[str, str] | None:
        """Why the attempt that is under way cannot succeed, however often it is tried again."""
        address = self.path(FAILED)
        return storage.read_json(address) if storage.exists(address) else None

    def fail(self, kind: str, **reason: str) -> None:
        storage.write_json(self.path(FAILED), {"kind": kind, **reason})

    def clear_failure(self) -> None:
        fs, path = storage.locate(self.path(FAILED))
        if fs.get_file_info(path).type != pafs.FileType.NotFound:
            fs.delete_file(path)

    def weights(self, phase: int, *, averaged: bool) -> str:
        """URI of the weights folder of a phase's end."""
        return self.path("phases", str(phase), "ema" if averaged else "weights")

    def _below(self, uri: str) -> str:
        return uri.removeprefix(self.uri).lstrip("/")

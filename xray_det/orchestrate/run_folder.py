"""The folder of a run: what it is, whether it has finished, why it failed.

experiment.json        the resolved experiment, the datasets' fingerprints, the fingerprint of both
phases/N/              the checkpoint at the end of phase N: weights/ is the model, ema/ its average
phases/N/detections/   its detections of the validation images
validations/           what was measured of a checkpoint: phase-P-epoch-E.json, at its end phase-P-end.json
checkpoints/           the newest checkpoint and the best ones, in Ray Train's keeping; of a finished run those of the
                       best that lie within a phase
latest.json            which of them is the newest that is whole
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
#: Written when a checkpoint's last file is on storage, which Ray's own record may know later or, cut off, not at all.
LATEST = "latest.json"
#: Ray's name of the run below the run's folder; its checkpoints lie there.
CHECKPOINTS = "checkpoints"
#: In a sweep's folder: Ray Tune's record of its arms.
TUNE = "tune"
#: One of these lies in the folder of a run that has made a step, or of a sweep that has begun an arm.
BEGUN = (PROGRESS, LATEST, FINISHED, TUNE)


def checkpoint_name(step: int) -> str:
    """The folder of the checkpoint after so many steps."""
    return f"step-{step:09d}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a training leaves.

    Attributes:
        folder: URI of the run.
        weights: URI of the final weights folder (the averaged ones where the experiment averages).
        phases: such a folder for the end of each phase; those of phases that another run made lie in its folder.
        best: the weights folder with the best of ``Validation.metric``; empty where nothing was measured.
        steps: optimizer steps of the whole run.
        metrics: the last point of the training curves.
        validations: for each phase what was measured at its end, empty where nothing was.
        cost: ``cpu_hours`` and ``gpu_hours`` that the workers and their data tasks held, of all attempts as far as
            their work was kept.
        seconds: of the attempt that finished, from the call to ``total``: ``prepare``, until ``workers`` run, until the
            ``model`` is built, until the ``first_batch`` is there, and until the ``first_step`` is made.
    """

    folder: str
    weights: str
    phases: tuple[str, ...]
    steps: int
    metrics: dict[str, float]
    best: str = ""
    validations: tuple[dict[str, float], ...] = ()
    cost: dict[str, float] = field(default_factory=dict)
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
        value["phases"] = tuple(self._above(part) for part in value["phases"])
        value["validations"] = tuple(value["validations"])
        for name in ("weights", "best"):
            value[name] = self._above(value[name])
        return Result(folder=self.uri, **value)

    def finish(self, result: Result) -> None:
        value = {name: item for name, item in asdict(result).items() if name != "folder"}
        for name in ("weights", "best"):
            value[name] = self._below(value[name])
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

    def phase(self, phase: int) -> str:
        """URI of the checkpoint of a phase's end."""
        return self.path("phases", str(phase))

    def weights(self, phase: int, *, averaged: bool) -> str:
        """URI of the weights folder of a phase's end."""
        return storage.join(self.phase(phase), "ema" if averaged else "weights")

    def detections(self, phase: int) -> str:
        """URI of the detections by which a phase's end was measured."""
        return storage.join(self.phase(phase), "detections")

    def checkpoint(self, step: int, *, averaged: bool) -> str:
        """URI of the weights folder of a checkpoint that may be removed when better ones come."""
        return self.path(CHECKPOINTS, checkpoint_name(step), "ema" if averaged else "weights")

    def validation(self, phase: int, epoch: int | None = None) -> str:
        """URI of what was measured after so many epochs of a phase; None: at its end, be it within an epoch."""
        return self.path("validations", f"phase-{phase}-{'end' if epoch is None else f'epoch-{epoch}'}.json")

    def validations(self) -> list[str]:
        """URIs of all that was measured, in no order."""
        fs, path = storage.locate(self.path("validations"))
        infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return [self.path("validations", info.base_name) for info in infos if info.base_name.endswith(".json")]

    def _below(self, uri: str) -> str:
        """Relative to the folder, which may be moved, if it lies in there."""
        return storage.below(uri, self.uri)

    def _above(self, part: str) -> str:
        return part if not part or part.startswith("/") or "://" in part else self.path(part)

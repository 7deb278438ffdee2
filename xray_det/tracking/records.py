"""A run's folder read back: what was measured, what it was, what it cost, and where MLflow has it.

Files alone are read, those that the run wrote (orchestrate/run_folder.py) and its tracking kept; MLflow is not asked.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow.fs as pafs

from xray_det import storage
from xray_det.errors import InputError
from xray_det.evaluation.measured import Measured
from xray_det.evaluation.variants import Cost, Run
from xray_det.tracking.journal import flatten, tracking_folder
from xray_det.tracking.outbox import Outbox

EXPERIMENT, FINISHED, VALIDATIONS = "experiment.json", "finished.json", "validations"
#: Of an experiment, what its outcome does not depend on; two runs that differ in these alone are the same.
NO_INFLUENCE: Final = ("name", "out", "device", "validation", "log_every", "checkpoint_every")
_RUNG, _TRUNK = re.compile(r"/rung-(\d+)/?$"), re.compile(r"/trunk[^/]*/?$")


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """Where a run is tracked.

    Attributes:
        uri: tracking address; ``off`` for none.
        run_id, experiment_id: None while nothing was sent there.
        name: of the run.
        parent_folder: of the run that it is a trial of.
        parent_run_id: the same by its id, where the folder is not known.
    """

    uri: str
    run_id: str | None
    experiment_id: str | None
    name: str
    parent_folder: str | None
    parent_run_id: str | None


def read_run(folder: str) -> Run:
    """A run by its newest validation.

    Raises:
        InputError: no run there, or none that was measured.
    """
    document = _read(folder, EXPERIMENT)
    if not isinstance(document, dict) or not isinstance(document.get("experiment"), dict):
        raise InputError(folder, f"holds no run (no {EXPERIMENT})", "Give the folder of a training, or of a sweep")
    step, measured = _newest_validation(folder)
    finished, known = _read(folder, FINISHED), tracked(folder)
    return Run(
        name=known.name if known is not None else str(document["experiment"].get("name", folder)),
        measured=measured,
        step=step,
        parameters=parameters(document),
        cost=_cost((finished or {}).get("cost")),
        finished=finished is not None,
    )


def parameters(document: Mapping[str, Any]) -> dict[str, Any]:
    """Path -> value of what the outcome of a run depends on: its experiment and the content of its datasets."""
    experiment = {key: value for key, value in document["experiment"].items() if key not in NO_INFLUENCE}
    return flatten(experiment) | flatten(document.get("datasets", {}), "datasets.")


def address(uri: str) -> str:
    """One spelling of a folder."""
    return uri.rstrip("/") if "://" in uri else storage.locate(uri)[1].rstrip("/")


def is_run(folder: str) -> bool:
    return storage.exists(storage.join(folder, EXPERIMENT))


def is_finished(folder: str) -> bool:
    return storage.exists(storage.join(folder, FINISHED))


def is_measured(folder: str) -> bool:
    return bool(_validations(folder))


def trials(folder: str) -> list[str]:
    """The run folders of a sweep, by name: those one or two levels below that say this folder is their parent's."""
    return [
        f for f in _below(folder, levels=2) if is_run(f) and (t := tracked(f)) and t.parent_folder == address(folder)
    ]


def chosen(trials: Sequence[str]) -> list[str]:
    """Of a sweep's runs those that have finished, of each arm the longest; without what all arms begin with.

    orchestrate/sweep.py puts the trainings of an arm, the shorter first, into ``ARM/rung-R``, and their common
    beginning into ``trunk``.
    """
    longest: dict[str, str] = {}
    for folder in sorted(trials, key=lambda f: int(number[1]) if (number := _RUNG.search(f)) else 0):
        if is_finished(folder) and not _TRUNK.search(folder):
            longest[_RUNG.sub("", folder)] = folder
    return [folder for folder in trials if folder in longest.values()]


def _below(folder: str, levels: int) -> list[str]:
    fs, path = storage.locate(folder)
    infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    names = sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)
    folders = [storage.join(folder, name) for name in names]
    return folders if levels == 1 else folders + [f for inner in folders for f in _below(inner, levels - 1)]


def tracked(folder: str, uri: str | None = None) -> Tracked | None:
    """Where the run is at a tracking address, by default the one it was last tracked at; None if it never was."""
    run = _read(tracking_folder(folder), "run.json")
    if run is None:
        return None
    uri = uri or str(run["uri"])
    outbox = Outbox(folder, uri)
    parent = run.get("parent_folder")
    return Tracked(
        uri=uri,
        run_id=outbox.run_id,
        experiment_id=outbox.experiment_id,
        name=run["name"],
        parent_folder=address(parent) if parent else None,
        parent_run_id=run.get("parent_run_id"),
    )


def _validations(folder: str) -> list[str]:
    fs, path = storage.locate(storage.join(folder, VALIDATIONS))
    infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    names = sorted(info.base_name for info in infos if info.base_name.endswith(".json"))
    return [storage.join(folder, VALIDATIONS, name) for name in names]


def _newest_validation(folder: str) -> tuple[int, Measured]:
    """The one after the most steps, and their number."""
    newest: tuple[int, str, dict[str, Any]] | None = None
    for file in _validations(folder):
        value = storage.read_json(file)
        if not isinstance(value, dict) or not isinstance(value.get("step"), int):
            raise InputError(file, "holds no validation (no step)", "Measure the run again")
        if newest is None or value["step"] >= newest[0]:
            newest = value["step"], file, value
    if newest is None:
        remedy = "Train it with datasets to measure on (data.val), or wait until its first phase has ended"
        raise InputError(folder, "has no validation", remedy)
    step, file, value = newest
    return step, Measured.from_json(value, file)


def _cost(value: Mapping[str, float] | None) -> Cost | None:
    if not value:
        return None
    return Cost(cpu_hours=float(value.get("cpu_hours", 0.0)), gpu_hours=float(value.get("gpu_hours", 0.0)))


def _read(folder: str, name: str) -> Any:
    """A JSON file of the folder; None where there is none."""
    file = storage.join(folder, name)
    return storage.read_json(file) if storage.exists(file) else None

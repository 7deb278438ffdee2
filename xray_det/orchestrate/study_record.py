"""What the trainings of studies were measured at, in small JSON files that are committed: RESULTS/STUDY.json.

A training is known by all that its numbers depend on: its configuration, and the fingerprints of its datasets, wherever
they lie. A later session, on another machine, finds it in any study's file and does not train it again. A field that
the configuration has got since then counts as its default; one that has changed, or is gone, makes it another training.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.fs as pafs

from xray_det import config, storage
from xray_det.data.annotations import Selection
from xray_det.errors import InputError
from xray_det.evaluation.result import finite
from xray_det.models.weights import WEIGHTS_FILE
from xray_det.orchestrate.experiment import Experiment, prepare

#: The last parts of the names of the metrics that are kept.
_KEPT = ("AP", "AP50", "mAP", "AP_head", "AP_middle", "AP_tail")
_REMEDY = "Take the file as it was committed, or remove it: its trainings are made again"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a training's numbers depend on.

    Attributes:
        experiment: without a name, a place or a device; its datasets by name, the weights it starts from, and its
            backbone's, by a digest.
        datasets: name -> fingerprint of each.
    """

    experiment: Experiment
    datasets: Mapping[str, str]

    @classmethod
    def of(cls, experiment: Experiment) -> "Identity":
        """Reads the manifests of the experiment's datasets, and the weights it starts from."""
        prepared = prepare(experiment)
        experiment = prepared.experiment
        data = experiment.data
        named = [
            tuple(Selection(folder=m.name, split=s.split) for m, s in zip(manifests, selections, strict=True))
            for manifests, selections in ((prepared.train, data.train), (prepared.val, data.val))
        ]
        start, backbone = experiment.start_from, experiment.model.backbone
        if start is not None:
            start = _digest("start_from", storage.join(start, WEIGHTS_FILE))
        if backbone.weights not in ("none", "library"):
            backbone = replace(backbone, weights=_digest("model.backbone.weights", backbone.weights))
        model = replace(experiment.model, backbone=backbone)
        placeless = replace(experiment, name="arm", out="", device="auto", start_from=start, model=model)
        return cls(
            experiment=replace(placeless, data=replace(data, train=named[0], val=named[1])),
            datasets={m.name: m.fingerprint for m in (*prepared.train, *prepared.val)},
        )

    @property
    def key(self) -> str:
        """16 hex digits."""
        return config.fingerprint({"experiment": config.to_dict(self.experiment), "datasets": dict(self.datasets)})

    def seeded(self, seed: int, datasets: Mapping[str, str]) -> "Identity":
        """The same with another seed, on datasets of other content."""
        return Identity(experiment=replace(self.experiment, seed=seed), datasets=datasets)


def _digest(field: str, weights: str) -> str:
    try:
        return hashlib.sha256(storage.read_bytes(weights)).hexdigest()[:16]
    except FileNotFoundError as error:
        raise InputError(field, f"no weights at {weights}", "Check the path") from error


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training came to.

    Attributes:
        metrics: of its last validation, as validation.measure_experiment names them; NaN where undefined.
        curve: metrics after each epoch of its last phase, the last of which may end early, empty for one that was not
            measured; () where the phase's end alone was to be measured.
        minutes: that its last phase took, from the call to the result.
        commit: of the code that trained it.
    """

    metrics: Mapping[str, float]
    minutes: float
    commit: str
    curve: tuple[Mapping[str, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        curve = {"curve": [_kept(at) for at in self.curve]} if self.curve else {}
        return {"metrics": _kept(self.metrics), **curve, "minutes": round(self.minutes, 2), "commit": self.commit}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Outcome":
        return cls(
            metrics=_numbers(value["metrics"]),
            minutes=float(value["minutes"]),
            commit=str(value["commit"]),
            curve=tuple(map(_numbers, value.get("curve", ()))),
        )


def _kept(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: finite(round(v, 6)) for name, v in metrics.items() if name.rpartition("/")[2] in _KEPT}


def _numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: np.nan if v is None else float(v) for name, v in metrics.items()}


Known = dict[str, Outcome]  # key of an identity -> outcome


def read_known(folder: str) -> Known:
    """The trainings of all studies whose files lie in a folder.

    Raises:
        InputError: a file that is no study's.
    """
    fs, path = storage.locate(folder)
    files = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    known: Known = {}
    for name in sorted(file.base_name for file in files if file.base_name.endswith(".json")):
        address = storage.join(folder, name)
        record = storage.read_json(address)
        try:
            for arm in record["arms"].values():
                known |= _read_arm(arm)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(address, f"is no study's record ({error!r})", _REMEDY) from error
    return known


def _read_arm(arm: Mapping[str, Any]) -> Known:
    try:
        experiment = config.from_dict(Experiment, arm["experiment"])
    except InputError:  # this version of the code has no such experiment
        return {}
    first = Identity(experiment=experiment, datasets={})
    return {first.seeded(one["seed"], one["datasets"]).key: Outcome.from_json(one) for one in arm["trainings"]}


def write_record(
    folder: str, name: str, arms: Mapping[str, Sequence[Identity]], known: Known, **about: Any
) -> dict[str, Any]:
    """Write a study's file: of each arm's trainings those that have an outcome. Returns what was written.

    Args:
        arms: name -> its trainings, which differ in the seed and the datasets' content alone.
        about: what else a reader wants to know, as JSON.
    """
    record = {"study": name, **about, "arms": {arm: _arm(each, known) for arm, each in arms.items()}}
    storage.write_json(storage.join(folder, f"{name}.json"), record)
    return record


def _arm(trainings: Sequence[Identity], known: Known) -> dict[str, Any]:
    first = trainings[0]
    if any(first.seeded(one.experiment.seed, one.datasets) != one for one in trainings):
        raise ValueError("an arm's trainings differ in more than the seed")
    measured = [
        {"seed": one.experiment.seed, "datasets": dict(one.datasets), **known[one.key].to_json()}
        for one in trainings
        if one.key in known
    ]
    return {"experiment": config.to_dict(first.experiment), "trainings": measured}

"""How scripts are told of an experiment: datasets, a file, and any value by its path.

Importing this costs nothing, so that --help answers at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from xray_det import config, storage
from xray_det.errors import InputError

if TYPE_CHECKING:
    from xray_det.data.annotations import Selection
    from xray_det.orchestrate.experiment import Experiment
    from xray_det.train.phase import Phase


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What a run is called, and where it is kept."""

    run: str | None = None
    """The run's name; its folder is OUT/NAME."""
    out: str | None = None
    """Folder or URI of the runs; on several machines it must be storage that all of them see."""
    tracking: str | None = None
    """Address of MLflow; MLFLOW_TRACKING_URI or a SQLite file in ~/xray_det unless given; off for none."""


@dataclass(frozen=True, kw_only=True)
class Told(Placed):
    """What to train, and how."""

    datasets: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Ingested datasets to train on, FOLDER or FOLDER@SPLIT; they replace those of --config."""
    val: tuple[str, ...] = ()
    """Datasets to measure on, at each phase's end and every validation.every epochs; those of --config unless given."""
    config: Path | None = None
    """An experiment as JSON: from train.py --show, or a run's experiment.json."""
    set: tuple[str, ...] = ()
    """PATH=VALUE …, for example phases.0.lr=0.02 model.backbone.name=resnet18 phases.0.drops=8,11."""


def configure(told: Told, *, name: str, phases: "tuple[Phase, ...]") -> "Experiment":
    """The experiment: the file's, or the default one, then what the command line says.

    Args:
        name: of the run, unless it is told.
        phases: of the default experiment.

    Raises:
        InputError: nothing to train on, an unknown path, a value that cannot be.
    """
    from xray_det.data.manifest import TRAINING, VALIDATION
    from xray_det.orchestrate.experiment import Data, Experiment, read_experiment

    train = tuple(choose(text, TRAINING) for text in told.datasets)
    val = tuple(choose(text, VALIDATION) for text in told.val)
    if told.config is not None:
        experiment = read_experiment(storage.read_json(told.config))
    elif train:
        experiment = Experiment(name=told.run or name, data=Data(train=train), phases=phases)
    else:
        raise InputError("datasets", "none is given", "Name the folder of an ingested dataset, or give --config FILE")
    for field, value in (("name", told.run), ("out", told.out)):
        if value is not None:
            experiment = config.replace(experiment, field, value)
    data = replace(experiment.data, train=train or experiment.data.train, val=val or experiment.data.val)
    return assigned(replace(experiment, data=data), told.set).absolute()


def assigned(experiment: "Experiment", assignments: Iterable[str]) -> "Experiment":
    """The experiment with values set by PATH=VALUE.

    Raises:
        InputError: an unknown path, a value that cannot be.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment}", "has no =", "Write PATH=VALUE")
        experiment = config.replace(experiment, path, text)
    return experiment


def read_ranks(option: str, text: str) -> tuple[int, int]:
    """First and last rank of ``FIRST-LAST``.

    Raises:
        InputError: it is written otherwise.
    """
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()):
        raise InputError(f"{option} {text}", "is no band", "Write FIRST-LAST, for example 151-300")
    return int(first), int(last)


def choose(text: str, wanted: tuple[str, ...]) -> "Selection":
    """FOLDER@SPLIT, or FOLDER: its first split of these names, all images where it has none of them.

    A folder that is called so, with its @, goes before a split.
    """
    from xray_det.data.annotations import Selection
    from xray_det.data.manifest import Manifest

    folder, at, split = text.rpartition("@")
    if not at or storage.exists(text):
        folder, split = text, ""
    return Selection(folder=folder, split=split or Manifest.load(folder).first_split(*wanted))

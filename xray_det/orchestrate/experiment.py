"""An experiment: datasets x model x phases, with all that its numbers depend on."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np

from xray_det import config, storage
from xray_det.data.annotations import Selection
from xray_det.data.augmentation import Augmentation
from xray_det.data.leakage import also_trained_on
from xray_det.data.loader import Loader
from xray_det.data.manifest import Manifest
from xray_det.display import printable
from xray_det.errors import InputError
from xray_det.labels.space import LabelSpace
from xray_det.labels.supervision import Supervision
from xray_det.labels.unify import ALIASES, HOMONYMS, Unified, normalise, unify, unify_hierarchies, unify_parts
from xray_det.models import Model
from xray_det.models.retinanet import RetinaNet
from xray_det.models.weights import starting_from
from xray_det.train.loop import Recipe
from xray_det.train.phase import ClassRows, Phase
from xray_det.train.step import Precision

_PAIRS = 'Write [["alias", "the name it stands for"], ...]'


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images, and what their classes mean together.

    Args:
        train: ingested datasets to train on, in the order of ``Phase.ratio``; their classes are what is learned.
        val: ingested datasets to measure on.
        merge: classes of one name in several datasets are one class, and those that labels/aliases.csv says to be the
            same; ``merged`` in the run's experiment.json names the latter. False keeps a class a dataset.
        aliases: pairs (alias, the name it stands for) beside those of aliases.csv, or a JSON file with a list of such
            pairs. A pair of an alias with itself takes it out of aliases.csv: ``("Wild Bird", "Wild Bird")``.
        positives_teach_all: a box is a negative for the classes of the other datasets too (labels/supervision.py).
        classes: learn these alone, by their names in the united label space; None: all. A box of another class is
            background, but an object where a class above its own is learned, and neither for a learned class below
            its own, which it may be. Only images with an object of a learned class are drawn; validation is on all of
            ``val``, where the classes that the detector lacks score 0.
        unverified: what the background of an image teaches of a class of its dataset that nobody verified there, where
            image labels say what was verified (Open Images). unknown: nothing; all tables in experiments/results were
            trained so. absent: it is taken to be absent, as paper 002 trains; experiments/unverified.py compares the
            two. absent_but_parts: as absent, but what lies inside a subject's box says nothing of its parts; with
            binary cross-entropy that is Co-BCE.
    """

    train: tuple[Selection, ...]
    val: tuple[Selection, ...] = ()
    merge: bool = True
    aliases: tuple[tuple[str, str], ...] | str = ()
    positives_teach_all: bool = True
    classes: tuple[str, ...] | None = None
    unverified: Literal["unknown", "absent", "absent_but_parts"] = "unknown"

    def __post_init__(self) -> None:
        if not self.train:
            raise InputError("data.train", "names no dataset", "Give the folder of an ingested dataset")
        if self.classes == ():
            raise InputError("data.classes", "is empty", "Name at least one class, or give none for all")
        if self.aliases and not self.merge:
            raise InputError("data.aliases", "are given, but data.merge is off", "Leave one of the two out")

    def alias_pairs(self) -> tuple[tuple[str, str], ...]:
        """``aliases``, read from the file if they are in one.

        Raises:
            InputError: no such file, or it does not hold a list of pairs of names.
        """
        if not isinstance(self.aliases, str):
            return self.aliases
        try:
            pairs = json.loads(storage.read_bytes(self.aliases))
        except FileNotFoundError as error:
            raise InputError(self.aliases, "no such file", "Check data.aliases") from error
        except ValueError as error:
            raise InputError(self.aliases, f"is not valid JSON ({error})", _PAIRS) from error
        if not isinstance(pairs, list):
            raise InputError(self.aliases, "is no list", _PAIRS)
        for pair in pairs:
            if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair)):
                raise InputError(self.aliases, f"{pair!r} is no pair of names", _PAIRS)
        return tuple((alias, name) for alias, name in pairs)


@dataclass(frozen=True, kw_only=True)
class Validation:
    """When checkpoints are measured on ``data.val``, beside the training, and which are kept.

    Args:
        every: epochs of a phase between two measurements; None: at each phase's end alone, which is always measured.
        keep: how many checkpoints with the best ``metric`` are kept, and until the run has finished the newest.
        metric: what makes a checkpoint the best; more is better.
    """

    every: int | None = None
    keep: int = 1
    metric: str = "val/AP"

    def __post_init__(self) -> None:
        for name in ("every", "keep"):
            if (value := getattr(self, name)) is not None:
                _at_least_one(f"validation.{name}", value)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All that decides the outcome of a training.

    Args:
        name: of the run; its folder is OUT/NAME.
        seed: of the weights' start, the plans, and every random change.
        batch: images of a global batch, all workers together.
        workers: training processes; their number must divide ``batch``.
        min_workers: start, or go on after a machine was lost, with so few; None: with ``workers`` alone. Every number
            between must divide ``batch``, and the weights then depend on how many there were when.
        device: cpu, cuda, or auto: cuda when the cluster has a GPU for each worker.
        threads: torch's threads in a worker on CPU. More than one beside another busy process is many times slower.
        checkpoint_every: global batches between checkpoints; None for about a minute of work.
        precision: bf16 runs the network under autocast, losses stay float32.
        ema: decay of an averaged copy of the weights, which is then the result; None for none. It rises to this value
            over the first steps (train/average.py), so that a high one serves a short training too.
        log_every: steps between points of the training curves.
        start_from: weights folder of another detector; parameters are taken by name, classifier rows by class name,
            and all of both detectors must fit but classes, their loss's outputs, and what the loss counted. A norm
            "auto" is that detector's, and ``backbone.weights`` are not read.
        start_partial: take what fits of ``start_from``, after ``backbone.weights``.
        out: folder or URI of the runs; empty: ``runs`` in the project's home (storage.home).

    Raises:
        InputError: values that cannot be, each named.
    """

    name: str
    data: Data
    model: Model = field(default_factory=RetinaNet)
    augmentation: Augmentation = field(default_factory=Augmentation)
    phases: tuple[Phase, ...] = (Phase(),)
    seed: int = 0
    batch: int = 16
    workers: int = 1
    min_workers: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    checkpoint_every: int | None = None
    precision: Precision = "fp32"
    ema: float | None = None
    log_every: int = 20
    start_from: str | None = None
    start_partial: bool = False
    validation: Validation = field(default_factory=Validation)
    out: str = ""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise InputError(
                "name", f"{self.name!r} is no folder name", "Give a name without / that starts with no dot"
            )
        if not self.phases:
            raise InputError("phases", "there are none", "Give at least one")
        for name in ("batch", "workers", "threads", "log_every"):
            _at_least_one(name, getattr(self, name))
        if self.checkpoint_every is not None:
            _at_least_one("checkpoint_every", self.checkpoint_every)
        least = self.workers if self.min_workers is None else self.min_workers
        if not 1 <= least <= self.workers:
            raise InputError("min_workers", f"{least} is not in 1 to {self.workers}", "Give at most workers")
        for count in range(least, self.workers + 1):
            if self.batch % count:
                sizes = [str(n) for n in range(1, self.batch + 1) if self.batch % n == 0]
                raise InputError(
                    "workers",
                    f"{count} workers cannot share a global batch of {self.batch} images alike",
                    f"Use {', '.join(sizes)} workers, or another batch (12 for 1 to 4 workers)",
                )
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError("ema", f"{self.ema} is no decay", "Give a number between 0 and 1, such as 0.999, or none")
        if self.seed < 0:
            raise InputError("seed", f"{self.seed} is negative", "Give 0 or more")
        for number, phase in enumerate(self.phases):
            self._check(number, phase)

    def _check(self, number: int, phase: Phase) -> None:
        where = f"phases.{number}"
        if phase.ratio is not None and len(phase.ratio) != len(self.data.train):
            raise InputError(
                f"{where}.ratio",
                f"{len(phase.ratio)} shares for {len(self.data.train)} training datasets",
                "Give one a dataset",
            )
        if phase.keep_optimizer:
            if number == 0:
                raise InputError(f"{where}.keep_optimizer", "there is no phase before", "Set it in a later phase")
            before, now = type(self.phases[number - 1].optimizer), type(phase.optimizer)
            if before is not now:
                problem = f"{now.__name__} cannot go on from the state of {before.__name__}"
                raise InputError(f"{where}.keep_optimizer", problem, "Use one optimizer in both phases")

    @property
    def folder(self) -> str:
        """URI of the run's folder."""
        return storage.join(self.out or str(storage.home() / "runs"), self.name)

    def absolute(self) -> "Experiment":
        """The same with every local path absolute and aliases read: workers run in other working directories."""
        train, val = _absolute(self.data.train), _absolute(self.data.val)
        data = replace(self.data, train=train, val=val, aliases=self.data.alias_pairs())
        start = None if self.start_from is None else _address(self.start_from)
        backbone = self.model.backbone
        if backbone.weights not in ("none", "library"):
            backbone = replace(backbone, weights=_address(backbone.weights))
        model = replace(self.model, backbone=backbone)
        return replace(self, data=data, model=model, start_from=start, out=_address(self.out) if self.out else "")

    def built(self) -> Model:
        """The model with all that ``start_from`` decides of it.

        Raises:
            InputError: no detector lies there, or it has a norm that the model cannot take over.
        """
        if self.start_from is None:
            return self.model
        return starting_from(self.model, self.start_from, partial=self.start_partial)


#: Fields of an experiment that decide where it runs and what is told of it, not what the weights are.
_NO_INFLUENCE = ("name", "out", "device", "validation", "log_every", "checkpoint_every")


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """An experiment with its datasets read in: classes, supervision, loader. Cheap: manifests alone are read.

    Attributes:
        train, val: manifests, one a selection.
        unified: the classes of the training datasets, and the map of each by its name.
        space: the classes that are learned, in the order of ``unified``.
    """

    experiment: Experiment
    train: tuple[Manifest, ...]
    val: tuple[Manifest, ...]
    unified: Unified

    @cached_property
    def _learned(self) -> tuple[int, ...] | None:
        names = self.experiment.data.classes
        return None if names is None else self.unified.space.rows_of(names, "data.classes")

    @cached_property
    def space(self) -> LabelSpace:
        return self.unified.space if self._learned is None else self.unified.space.subset(self._learned)

    @cached_property
    def supervision(self) -> Supervision:
        spaces = {manifest.name: manifest.space for manifest in self.train}
        hierarchies = {manifest.name: manifest.hierarchy for manifest in self.train}
        labelled = np.zeros((len(self.train), len(self.unified.space)), bool)
        for row, manifest in enumerate(self.train):
            if manifest.exhaustive or self.experiment.data.unverified != "unknown":
                labelled[row, self.unified.maps[manifest.name]] = True
        return Supervision(
            labelled=labelled,
            ancestors=unify_hierarchies(self.unified, hierarchies, spaces),
            parts=unify_parts(self.unified, hierarchies, spaces)
            if self.experiment.data.unverified == "absent_but_parts"
            else None,
            positives_teach_all=self.experiment.data.positives_teach_all,
            learned=None if self._learned is None else np.array(self._learned, np.int64),
        )

    @cached_property
    def loader(self) -> Loader:
        return Loader(
            selections=self.experiment.data.train,
            maps=tuple(self.unified.maps[manifest.name] for manifest in self.train),
            supervision=self.supervision,
            augmentation=self.experiment.augmentation,
            batch=self.experiment.batch,
            seed=self.experiment.seed,
        )

    @property
    def also_trained_on(self) -> tuple[str, ...]:
        """A sentence for each choice of validation images some of which are trained on (``leakage``)."""
        data = self.experiment.data
        return also_trained_on(
            [(manifest, chosen.split) for manifest, chosen in zip(self.train, data.train, strict=True)],
            [(manifest, chosen.split) for manifest, chosen in zip(self.val, data.val, strict=True)],
        )

    @property
    def document(self) -> dict[str, Any]:
        """What the run depends on, as JSON: the resolved experiment, the fingerprint of each dataset's content, and
        which classes aliases made one.

        Where the run's folder lies is not part of it, so that a folder can be moved; nor is the device, which is
        resolved where the run happens.
        """
        tree = config.to_dict(self.experiment)
        for name in ("out", "device"):
            tree.pop(name)
        datasets = {m.name: m.fingerprint for m in (*self.train, *self.val)}
        return {"experiment": tree, "datasets": datasets, "merged": list(self.unified.merged)}

    @property
    def recipe(self) -> Recipe:
        """What the training loop is told of it."""
        experiment = self.experiment
        return Recipe(
            phases=experiment.phases,
            seed=experiment.seed,
            checkpoint_every=experiment.checkpoint_every,
            precision=experiment.precision,
            ema=experiment.ema,
            log_every=experiment.log_every,
            classes=self.space.names,
            fingerprints=self.fingerprints,
        )

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """[P + 1], of all that the weights after the first 0, 1, ... P phases depend on, whatever the run is called."""
        tree = config.to_dict(self.experiment)
        for name in _NO_INFLUENCE:
            tree.pop(name)
        tree["data"].pop("val")
        for name in ("test_short_side", "test_max_side"):
            tree["augmentation"].pop(name)
        datasets = {m.name: m.fingerprint for m in self.train}
        phases = tree.pop("phases")
        parts = [phases[:count] for count in range(len(phases) + 1)]
        return tuple(config.fingerprint({"experiment": tree, "phases": part, "datasets": datasets}) for part in parts)

    @property
    def preprocessor(self) -> Mapping[str, Any]:
        """How images are resized for the detector, in the words of the ``transformers`` library."""
        sizes = self.experiment.augmentation.evaluation()
        return {
            "do_resize": True,
            "size": {"shortest_edge": sizes.short_side[0], "longest_edge": sizes.max_side},
            "pad_size_divisor": sizes.multiple,
        }


def prepare(experiment: Experiment) -> Prepared:
    """``read_in``, and print what must be known of the validation images (``Prepared.also_trained_on``)."""
    prepared = read_in(experiment)
    for sentence in prepared.also_trained_on:
        _warn(sentence)
    return prepared


@cache
def _warn(sentence: str) -> None:  # once: a study prepares an experiment many times
    print(printable(f"warning: {sentence}"), file=sys.stderr)


def read_in(experiment: Experiment) -> Prepared:
    """Read the manifests of an experiment's datasets and unite their classes.

    Raises:
        InputError: a folder without a dataset, a split that a dataset has not, two datasets of one name, classes that
            conflict, a class to be learned, trained by a phase, or named in an alias, which does not exist.
    """
    train = tuple(_manifest(selection) for selection in experiment.data.train)
    val = tuple(_manifest(selection) for selection in experiment.data.val)
    known: dict[str, Manifest] = {}
    for manifest in (*train, *val):
        other = known.setdefault(manifest.name, manifest)
        if other.fingerprint != manifest.fingerprint:
            raise InputError(
                "data",
                f"{other.folder} and {manifest.folder} are different datasets of one name, {manifest.name}",
                "Ingest one of them under another name",
            )
    spaces = {manifest.name: manifest.space for manifest in train}
    aliases = experiment.data.alias_pairs()
    _check_names(aliases, spaces)
    unified = unify(spaces, aliases=aliases, merge=experiment.data.merge)
    experiment = replace(experiment, data=replace(experiment.data, aliases=aliases))
    prepared = Prepared(experiment=experiment, train=train, val=val, unified=unified)
    space = prepared.space
    for number, phase in enumerate(experiment.phases):
        if isinstance(phase.trainable, ClassRows):
            space.rows_of(phase.trainable.names, f"phases.{number}.trainable")
    return prepared


def _check_names(aliases: tuple[tuple[str, str], ...], spaces: Mapping[str, LabelSpace]) -> None:
    """Every name is a class's, or the one that labels/aliases.csv gives it."""
    if not aliases:
        return
    names = {normalise(name) for space in spaces.values() for c in space.classes for name in (c.name, *c.aliases)}
    names |= {ALIASES[name] for name in names if name in ALIASES} | {h.name for h in HOMONYMS if h.alias in names}
    for name in (name for pair in aliases for name in pair):
        if normalise(name) not in names:
            raise InputError("data.aliases", f"no class of the training datasets is called {name!r}", "Correct it")


def read_experiment(document: Mapping[str, Any]) -> Experiment:
    """An experiment from its JSON: its own (config.to_dict), or a run's experiment.json, whose runs lie in the default
    folder.

    Raises:
        InputError: an unknown key or a value that cannot be, named.
    """
    return config.from_dict(Experiment, document.get("experiment", document))


def _manifest(selection: Selection) -> Manifest:
    manifest = Manifest.load(selection.folder)
    if selection.split is not None and not manifest.splits.get(selection.split):
        splits = ", ".join(repr(name) for name in manifest.splits)
        raise InputError(
            selection.folder, f"has no images in a split {selection.split!r}", f"Give one of {splits}, or none for all"
        )
    return manifest


def _absolute(selections: tuple[Selection, ...]) -> tuple[Selection, ...]:
    return tuple(replace(selection, folder=_address(selection.folder)) for selection in selections)


def _address(uri: str) -> str:
    return uri if "://" in uri else storage.locate(uri)[1]


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise InputError(name, f"{value} is less than one", "Give at least 1")

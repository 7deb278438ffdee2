"""Expert models (paper 003): a detector of all classes goes on as detectors of some, by bands of frequency rank.

EXPERTS/...                          a sweep with a training a band (sweep.py)
EXPERTS/detections/IMAGES/DETECTOR/  detections of each detector and combination, IMAGES being val or test
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from xray_det import storage
from xray_det.data.annotations import Selection
from xray_det.data.manifest import Manifest
from xray_det.errors import InputError, within
from xray_det.evaluation.assess import assess, needed, own_protocol
from xray_det.evaluation.comparison import Floats
from xray_det.evaluation.gains import Gains, gains
from xray_det.evaluation.result import finite, mean
from xray_det.inference.classes import dataset_rows
from xray_det.inference.combine import COMBINATIONS, combine
from xray_det.inference.predict import Predicting, Prediction, predict
from xray_det.labels.frequency import expert_ranks, rank_bands
from xray_det.models.weights import CONFIG_FILE, read_config, read_space
from xray_det.orchestrate.experiment import Experiment, Prepared, read_experiment
from xray_det.orchestrate.run_folder import RunFolder

#: The detector that experts begin with, and the classes of no band.
GENERAL: Final = "general"
OTHERS: Final = "others"


@dataclass(frozen=True, kw_only=True)
class Band:
    """Classes of neighbouring ranks.

    Attributes:
        first, last: ranks by training instances, from 1.
        names: of the classes, the most frequent first.
        instances: training instances of the most and the least frequent of them.
    """

    first: int
    last: int
    names: tuple[str, ...]
    instances: tuple[int, int]

    @property
    def label(self) -> str:
        return f"{self.first}-{self.last}"


def find_weights(address: str) -> str:
    """The weights folder that an address means: itself, or that of a finished run, by its folder or its name.

    Raises:
        InputError: it is none of these.
    """
    if storage.exists(storage.join(address, CONFIG_FILE)):
        return address if "://" in address else storage.locate(address)[1]
    for folder in (address, storage.join(storage.home(), "runs", address)):
        result = RunFolder(uri=folder, fingerprint="").finished()
        if result is not None:
            return result.weights
    problem = "is neither a weights folder nor a run that has finished"
    raise InputError(address, problem, "Give the folder of a detector, or of a run, or a run's name")


def expert_experiment(weights: str, name: str) -> Experiment:
    """How experts are trained, but for their classes: from the general detector, its last phase once more.

    Raises:
        InputError: the folder does not say how its detector was trained.
    """
    stored = read_config(weights).get("experiment")
    if not stored:
        raise InputError(weights, "does not say how the detector was trained", "Give one that was trained by xray_det")
    with within(f"{storage.join(weights, CONFIG_FILE)}: experiment"):
        general = read_experiment(stored)
    last = replace(general.phases[-1], keep_optimizer=False)
    return replace(general, name=name, phases=(last,), start_from=weights, start_partial=False)


def choose_bands(prepared: Prepared, ranks: Sequence[tuple[int, int]] = ()) -> tuple[Band, ...]:
    """The experts' classes, by rank in the training instances of all datasets together.

    Args:
        prepared: of ``expert_experiment``.
        ranks: first and last of each band; none: those of paper 003 for its 365 classes, else the middle and the tail.

    Raises:
        InputError: a class that the general detector lacks, a band without a class, bands that overlap.
    """
    known = read_space(prepared.experiment.start_from or "")
    if strange := [name for name in prepared.space.names if name not in known.row_of_name]:
        problem = f"has no class {strange[0]!r}: its label space is not that of the training data"
        raise InputError(str(prepared.experiment.start_from), problem, "Give a general detector of these classes")
    counts = np.array(list(instance_counts(prepared).values()))
    ranks = tuple(ranks) or expert_ranks(int((counts > 0).sum()))
    return tuple(
        Band(
            first=first,
            last=last,
            names=tuple(prepared.space.names[row] for row in rows),
            instances=(int(counts[rows[0]]), int(counts[rows[-1]])),
        )
        for (first, last), rows in zip(ranks, rank_bands(counts, ranks), strict=True)
    )


def instance_counts(prepared: Prepared) -> dict[str, int]:
    """Learned class -> its boxes in the training images of all datasets, in the order of ``prepared.space``."""
    counts = np.zeros(len(prepared.unified.space), np.int64)
    for selection, manifest in zip(prepared.experiment.data.train, prepared.train, strict=True):
        counts[prepared.unified.maps[manifest.name]] += manifest.instances_of(selection.split)
    of_name = dict(zip(prepared.unified.space.names, counts.tolist(), strict=True))
    return {name: of_name[name] for name in prepared.space.names}


def drawn_images(prepared: Prepared) -> int:
    """Images of an epoch before it is rounded up to whole batches."""
    return len(prepared.loader.drawn[1])


@dataclass(frozen=True, kw_only=True)
class Scores:
    """All detectors on one dataset by its publishers' protocol, class by class.

    Attributes:
        key: ``DATASET/PROTOCOL``.
        names: [C] of the dataset's classes that the general detector has.
        counts: [C] training instances.
        bands: band -> rows; the classes of no band are OTHERS.
        ap: detector -> [C] average precision in [0, 1]; None where there is no truth or the detector lacks the class.
    """

    key: str
    names: tuple[str, ...]
    counts: tuple[int, ...]
    bands: Mapping[str, tuple[int, ...]]
    ap: Mapping[str, tuple[float | None, ...]]

    def of(self, detector: str) -> Floats:
        """[C], NaN for None."""
        return np.array(self.ap[detector], np.float64)

    def gains(self, detector: str) -> Gains:
        """Against the general detector."""
        rows = {name: np.array(band, np.int64) for name, band in self.bands.items()}
        return gains(self.of(detector), self.of(GENERAL), rows)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def score_all(
    detectors: Mapping[str, str],
    experts: Sequence[str],
    selections: Sequence[Selection],
    folder: str,
    *,
    experiment: Experiment,
    bands: Sequence[Band],
    counts: Mapping[str, int],
) -> list[Scores]:
    """Detections and average precisions of every detector, and of every combination of the general one and experts.

    Args:
        detectors: name -> weights folder, GENERAL among them.
        experts: names of those that are combined with it.
        selections: images to measure on, all of them with every detector.
        folder: for the detections.
        counts: training instances of the general detector's classes, by name.
    """
    precise = experiment.precision == "fp32"
    settings = Predicting(device=experiment.device, precision="float32" if precise else "bfloat16")
    space = read_space(detectors[GENERAL])
    manifests = [Manifest.load(selection.folder) for selection in selections]
    limits = needed([(manifest, [own_protocol(manifest)]) for manifest in manifests], space)
    found = {
        name: predict(weights, selections, _below(folder, name), limits=limits, settings=settings)
        for name, weights in detectors.items()
    }
    combined = [found[GENERAL], *(found[name] for name in experts)]
    for name, how in COMBINATIONS.items():
        found[name] = combine(combined, _below(folder, name), how)
    return [_scores(found, selection, bands, counts) for selection in selections]


def _below(folder: str, detector: str) -> str:
    return storage.join(folder, detector.replace(" ", "-"))


def _scores(
    found: Mapping[str, Prediction], selection: Selection, bands: Sequence[Band], counts: Mapping[str, int]
) -> Scores:
    manifest = Manifest.load(selection.folder)
    space = found[GENERAL].space
    rows = dataset_rows(space, manifest.space, manifest.name)
    classes = np.flatnonzero(rows >= 0)  # of the general detector; in this order they are the C classes
    place = {space.names[row]: n for n, row in enumerate(classes)}
    in_bands = {band.label: tuple(place[name] for name in band.names if name in place) for band in bands}
    rest = set(range(len(classes))).difference(*in_bands.values())
    ap = {name: _average_precision(each, selection, manifest)[rows[classes]] for name, each in found.items()}
    return Scores(
        key=f"{manifest.name}/{own_protocol(manifest)}",
        names=tuple(manifest.space.names[rows[row]] for row in classes),
        counts=tuple(counts[space.names[row]] for row in classes),
        bands={OTHERS: tuple(sorted(rest)), **in_bands},
        ap={name: tuple(finite(float(value)) for value in values) for name, values in ap.items()},
    )


def _average_precision(prediction: Prediction, selection: Selection, manifest: Manifest) -> Floats:
    """[C of the dataset], NaN where there is no truth or the detector lacks the class."""
    rows = dataset_rows(prediction.space, manifest.space, manifest.name, required=False)
    own, ap = rows[rows >= 0], np.full(len(manifest.space), np.nan)
    if len(own):
        (result,) = assess(prediction, selection, (own_protocol(manifest),)).values()
        ap[own] = result.ap[own]
    return ap


def best_combination(scores: Sequence[Scores]) -> str:
    """The combination with the highest mean average precision over the datasets."""
    return max(COMBINATIONS, key=lambda name: mean(np.array([one.gains(name).ap for one in scores])))

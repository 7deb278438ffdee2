"""Measuring checkpoints beside the training: as a task of Ray Train's controller, which the workers do not wait for.

Tasks that find no free CPU or GPU beside the training run when it has ended.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.cloudpickle
from ray.train import Checkpoint

from xray_det import storage
from xray_det.data.manifest import Manifest
from xray_det.evaluation.assess import assess, needed, own_protocol, sharing, trained_counts
from xray_det.evaluation.bands import by_band
from xray_det.evaluation.figures import precision_recall
from xray_det.evaluation.measured import ClassRow, Measured, class_rows
from xray_det.inference.predict import Predicting, predict
from xray_det.labels.frequency import bands
from xray_det.models.weights import read_space
from xray_det.orchestrate.experiment import Experiment
from xray_det.orchestrate.run_folder import RunFolder
from xray_det.tracking.journal import Journal

#: (weights folder, folder for detections, journal for figures) -> what was found.
Validate = Callable[[str, str, Journal], Measured]
#: The key by which Ray Train keeps the best checkpoints, and its value for those that were not measured.
SCORE, UNMEASURED = "score", -1e300


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What Ray Train runs for a reported checkpoint.

    Attributes:
        run: the run; results are written to its folder and journal once, however often a task is started.
        validate: pickled, because Ray hands this object to processes that need not import what it holds.
        averaged: measure the averaged weights.
        metric: the score of a checkpoint.
    """

    run: RunFolder
    validate: bytes
    averaged: bool
    metric: str

    def __call__(
        self, checkpoint: Checkpoint | None, *, phase: int, epoch: float, step: int, ended: bool
    ) -> dict[str, Any]:
        """Measure the checkpoint after ``epoch`` epochs of a phase; ``ended``: they were all of it, and may be no whole
        number of them."""
        address = self.run.validation(phase, None if ended else int(epoch))
        if not storage.exists(address):
            folder = self.run.weights(phase, averaged=self.averaged)
            detections = self.run.detections(phase)
            if not ended:
                assert checkpoint is not None
                folder = self.run.checkpoint(step, averaged=self.averaged)
                detections = self.run.path("validations", f"phase-{phase}-epoch-{epoch}-detections")
            validate: Validate = ray.cloudpickle.loads(self.validate)
            with Journal(self.run.uri, "validation") as journal:
                measured = validate(folder, detections, journal)
                journal.log(measured.metrics, step)
            where = {"phase": phase, "epoch": epoch, "step": step}
            storage.write_json(address, {**where, **measured.to_json()})
            if not ended:
                storage.delete(detections)
        metrics = storage.read_json(address)["metrics"]
        return {SCORE: metrics.get(self.metric, UNMEASURED)}


def read_measured(address: str) -> Measured | None:
    """What a validation wrote; None where there was none."""
    return Measured.from_json(storage.read_json(address)) if storage.exists(address) else None


def on_the_way(run: RunFolder, phase: int) -> dict[float, Mapping[str, float]]:
    """Epochs of a phase, rising, -> the metrics that were measured after them; its end is the last."""
    found = {}
    for address in run.validations():
        if address.rsplit("/", 1)[1].startswith(f"phase-{phase}-"):
            value = storage.read_json(address)
            found[value["epoch"]] = Measured.from_json(value, address).metrics
    return dict(sorted(found.items()))


def measure_experiment(weights: str, detections: str, journal: Journal, *, experiment: Experiment) -> Measured:
    """Predict ``data.val`` and score each dataset by the COCO protocol and its publishers' own.

    Metrics are ``val/DATASET/PROTOCOL/NAME``, and as their means over the datasets, each by its own protocol,
    ``val/AP``, ``val/AP_head``, ``val/AP_middle`` and ``val/AP_tail``. Bands are by training images. A detector of some
    classes (``data.classes``) is not measured on datasets that have none of them.
    """
    settings = Predicting(precision="bfloat16" if experiment.precision == "bf16" else "float32")
    selections, space = experiment.data.val, read_space(weights)
    if experiment.data.classes is not None:
        selections = sharing(space, selections)
    datasets = [Manifest.load(selection.folder) for selection in selections]
    limits = needed([(dataset, ("coco", own_protocol(dataset))) for dataset in datasets], space)
    prediction = predict(weights, selections, detections, limits=limits, settings=settings, progress=False)
    learned = [(Manifest.load(selection.folder), selection.split) for selection in experiment.data.train]
    metrics: dict[str, float] = {}
    classes: dict[str, tuple[ClassRow, ...]] = {}
    own: list[Mapping[str, float]] = []
    for selection, dataset in zip(selections, datasets, strict=True):
        counts = trained_counts(prediction.space, learned, dataset)
        protocol_of_publishers = own_protocol(dataset)
        protocols = tuple(dict.fromkeys(("coco", protocol_of_publishers)))
        for protocol, result in assess(prediction, selection, protocols).items():
            found = {**result.metrics, **by_band(result, bands(counts))}
            key = f"{dataset.name}/{protocol}"
            metrics |= {f"val/{key}/{name}": value for name, value in found.items()}
            classes[key] = class_rows(result, counts)
            journal.figure(f"{dataset.name}_{protocol}_pr", precision_recall(result))
            if protocol == protocol_of_publishers:
                own.append({"AP": found["AP"] if "AP" in found else found["mAP"], **found})
    for name in ("AP", "AP_head", "AP_middle", "AP_tail"):
        values = [found[name] for found in own if not np.isnan(found[name])]
        metrics[f"val/{name}"] = float(np.mean(values)) if values else float("nan")
    return Measured(metrics=metrics, classes=classes)

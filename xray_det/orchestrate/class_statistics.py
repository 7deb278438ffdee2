"""What the classification loss of an experiment must know of its training data, found once, before the workers start.

Counts stand in the manifests. Concurrent rates are counted by Ray Data in a pass over all boxes, and kept below the
project's home, by what was counted.
"""

import hashlib
import io
import json

import numpy as np

from xray_det import storage
from xray_det.data import concurrence
from xray_det.labels.concurrence import Concurrence, PairCounts
from xray_det.labels.statistics import ClassStatistics
from xray_det.orchestrate.experiment import Prepared

_LAYOUT = 2  # of the cached file; part of its key


def class_statistics(prepared: Prepared) -> ClassStatistics | None:
    """The statistics of an experiment's training images in the classes that it learns; None where its loss needs none.

    Raises:
        InputError: a split that a dataset has not, or no box at all where concurrent rates are needed.
    """
    needs = prepared.experiment.model.classification.needs
    if needs is None:
        return None
    images, instances = np.zeros((2, len(prepared.unified.space)), np.int64)
    for selection, manifest in zip(prepared.experiment.data.train, prepared.train, strict=True):
        rows = prepared.unified.maps[manifest.name]
        np.add.at(images, rows, manifest.images_of(selection.split))
        np.add.at(instances, rows, manifest.instances_of(selection.split))
    supervision = prepared.supervision
    ancestors, rates = supervision.ancestors, None
    if needs.concurrence_iou is not None:
        rates = Concurrence.of(_pairs(prepared, needs.concurrence_iou), ancestors=ancestors)
    found = ClassStatistics(image_counts=images, instance_counts=instances, ancestors=ancestors, concurrence=rates)
    return found if supervision.learned is None else found.subset(supervision.learned, supervision.stands_for)


def _pairs(prepared: Prepared, iou: float) -> PairCounts:
    selections, ancestors = prepared.experiment.data.train, prepared.supervision.ancestors
    maps = [prepared.unified.maps[manifest.name] for manifest in prepared.train]
    counted = [
        [manifest.fingerprint, selection.split, rows.tolist()]
        for manifest, selection, rows in zip(prepared.train, selections, maps, strict=True)
    ]
    digest = hashlib.sha256(json.dumps([_LAYOUT, iou, ancestors.tolist(), counted]).encode()).hexdigest()[:16]
    file = storage.home() / "cache" / f"concurrence-{digest}.npz"
    if storage.exists(file):
        with np.load(io.BytesIO(storage.read_bytes(file))) as arrays:
            return PairCounts(**arrays)
    pairs = concurrence.count(selections, maps, ancestors, iou=iou)
    sink = io.BytesIO()
    np.savez(sink, **vars(pairs))
    storage.write_bytes(file, sink.getvalue())
    return pairs

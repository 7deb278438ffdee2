"""Detections of an ingested dataset against its own truth, over its own classes, by any protocol."""

from collections.abc import Callable
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xray_det.data import shards
from xray_det.data.annotations import Selection
from xray_det.data.manifest import Manifest
from xray_det.data.schema import SHARD
from xray_det.evaluation import coco, lvis, open_images, voc
from xray_det.evaluation.columns import Detected, Truth, detected_from_table, truth_from_shards
from xray_det.evaluation.result import Result
from xray_det.inference.classes import dataset_rows
from xray_det.inference.predict import Prediction
from xray_det.labels.space import LabelSpace

Protocol = Literal["coco", "lvis", "voc", "open_images"]
_COLUMNS: Final = [
    name for name in SHARD.names if name not in ("image", "offset", "length", "dataset", "visible_boxes")
]


def own_protocol(manifest: Manifest) -> Protocol:
    """The protocol that a dataset's publishers use: that of its format."""
    formats: dict[str, Protocol] = {"coco": "coco", "lvis": "lvis", "voc": "voc", "open_images": "open_images"}
    return formats[manifest.format]


def truth_of(selection: Selection) -> tuple[Truth, Manifest]:
    """The published boxes of a split, in the dataset's own classes."""
    manifest = Manifest.load(selection.folder)
    table = pa.concat_tables(shards.read_table(uri, _COLUMNS) for uri in manifest.shard_uris)
    if selection.split is not None:
        table = table.filter(pc.equal(table["split"], selection.split))
    return truth_from_shards(table, manifest.space, exhaustive=manifest.exhaustive), manifest


def assess(prediction: Prediction, selection: Selection, protocol: Protocol) -> Result:
    """Score a prediction on one dataset, over the dataset's own classes.

    Classes that the detector has from elsewhere are left out; classes that it lacks score 0.

    Raises:
        InputError: the prediction has no image of the selection, or the detector no class of the dataset; LVIS's
            protocol for classes without a frequency.
    """
    truth, manifest = truth_of(selection)
    rows = dataset_rows(prediction.space, manifest.space, manifest.name)
    detected = detected_from_table(prediction.table(manifest.name), truth, rows=rows)
    if protocol == "open_images":
        ancestors = manifest.hierarchy.ancestors(manifest.space) if manifest.hierarchy else None
        return open_images.evaluate(truth, detected, ancestors=ancestors)
    evaluate: dict[str, Callable[[Truth, Detected], Result]] = {
        "coco": coco.evaluate,
        "lvis": lvis.evaluate,
        "voc": voc.evaluate,
    }
    return evaluate[protocol](truth, detected)


def trained_counts(space: LabelSpace, trained: list[Manifest], dataset: Manifest) -> np.ndarray:
    """int64 [C of ``dataset``]: training images that hold each class, over all the datasets trained on.

    Args:
        space: the detector's classes.
        trained: the datasets it was trained on.
        dataset: the one that is scored.
    """
    counts = np.zeros(len(space) + 1, np.int64)  # the last place takes what has no class in the detector
    for manifest in trained:
        rows = dataset_rows(space, manifest.space, manifest.name)
        present = rows >= 0
        counts[:-1][present] += manifest.n_images[rows[present]]
    own = np.full(len(dataset.space), len(space))
    rows = dataset_rows(space, dataset.space, dataset.name)
    own[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    mapped: np.ndarray = counts[own]
    return mapped

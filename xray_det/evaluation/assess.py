"""Detections of an ingested dataset against its own truth, over its own classes, by any protocol.

The images are cut into parts (parts.py), which tasks judge side by side where there are several; no process holds
a dataset. The engine of COCO and LVIS is the exception: it wants all detections at once.

Parts are joined in the order of the images in the dataset. Equal scores stay in it, and within an image as they were
written, so that the numbers depend neither on the parts nor on which was done first.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial, reduce
from typing import Final

import numpy as np
import pyarrow as pa

from xray_det.data.annotations import Annotations, Selection
from xray_det.data.ingest import each
from xray_det.data.limits import Limits
from xray_det.data.manifest import Manifest
from xray_det.errors import InputError
from xray_det.evaluation import coco, lvis, open_images, voc
from xray_det.evaluation.columns import detected_from_table
from xray_det.evaluation.parts import WHOLE, Protocol, Scored, judge, parts_of, truth_of
from xray_det.evaluation.result import Result
from xray_det.evaluation.verdicts import Verdicts
from xray_det.inference.classes import dataset_rows
from xray_det.inference.predict import Prediction
from xray_det.labels.space import LabelSpace

#: Protocol -> what it needs of decoding to score so many classes.
_NEEDS: Final[dict[Protocol, Callable[[int], Limits]]] = {
    "coco": coco.needs,
    "lvis": lvis.needs,
    "voc": voc.needs,
    "open_images": open_images.needs,
}


def own_protocol(manifest: Manifest) -> Protocol:
    """The protocol that a dataset's publishers use: that of its format."""
    formats: dict[str, Protocol] = {"coco": "coco", "lvis": "lvis", "voc": "voc", "open_images": "open_images"}
    return formats[manifest.format]


def all_protocols(manifest: Manifest) -> tuple[Protocol, ...]:
    """What every dataset can be scored by, and the dataset's own."""
    return tuple(dict.fromkeys(("coco", "open_images", "voc", own_protocol(manifest))))


def needed(asked: Iterable[tuple[Manifest, Iterable[Protocol]]], space: LabelSpace) -> Limits:
    """What a prediction of several datasets must hold for all protocols that each is scored by.

    Args:
        asked: datasets with their protocols.
        space: the detector's classes: those that a dataset has not share an image's detections too.
    """
    found = [_NEEDS[p](max(len(space), len(manifest.space))) for manifest, protocols in asked for p in protocols]
    return reduce(Limits.widened, found)


def assess(prediction: Prediction, selection: Selection, protocols: Sequence[Protocol]) -> dict[Protocol, Result]:
    """Score a prediction on one dataset, over the dataset's own classes.

    Classes that the detector has from elsewhere are left out; classes that it lacks score 0. Images of the selection
    that the prediction lacks have no detections; its other images are left out.

    Of what was predicted a protocol sees what it needs, and all that the detector was set to keep: its numbers do not
    depend on what else was asked for. (But for suppression: where a pyramid level has more pairs above the threshold
    than ``candidates``, they depend on how many took part.)

    Args:
        prediction: of the selection, among others perhaps.
        selection: the dataset.
        protocols: what to score by.

    Raises:
        InputError: the prediction has no image of the selection or one of them twice, the detector no class of the
            dataset; LVIS's protocol for classes without a frequency.
    """
    annotations = Annotations.open([selection])
    (manifest,) = annotations.manifests
    rows = dataset_rows(prediction.space, manifest.space, manifest.name)
    limits = {protocol: _NEEDS[protocol](len(manifest.space)).widened(prediction.own) for protocol in protocols}
    scored = Scored(source=annotations.source, manifest=manifest, rows=rows, limits=limits)
    parts = parts_of(prediction.uris, manifest.name, annotations.image_ids)
    run = map if len(parts) == 1 else each  # starting tasks takes longer than judging one part
    found = dict(run(partial(judge, scored=scored), parts))
    results: dict[Protocol, Result] = {}
    for protocol in protocols:
        judged = [found[part.start][protocol] for part in parts]
        if protocol in WHOLE:
            truth = truth_of(annotations.batch, manifest)
            detected = detected_from_table(pa.concat_tables(judged), truth, rows=rows).within(limits[protocol])
            results[protocol] = (coco if protocol == "coco" else lvis).evaluate(truth, detected)
        else:
            result = open_images.result if protocol == "open_images" else voc.result
            results[protocol] = result(Verdicts.join(judged), manifest.space)
    return results


def sharing(space: LabelSpace, selections: Sequence[Selection]) -> tuple[Selection, ...]:
    """Those of the selections whose datasets have a class of the detector.

    Raises:
        InputError: none has.
    """
    manifests = [Manifest.load(selection.folder) for selection in selections]
    rows = [dataset_rows(space, manifest.space, manifest.name, required=False) for manifest in manifests]
    found = tuple(selection for selection, own in zip(selections, rows, strict=True) if (own >= 0).any())
    if not found:
        names = ", ".join(manifest.name for manifest in manifests)
        problem = f"none has a class of the detector ({', '.join(space.names[:5])}, ...)"
        raise InputError(names, problem, "Measure on a dataset that has one")
    return found


def trained_counts(space: LabelSpace, trained: Sequence[tuple[Manifest, str | None]], dataset: Manifest) -> np.ndarray:
    """int64 [C of ``dataset``]: training images that hold each class, over all the datasets trained on.

    Args:
        space: the detector's classes.
        trained: the datasets and splits it was trained on.
        dataset: the one that is scored.
    """
    counts = np.zeros(len(space) + 1, np.int64)  # the last place takes what has no class in the detector
    for manifest, split in trained:
        rows = dataset_rows(space, manifest.space, manifest.name, required=False)
        present = rows >= 0
        counts[:-1][present] += manifest.images_of(split)[rows[present]]
    own = np.full(len(dataset.space), len(space))
    rows = dataset_rows(space, dataset.space, dataset.name)
    own[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    mapped: np.ndarray = counts[own]
    return mapped

"""Pictures of a finished prediction beside the truth of its dataset."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xray_det.data import geometry
from xray_det.data.annotations import Annotations, Selection, box_labels, ragged
from xray_det.data.assemble import read_image
from xray_det.data.images import decode
from xray_det.inference.classes import dataset_rows
from xray_det.inference.drawing import Boxes, beside
from xray_det.inference.predict import Prediction
from xray_det.labels.space import LabelSpace


def pictures_beside_truth(
    prediction: Prediction, selection: Selection, *, images: int = 8, score: float = 0.3, seed: int = 0
) -> Iterator[tuple[str, np.ndarray]]:
    """(image id, picture) of some images of a dataset that were predicted, drawn at random among those with boxes.

    Args:
        prediction: of the selection, among others perhaps.
        selection: the dataset.
        images: how many; fewer when the dataset is smaller.
        score: detections below it are not drawn.
        seed: of the choice.
    """
    annotations = Annotations.open([selection])
    manifest = annotations.manifests[0]
    own = dataset_rows(prediction.space, manifest.space, manifest.name)
    found = prediction.table(manifest.name)
    counts = np.diff(annotations.batch.column("boxes").offsets.to_numpy())
    candidates = np.flatnonzero(counts) if (counts > 0).any() else np.arange(len(annotations))
    chosen = np.sort(np.random.default_rng(seed).permutation(candidates)[:images])
    rows = annotations.batch.take(pa.array(chosen))
    places = pc.index_in(rows.column("image_id").cast(pa.string()), value_set=found["image_id"].combine_chunks())
    for row, place in enumerate(places.to_pylist()):
        image_id = rows.column("image_id")[row].as_py()
        detections = found.slice(place, 1) if place is not None else found.slice(0, 0)
        yield (
            image_id,
            beside(
                _image(rows, row),
                _truth(rows.slice(row, 1), manifest.space),
                _detections(detections, prediction.space, manifest.space, own).above(score),
                title=image_id,
            ),
        )


def _image(rows: pa.RecordBatch, row: int) -> np.ndarray:
    path, offset, length = (rows.column(name)[row].as_py() for name in ("path", "offset", "length"))
    return decode(read_image(path, -1 if offset is None else offset, -1 if length is None else length))


def _truth(row: pa.RecordBatch, space: LabelSpace) -> Boxes:
    boxes, _ = ragged(row.column("boxes"))
    flags, _ = ragged(row.column("flags"))
    labels, label_box = box_labels(row.column("labels"))
    kept = np.flatnonzero(geometry.trained(flags))
    names = [tuple(space.names[label] for label in labels[label_box == box]) for box in kept]
    return Boxes(boxes=boxes[kept], labels=names, judged=~geometry.region(flags[kept]))


def _detections(table: pa.Table, detector: LabelSpace, dataset: LabelSpace, own: np.ndarray) -> Boxes:
    """Detections under the dataset's names where it has the class, else under the detector's."""
    if not table.num_rows:
        return Boxes(boxes=np.empty((0, 4)), labels=[], judged=np.empty(0, bool), scores=np.empty(0))
    row = table.combine_chunks().to_batches()[0]
    boxes, _ = ragged(row.column("boxes"))
    scores, _ = ragged(row.column("scores"))
    labels, _ = ragged(row.column("labels"))
    names = [(dataset.names[own[label]] if own[label] >= 0 else detector.names[label],) for label in labels]
    return Boxes(boxes=boxes, labels=names, judged=own[labels] >= 0, scores=scores)

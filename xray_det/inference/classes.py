"""Which class of a dataset a detector's class is: a detector trained on several datasets has classes of all of them."""

import json

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from xray_det.data.schema import DETECTIONS
from xray_det.errors import InputError
from xray_det.labels.space import LabelSpace
from xray_det.labels.unify import kept_apart, unify


def dataset_rows(
    detector: LabelSpace, dataset: LabelSpace, name: str, *, required: bool = True
) -> npt.NDArray[np.int32]:
    """int32 [C of the detector]: the row of ``dataset`` that each class of the detector is, -1 where it has none.

    A class kept apart by training (``merge=False``) has the id ``name/published id``; else classes meet as in
    labels/unify.py, by name and alias.

    Args:
        detector: the classes a detector was trained on.
        dataset: a dataset's classes as published.
        name: the dataset's name.
        required: at least one class must be common. A detector of some of its training data's classes may have none
            of one of the datasets.

    Raises:
        InputError: no class in common though ``required``, or two classes of one side would meet.
    """
    rows = np.full(len(detector), -1, np.int32)
    own = {f"{name}/{c.source_id}": row for row, c in enumerate(dataset.classes)}
    if detector == dataset:
        return np.arange(len(detector), dtype=np.int32)
    for row, cls in enumerate(detector.classes):
        if cls.source_id in own and cls.name.startswith(f"{name}/"):
            rows[row] = own[cls.source_id]
    if (rows < 0).all():
        unified = unify({"the detector": detector, name: dataset}, aliases=kept_apart(detector))
        row_of = np.full(len(unified.space), -1, np.int32)
        row_of[unified.maps[name]] = np.arange(len(dataset), dtype=np.int32)
        rows = row_of[unified.maps["the detector"]]
    if required and (rows < 0).all():
        raise InputError(
            name,
            f"shares no class with the detector ({', '.join(detector.names[:5])}, ... against "
            f"{', '.join(dataset.names[:5])}, ...)",
            "Give a dataset of the detector's classes",
        )
    return rows


def relabelled(table: pa.Table, rows: npt.NDArray[np.int32], dataset: LabelSpace) -> pa.Table:
    """Detections under a dataset's classes; those of classes it does not have are left out.

    Args:
        table: schema.DETECTIONS.
        rows: of ``dataset_rows``.
    """
    counts = np.asarray(pc.list_value_length(table["scores"]), np.int64)
    image = np.repeat(np.arange(table.num_rows), counts)
    labels = rows[pc.list_flatten(table["labels"]).to_numpy()]
    kept = np.flatnonzero(labels >= 0)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(image[kept], minlength=table.num_rows))]).astype(np.int32)
    columns = {name: pc.list_flatten(table[name]).combine_chunks().take(pa.array(kept)) for name in ("boxes", "scores")}
    columns["labels"] = pa.array(labels[kept])
    lists = {name: pa.ListArray.from_arrays(pa.array(offsets), values) for name, values in columns.items()}
    schema = DETECTIONS.with_metadata({"classes": json.dumps(dataset.to_json())})
    return pa.table({"image_id": table["image_id"], "dataset": table["dataset"], **lists}).cast(schema)

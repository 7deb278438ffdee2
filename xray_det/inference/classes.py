"""Which class of a dataset a detector's class is: a detector trained on several datasets has classes of all of them."""

import numpy as np
import numpy.typing as npt

from xray_det.errors import InputError
from xray_det.labels.space import LabelSpace
from xray_det.labels.unify import unify


def dataset_rows(detector: LabelSpace, dataset: LabelSpace, name: str) -> npt.NDArray[np.int32]:
    """int32 [C of the detector]: the row of ``dataset`` that each class of the detector is, -1 where it has none.

    A class kept apart by training (``merge=False``) has the id ``name/published id``; else classes meet as in
    labels/unify.py, by name and alias.

    Args:
        detector: the classes a detector was trained on.
        dataset: a dataset's classes as published.
        name: the dataset's name.

    Raises:
        InputError: no class in common, or two classes of one side would meet.
    """
    rows = np.full(len(detector), -1, np.int32)
    own = {f"{name}/{c.source_id}": row for row, c in enumerate(dataset.classes)}
    if detector == dataset:
        return np.arange(len(detector), dtype=np.int32)
    for row, cls in enumerate(detector.classes):
        if cls.source_id in own and cls.name.startswith(f"{name}/"):
            rows[row] = own[cls.source_id]
    if (rows < 0).all():
        unified = unify({"the detector": detector, name: dataset})
        row_of = np.full(len(unified.space), -1, np.int32)
        row_of[unified.maps[name]] = np.arange(len(dataset), dtype=np.int32)
        rows = row_of[unified.maps["the detector"]]
    if (rows < 0).all():
        raise InputError(
            name,
            f"shares no class with the detector ({', '.join(detector.names[:5])}, ... against "
            f"{', '.join(dataset.names[:5])}, ...)",
            "Give a dataset of the detector's classes",
        )
    return rows

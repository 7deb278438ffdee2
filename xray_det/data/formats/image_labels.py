"""Open Images' image-level labels: one row an image and class, verified as present or absent."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from xray_det.errors import InputError

_COLUMNS = ("ImageID", "LabelName", "Confidence")


@dataclass(frozen=True, kw_only=True)
class ImageLabels:
    """V verified labels.

    Attributes:
        image_ids: the distinct images.
        image: int64 [V], row of ``image_ids``.
        class_ids: the distinct published class ids.
        label: int64 [V], row of ``class_ids``.
        present: bool [V]; False: verified as absent.
    """

    image_ids: tuple[str, ...]
    image: NDArray[np.int64]
    class_ids: tuple[str, ...]
    label: NDArray[np.int64]
    present: NDArray[np.bool_]


def read_image_labels(path: Path) -> ImageLabels:
    """Read a CSV with ImageID, LabelName and Confidence (1 present, 0 absent), among other columns.

    Raises:
        InputError: no such file, another header, or a confidence that is neither 0 nor 1.
    """
    options = pacsv.ConvertOptions(
        column_types={"ImageID": pa.string(), "LabelName": pa.string(), "Confidence": pa.float64()},
        include_columns=list(_COLUMNS),
    )
    try:
        table = pacsv.read_csv(path, convert_options=options)
    except FileNotFoundError as error:
        raise InputError(path, "no such file", "Check the path of the image-level labels") from error
    except (pa.ArrowException, KeyError) as error:
        raise InputError(
            path, f"is no table of image-level labels ({str(error)[:200]})", f"Give a CSV with {','.join(_COLUMNS)}"
        ) from error
    confidence = table["Confidence"].to_numpy()
    odd = np.flatnonzero((confidence != 0) & (confidence != 1))
    if len(odd):
        raise InputError(
            path,
            f"row {odd[0] + 2} has the confidence {confidence[odd[0]]}",
            "Give the labels that people verified: 1 is present, 0 is absent",
        )
    image, label = (table[name].dictionary_encode().combine_chunks() for name in ("ImageID", "LabelName"))
    return ImageLabels(
        image_ids=tuple(image.dictionary.to_pylist()),
        image=image.indices.to_numpy().astype(np.int64),
        class_ids=tuple(label.dictionary.to_pylist()),
        label=label.indices.to_numpy().astype(np.int64),
        present=confidence == 1,
    )

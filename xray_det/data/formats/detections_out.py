"""Detections written in the formats that other tools read, a table at a time."""

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from xray_det.errors import InputError
from xray_det.labels.space import LabelSpace


def write_coco_results(tables: Iterable[pa.Table], path: str | Path, space: LabelSpace) -> int:
    """COCO results JSON: a list of {image_id, category_id, bbox [x, y, width, height], score}.

    Ids are the published ones: numbers where they were published as numbers, else text.

    Args:
        tables: schema.DETECTIONS, in pixels.
        path: the file; it appears when it is whole.
        space: the classes that the labels are rows of.

    Returns:
        How many detections were written.
    """
    classes = [_number_or_text(c.source_id) for c in space.classes]
    written = 0
    with _whole(Path(path)) as stream:
        stream.write(b"[")
        for table in tables:
            images = [_number_or_text(i) for i in table["image_id"].to_pylist()]
            image, labels, boxes, scores = _columns(table)
            boxes[:, 2:] -= boxes[:, :2]
            for i, label, box, score in zip(
                image.tolist(), labels.tolist(), boxes.tolist(), scores.tolist(), strict=True
            ):
                row = {"image_id": images[i], "category_id": classes[label], "bbox": box, "score": score}
                stream.write(b",\n" if written else b"\n")
                stream.write(msgspec.json.encode(row))
                written += 1
        stream.write(b"\n]\n")
    return written


def write_open_images(
    tables: Iterable[pa.Table], path: str | Path, space: LabelSpace, sizes: Mapping[str, tuple[int, int]]
) -> int:
    """Open Images CSV: ImageID,LabelName,Score,XMin,XMax,YMin,YMax, boxes as fractions of the image.

    Args:
        tables: schema.DETECTIONS, in pixels.
        path: the file; it appears when it is whole.
        space: the classes that the labels are rows of.
        sizes: image id -> width and height in pixels.

    Returns:
        How many detections were written.

    Raises:
        InputError: an image without size.
    """
    ids = pa.array([c.source_id for c in space.classes], pa.string())
    schema = pa.schema(
        [("ImageID", pa.string()), ("LabelName", pa.string())]
        + [(name, pa.float64()) for name in ("Score", "XMin", "XMax", "YMin", "YMax")]
    )
    written = 0
    with (
        _whole(Path(path)) as stream,
        pacsv.CSVWriter(stream, schema, write_options=pacsv.WriteOptions(quoting_style="needed")) as writer,
    ):
        for table in tables:
            images = table["image_id"].to_pylist()
            missing = next((i for i in images if i not in sizes), None)
            if missing is not None:
                raise InputError("detections", f"image {missing!r} has no known size", "Give the dataset it belongs to")
            image, labels, boxes, scores = _columns(table)
            scale = np.array([sizes[i] for i in images], np.float64).reshape(-1, 2)
            boxes /= np.tile(scale[image], (1, 2))
            columns = [
                table["image_id"].combine_chunks().take(pa.array(image)),
                ids.take(pa.array(labels)),
                *map(pa.array, (scores, boxes[:, 0], boxes[:, 2], boxes[:, 1], boxes[:, 3])),
            ]
            writer.write_table(pa.table(columns, schema=schema))
            written += len(scores)
    return written


def _columns(
    table: pa.Table,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Image row [M], label [M], box [M, 4] and score [M] of each detection, in float64."""
    counts = np.asarray(pc.list_value_length(table["boxes"]), np.int64)
    boxes = pc.list_flatten(pc.list_flatten(table["boxes"])).to_numpy().astype(np.float64).reshape(-1, 4)
    labels = pc.list_flatten(table["labels"]).to_numpy().astype(np.int64)
    scores = pc.list_flatten(table["scores"]).to_numpy().astype(np.float64)
    return np.repeat(np.arange(table.num_rows), counts), labels, boxes, scores


def _number_or_text(identity: str) -> int | str:
    """7 for "7", but "007" and "seven" as they are."""
    return int(identity) if identity.isdecimal() and str(int(identity)) == identity else identity


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A stream to a file that takes its name when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with partial.open("wb") as stream:
            yield stream
        os.replace(partial, path)
    except OSError as error:
        raise InputError(
            path, f"cannot be written ({error.strerror})", "Free space or choose another folder"
        ) from error
    finally:
        partial.unlink(missing_ok=True)

"""COCO results JSON into columns: a list of rows, or a whole COCO document with scored annotations.

The second is what tools write that keep a file's images and categories beside its detections; those tables say what
the ids mean and are kept. Both are read a window at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from xray_det.data.formats.json_stream import refuse_utf16, stream_arrays, stream_list
from xray_det.errors import InputError
from xray_det.storage import open_file

#: Bytes decoded at once: their rows take about five times as much.
WINDOW: Final = 8 << 20


class _Row(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float]
    score: float


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str | None = None


class _Category(msgspec.Struct, gc=False):
    id: int | str
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class JsonColumns:
    """M rows: see DetectionFile; ``boxes_xywh`` is float64 [M, 4] as written."""

    image_ids: tuple[str, ...]
    image: NDArray[np.int64]
    class_ids: tuple[str, ...]
    label: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]
    scores: NDArray[np.float64]
    image_names: dict[str, str] | None
    class_names: dict[str, str] | None


def read_json(path: Path, window: int = WINDOW) -> JsonColumns:
    """Read a file of COCO results.

    Args:
        path: a list of {image_id, category_id, bbox [x, y, width, height], score}, or a COCO document whose
            annotations have scores. Ids are whole numbers or text; other fields are skipped.
        window: bytes decoded at once.

    Raises:
        InputError: not JSON, cut off, or a row that lacks a field or has another type; with the place.
    """
    images, categories = _Ids(), _Ids()
    tables: dict[str, dict[str, str]] = {"images": {}, "categories": {}}
    parts = [_columns([], images, categories)]
    parts += [_columns(rows, images, categories) for rows in _windows(path, window, tables)]
    image, label, boxes, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    image_ids, image = images.as_text(image)
    class_ids, label = categories.as_text(label)
    return JsonColumns(
        image_ids=image_ids,
        image=image,
        class_ids=class_ids,
        label=label,
        boxes_xywh=boxes,
        scores=scores,
        image_names=tables["images"] or None,
        class_names=tables["categories"] or None,
    )


def _windows(path: Path, window: int, tables: dict[str, dict[str, str]]) -> Iterator[list[_Row]]:
    """Rows, a window at a time; ``tables`` is filled with the names that a document gives its ids."""
    refuse_utf16(path)
    with open_file(path) as stream:
        first = stream.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if first == b"[":
        yield from stream_list(path, list[_Row], "detections", window)
        return
    if first != b"{":
        raise InputError(path, "is no JSON list of detections", "Give COCO results: [{image_id, category_id, ...}]")
    kinds: dict[str, Any] = {"annotations": list[_Row], "images": list[_Image], "categories": list[_Category]}
    seen = set()
    for key, _, items in stream_arrays(path, kinds, window):
        seen.add(key)
        if key == "annotations":
            yield items
        elif key == "images":
            tables[key] |= {str(i.id): i.file_name for i in items if i.file_name is not None}
        else:
            tables[key] |= {str(c.id): c.name for c in items if c.name is not None}
    if "annotations" not in seen:
        raise InputError(path, "has no 'annotations'", "Give COCO results: [{image_id, category_id, bbox, score}, ...]")


def _columns(rows: list[_Row], images: "_Ids", categories: "_Ids") -> tuple[NDArray[Any], ...]:
    return (
        images.rows([row.image_id for row in rows]),
        categories.rows([row.category_id for row in rows]),
        np.array([row.bbox for row in rows], np.float64).reshape(-1, 4),
        np.array([row.score for row in rows], np.float64),
    )


class _Ids:
    """Distinct ids in order of appearance."""

    def __init__(self) -> None:
        self.row_of: dict[int | str, int] = {}

    def rows(self, ids: list[int | str]) -> NDArray[np.int64]:
        row_of = self.row_of
        return np.array([row_of.setdefault(i, len(row_of)) for i in ids], np.int64)

    def as_text(self, rows: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """The ids as text, and ``rows`` renumbered: 7 and "7" are one id."""
        place = {text: row for row, text in enumerate(dict.fromkeys(map(str, self.row_of)))}
        renumbered = np.array([place[str(i)] for i in self.row_of], np.int64)
        return tuple(place), renumbered[rows]

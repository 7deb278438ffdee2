"""COCO results JSON into columns: a list of rows read in windows, or a whole COCO document with scored annotations.

The second is what tools write that keep a file's images and categories beside its detections; those tables say what
the ids mean and are kept.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from xray_det.errors import InputError

#: Bytes decoded at once: their rows take about five times as much.
WINDOW = 16 << 20
_BETWEEN_ROWS = re.compile(rb"\}\s*,\s*(?=\{)")
_NOT_JSON = re.compile(rb"[\[:,]\s*-?(NaN|Infinity|nan|inf)\b")
_PLACE = re.compile(r"\$(?:\.annotations)?\[(\d+)\]")


T = TypeVar("T")


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


class _Document(msgspec.Struct):
    annotations: list[_Row]
    images: list[_Image] = []
    categories: list[_Category] = []


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
        InputError: not JSON (NaN and Infinity are not), cut off, or a row that lacks a field or has another type.
    """
    with path.open("rb") as stream:
        first = stream.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    images, categories = _Ids(), _Ids()
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]] = []
    image_names = class_names = None
    if first == b"{":
        document = _decode(path, path.read_bytes().lstrip(b"\xef\xbb\xbf"), _Document, 0)
        image_names = {str(i.id): i.file_name for i in document.images if i.file_name is not None} or None
        class_names = {str(c.id): c.name for c in document.categories if c.name is not None} or None
        windows: Iterator[list[_Row]] = iter([document.annotations])
    elif first == b"[":
        windows = _windows(path, window)
    else:
        raise InputError(path, "is no JSON list of detections", "Give COCO results: [{image_id, category_id, ...}]")
    for rows in windows:
        parts.append(
            (
                images.rows([row.image_id for row in rows]),
                categories.rows([row.category_id for row in rows]),
                np.array([row.bbox for row in rows], np.float64).reshape(-1, 4),
                np.array([row.score for row in rows], np.float64),
            )
        )
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
        image_names=image_names,
        class_names=class_names,
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


def _windows(path: Path, window: int) -> Iterator[list[_Row]]:
    """The rows of a JSON list, a window at a time: cut between two rows, and decoded as a list of its own."""
    done = 0
    with path.open("rb") as stream:
        pending = stream.read(window).lstrip(b"\xef\xbb\xbf \t\r\n")[1:]
        while chunk := stream.read(window):
            pending += chunk
            cut = _last_cut(pending)
            if cut is None:
                continue
            rows = _decode(path, b"[" + pending[:cut] + b"]", list[_Row], done)
            done += len(rows)
            pending = pending[cut:].lstrip(b", \t\r\n")
            yield rows
        yield _decode(path, b"[" + pending, list[_Row], done)


def _last_cut(pending: bytes) -> int | None:
    """Where the last whole row ends. Inside a row no object follows another: only lists of objects would, and a
    detection has none (a mask is one object)."""
    for start in (max(0, len(pending) - (1 << 16)), 0):
        cuts = [match.start() + 1 for match in _BETWEEN_ROWS.finditer(pending, start)]
        if cuts:
            return cuts[-1]
    return None


def _decode(path: Path, text: bytes, type: type[T], done: int) -> T:
    try:
        return msgspec.json.decode(text, type=type)
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        where = f"{path}: detection {done + int(place[1])}" if place else path
        raise InputError(
            where, f"is no detection ({error})", "A detection has image_id, category_id, bbox [x, y, w, h] and score"
        ) from error
    except msgspec.DecodeError as error:
        strange = _NOT_JSON.search(text)
        if strange:
            row = done + text.count(b'"bbox"', 0, strange.start()) - 1
            raise InputError(
                f"{path}: detection {max(row, 0)}",
                f"{strange[1].decode()} is not a number of JSON",
                "Remove it, or find out why the detector wrote it",
            ) from error
        raise InputError(path, f"is not valid JSON ({error})", "Write the file again: it may be cut off") from error

"""The box around a COCO segmentation: polygons, or run lengths as numbers or as pycocotools writes them."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from xray_det.errors import InputError

XYWH = tuple[float, float, float, float]


def segmentation_box(segmentation: bytes | msgspec.Raw, path: Path, position: int) -> XYWH:
    """x, y, width, height of the smallest box around it, in pixels.

    Args:
        segmentation: JSON: polygons ``[[x, y, x, y, ...], ...]``, one polygon ``[x, y, ...]``, or run lengths
            ``{size: [height, width], counts: [...] or "..."}``.
        path: of its file, for the message.
        position: of its annotation there.

    Raises:
        InputError: it is none of these, or nothing is in it.
    """
    where = f"{path}: annotations[{position}]"
    remedy = "Give its bbox [x, y, width, height], or remove the annotation"
    try:
        shape = json.loads(bytes(segmentation) or b"null")  # with NaN, as json_stream reads the rest of the file
        if shape:
            return _of_runs(**shape) if isinstance(shape, dict) else _of_polygons(shape)
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        problem = f"it has no bbox, and no box can be taken from its segmentation ({error})"
        raise InputError(where, problem, remedy) from error
    raise InputError(where, "it has no bbox, and no segmentation to take one from", remedy)


def _of_polygons(polygons: list[Any]) -> XYWH:
    each = polygons if isinstance(polygons[0], list) else [polygons]
    points = np.concatenate([np.array(polygon, np.float64).reshape(-1, 2) for polygon in each])
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right - left, bottom - top


def _of_runs(size: list[int], counts: list[int] | str) -> XYWH:
    """Runs of background and foreground in turn, down the columns."""
    height, width = size
    lengths = np.array(_unpacked(counts) if isinstance(counts, str) else counts)
    if lengths.dtype.kind != "i" or lengths.min() < 0 or lengths.sum() > height * width:
        raise ValueError(f"its runs are none of {height} x {width} pixels")
    ends = np.cumsum(lengths)
    starts, ends = ends[:-1:2], ends[1::2]
    starts, ends = starts[ends > starts], ends[ends > starts] - 1  # the last pixel of each
    left, right = int((starts // height).min()), int((ends // height).max())
    across = bool((starts // height != ends // height).any())  # a run that goes on in the next column
    top, bottom = (0, height - 1) if across else (int((starts % height).min()), int((ends % height).max()))
    return left, top, right - left + 1, bottom - top + 1


def _unpacked(text: str) -> list[int]:
    """Run lengths from text: 5 bits a character, the lowest first; from the third on less the one before the last."""
    counts: list[int] = []
    value = shift = 0
    for letter in text.encode():
        bits = letter - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:  # the last one of this number
            if bits & 0x10:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    return counts

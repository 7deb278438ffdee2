"""PUBLISHED record batches from flat columns."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from xray_det.data.schema import PUBLISHED


def ragged(values: pa.Array, offsets: np.ndarray, null: np.ndarray | None = None) -> pa.ListArray:
    """Lists ``values[offsets[i]:offsets[i + 1]]``; null where ``null`` [len(offsets) - 1] is true."""
    mask = None if null is None or not null.any() else pa.array(null)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=mask)


def quads(boxes: np.ndarray) -> pa.FixedSizeListArray:
    """float [N, 4] as a list of four numbers a row."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(boxes).reshape(-1)), 4)


def counts_to_offsets(counts: np.ndarray | Sequence[int]) -> np.ndarray:
    """Where each list begins and the last one ends, int64 [len(counts) + 1]."""
    return np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))]).astype(np.int64)


def published(
    *,
    image_id: pa.Array | Sequence[str],
    split: pa.Array | Sequence[str | None],
    path: pa.Array | Sequence[str | None],
    size: tuple[pa.Array | Sequence[int | None], pa.Array | Sequence[int | None]],
    offsets: np.ndarray,
    boxes: np.ndarray,
    flags: np.ndarray,
    labels: np.ndarray,
    area: np.ndarray | None = None,
    visible: np.ndarray | None = None,
    positive: pa.Array | None = None,
    negative: pa.Array | None = None,
    not_exhaustive: pa.Array | None = None,
    defects: pa.Array | Sequence[Sequence[str]] | None = None,
) -> pa.RecordBatch:
    """Rows of PUBLISHED for B images with N boxes in all.

    Args:
        size: widths and heights, B each.
        offsets: int64 [B + 1], where the boxes of an image begin.
        boxes: float64 [N, 4] x1, y1, x2, y2 as published.
        flags: [N] BoxFlag.
        labels: [N] rows of the class table.
        area: float64 [N], NaN where none is published. An image none of whose boxes has one gets null; where only some
            have one, width x height stands in for the others.
        visible: float64 [N, 4] or None.
        positive: list<int32> [B] image-level labels; None: empty.
        negative, not_exhaustive: likewise.
        defects: B lists; None: empty.
    """
    images = len(offsets) - 1
    empty = pa.ListArray.from_arrays(pa.array(np.zeros(images + 1, np.int32)), pa.array([], pa.int32()))
    areas: pa.Array = pa.nulls(images, PUBLISHED.field("area").type)
    if area is not None:
        known = np.isfinite(area)
        none_known = np.diff(counts_to_offsets(known)[offsets]) == 0
        spans = boxes[:, 2:] - boxes[:, :2]
        areas = ragged(pa.array(np.where(known, area, spans[:, 0] * spans[:, 1])), offsets, none_known)
    seen: pa.Array = pa.nulls(images, PUBLISHED.field("visible_boxes").type)
    if visible is not None:
        seen = ragged(quads(visible), offsets)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(image_id, pa.string()),
            pa.array(split, pa.string()),
            pa.array(path, pa.string()),
            pa.array(size[0], pa.int32()),
            pa.array(size[1], pa.int32()),
            ragged(quads(boxes.astype(np.float64, copy=False)), offsets),
            areas,
            seen,
            ragged(pa.array(flags.astype(np.uint16, copy=False)), offsets),
            ragged(pa.array(labels.astype(np.int32, copy=False)), offsets),
            empty if positive is None else positive,
            empty if negative is None else negative,
            empty if not_exhaustive is None else not_exhaustive,
            pa.array(defects if defects is not None else [[]] * images, pa.list_(pa.string())),
        ],
        schema=PUBLISHED,
    )

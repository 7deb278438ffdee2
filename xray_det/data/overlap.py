"""Overlap of boxes, pair by pair, in float64 as the reference tools have it."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]


def intersection_over_union(first: Floats, second: Floats, pixel: float = 0.0) -> Floats:
    """Overlap of paired boxes, float64 [P]; 0 where the union is empty.

    Args:
        first: float64 [P, 4] xyxy.
        second: float64 [P, 4] xyxy.
        pixel: added to every width and height: 1 where the corners are pixels that belong to the box (VOC).
    """
    shared = _intersection(first, second, pixel)
    union = _area(first, pixel) + _area(second, pixel) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def intersection_over_first(first: Floats, second: Floats) -> Floats:
    """The part of the first box that lies in the second, float64 [P]; 0 where the first has no area."""
    shared = _intersection(first, second, 0.0)
    area = _area(first, 0.0)
    return np.divide(shared, area, out=np.zeros_like(shared), where=area > 0)


def _intersection(first: Floats, second: Floats, pixel: float) -> Floats:
    width = np.minimum(first[:, 2], second[:, 2]) - np.maximum(first[:, 0], second[:, 0]) + pixel
    height = np.minimum(first[:, 3], second[:, 3]) - np.maximum(first[:, 1], second[:, 1]) + pixel
    return np.maximum(width, 0.0) * np.maximum(height, 0.0)


def _area(boxes: Floats, pixel: float) -> Floats:
    return (boxes[:, 2] - boxes[:, 0] + pixel) * (boxes[:, 3] - boxes[:, 1] + pixel)

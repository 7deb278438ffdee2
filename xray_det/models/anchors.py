"""Anchors as data: which boxes a detector starts from at every cell of every level of its feature pyramid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from xray_det.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Anchors:
    """One anchor a cell for every pair of scale and ratio.

    Attributes:
        scales: square root of an anchor's area, in strides of its level.
        ratios: height / width (2.44 is a standing pedestrian).
        offset: where in a cell an anchor is centred: 0 the upper left corner (as published detectors), 0.5 its centre.
    """

    scales: tuple[float, ...] = (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    offset: float = 0.0

    def __post_init__(self) -> None:
        for name in ("scales", "ratios"):
            values = getattr(self, name)
            if not values or not all(0 < value < math.inf for value in values):
                problem = f"{values} holds no or not only positive finite numbers"
                raise InputError(f"anchors.{name}", problem, "Give some")

    def per_cell(self) -> int:
        return len(self.scales) * len(self.ratios)

    def shapes(self) -> list[tuple[float, float]]:
        """(height, width) of a cell's anchors in strides: all ratios of the first scale, then of the next."""
        return [(scale * ratio**0.5, scale / ratio**0.5) for scale in self.scales for ratio in self.ratios]

    def boxes(self, grids: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device) -> Tensor:
        """All anchors of a canvas.

        Args:
            grids: (rows, columns) of each level's feature map.
            strides: pixels a cell of each level.

        Returns:
            float32 [R, 4], x1 y1 x2 y2 in canvas pixels: level by level, row by row, cell by cell, ``shapes`` order.
        """
        return _boxes(self, tuple(grids), tuple(strides), device)


@lru_cache(maxsize=32)  # a training meets few canvases, and making 200,000 anchors anew costs as much as a layer
def _boxes(
    anchors: Anchors, grids: tuple[tuple[int, int], ...], strides: tuple[int, ...], device: torch.device
) -> Tensor:
    levels = []
    with torch.inference_mode(False):  # a cached inference tensor could not be used in training afterwards
        sizes = torch.tensor(anchors.shapes(), dtype=torch.float32)
        for (rows, columns), stride in zip(grids, strides, strict=True):
            half = sizes.flip(1) * (stride / 2)
            y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            centre = (torch.stack([x, y], -1).float()[:, :, None] + anchors.offset) * stride
            levels.append(torch.cat([centre - half, centre + half], -1).reshape(-1, 4))
        return torch.cat(levels).to(device)


def inside(anchors: Tensor, sizes: Tensor) -> Tensor:
    """bool [B, R]: anchors [R, 4] whose centre lies on the image and not on the canvas's padding; sizes int [B, 2].

    The others neither teach nor detect, so that what an image teaches does not depend on its neighbours' size.
    """
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    return (centre < sizes.flip(1)[:, None]).all(-1)


def anchor_rows(x: Tensor, outputs: int) -> Tensor:
    """A head's map [B, A * outputs, H, W] as rows [B, H * W * A, outputs], in the order of ``Anchors.boxes``.

    A view where memory is channels_last.
    """
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, outputs)

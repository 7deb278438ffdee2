"""RoIAlign (He et al. 2017) from all levels of a pyramid in one gather.

A pooled value is a weighted sum of 4 S^2 feature vectors (S x S samples, four neighbours each), so that pooling is an
embedding bag over the table of all feature vectors, and its gradient an embedding bag over the table of pooled values.
On a CPU that is several times faster than torchvision's kernel; it needs no loop over levels, and sums bfloat16 in
float32.

Shape letters: B images, R boxes an image, F channels, S samples a bin and axis, T rows of the table.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def roi_align(
    features: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, level: Tensor, *, size: int, samples: int = 2
) -> Tensor:
    """Pool every box from its level, as ``torchvision.ops.roi_align(..., aligned=True)``.

    Args:
        features: [B, F, H_l, W_l] of each level, best in channels_last memory.
        strides: pixels a cell of each level.
        boxes: float32 [B, R, 4], x1 y1 x2 y2 in canvas pixels; no gradient flows into them.
        level: int64 [B, R], which of ``features``.
        size: bins an axis.
        samples: S.

    Returns:
        [B, R, size * size * F] in the features' precision: bins row by row, channels within.
    """
    channels = features[0].shape[1]
    table = torch.cat([f.permute(0, 2, 3, 1).reshape(-1, channels) for f in features])
    with torch.no_grad():
        index, weight = _neighbours(features, strides, boxes, level, size, samples)
    pooled: Tensor = _Gather.apply(table, index, weight.to(table.dtype))
    return pooled.view(*level.shape, -1)


def level_of(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """int64 [...]: the level from which a box of [..., 4] is pooled: 14 to 28 cells wide (eq. 1 of the FPN paper)."""
    side = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1).sqrt()
    octave = torch.floor(torch.log2(side / (14 * strides[0]) + 1e-6))
    return octave.clamp(0, len(strides) - 1).long()


def _neighbours(
    features: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, level: Tensor, size: int, samples: int
) -> tuple[Tensor, Tensor]:
    """Rows of the table and their weights, [B * R * size^2, 4 S^2] each."""
    device = boxes.device
    grids = [f.shape[-2:] for f in features]
    starts = [0]
    for height, width in grids:
        starts.append(starts[-1] + len(level) * height * width)
    table = [[*grid, first] for grid, first in zip(grids, starts, strict=False)]
    per_level = torch.tensor(table, dtype=torch.int64).to(device, non_blocking=True)
    rows, columns, start = per_level[level].unbind(-1)
    stride = torch.tensor(strides, dtype=torch.float32).to(device, non_blocking=True)[level]
    image = torch.arange(len(level), device=device)[:, None]
    cells = boxes / stride[..., None] - 0.5
    y, weight_y = _axis(cells[..., 1], cells[..., 3], rows, size, samples)
    x, weight_x = _axis(cells[..., 0], cells[..., 2], columns, size, samples)
    base = (start + image * rows * columns)[..., None, None, None, None]
    place = base + y[..., :, None, :, None] * columns[..., None, None, None, None] + x[..., None, :, None, :]
    weight = weight_y[..., :, None, :, None] * weight_x[..., None, :, None, :]
    bag = 4 * samples * samples
    return place.to(torch.int32).view(-1, bag), weight.reshape(-1, bag)


def _axis(low: Tensor, high: Tensor, cells: Tensor, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """Cells and weights along one axis, [B, R, size, 2 S] each, for boxes from ``low`` to ``high`` in cells."""
    step = (torch.arange(size * samples, device=low.device) + 0.5) / (size * samples)
    place = (low[..., None] + (high - low)[..., None] * step).view(*low.shape, size, samples)
    last = (cells - 1)[..., None, None]
    outside = (place < -1) | (place > last + 1)
    place = torch.minimum(place.clamp(min=0), last.to(place.dtype))
    floor = place.floor()
    share = place - floor
    first = floor.long()
    index = torch.cat([first, torch.minimum(first + 1, last)], -1)
    weight = torch.cat([1 - share, share], -1) / samples
    return index, weight.masked_fill(torch.cat([outside, outside], -1), 0.0)


class _Gather(torch.autograd.Function):
    """out[i] = sum_j weight[i, j] table[index[i, j]]; gradient for the table alone, summed in a fixed order."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(index, weight)
        ctx.rows = table.shape[0]
        return F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        index, weight = ctx.saved_tensors
        flat, order = index.flatten().sort(stable=True)
        bag = torch.div(order, index.shape[1], rounding_mode="floor").to(torch.int32)
        offsets = torch.searchsorted(
            flat, torch.arange(ctx.rows, device=flat.device, dtype=torch.int32), out_int32=True
        )
        share = weight.flatten()[order]
        gradient = F.embedding_bag(bag, outer[0].contiguous(), offsets, mode="sum", per_sample_weights=share)
        return gradient, None, None

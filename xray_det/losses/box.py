"""Box regression: how a box is written relative to a reference box, and what its error costs.

Boxes are float [..., 4], x1 y1 x2 y2 in pixels. Deltas are [..., 4]: shift of the centre in reference sizes and the log
of the size's ratio (Girshick et al. 2014), each times a weight that brings it to unit scale.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xray_det.errors import InputError

# A raw output may not blow a box up more than this many times.
_MAX_LOG_RATIO = math.log(1000 / 16)


@dataclass(frozen=True, kw_only=True)
class BoxCode:
    """The weights of the four deltas: x, y, log width, log height."""

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)

    def encode(self, references: Tensor, boxes: Tensor) -> Tensor:
        """Deltas that turn ``references`` into ``boxes``; both [..., 4] with areas above 0."""
        centre, size = _centre_size(references)
        goal_centre, goal_size = _centre_size(boxes)
        deltas = torch.cat([(goal_centre - centre) / size, (goal_size / size).log()], -1)
        return deltas * deltas.new_tensor(self.weights)

    def decode(self, references: Tensor, deltas: Tensor) -> Tensor:
        """The inverse of ``encode``; sizes are bounded, and any finite delta gives a finite box."""
        centre, size = _centre_size(references)
        deltas = deltas / deltas.new_tensor(self.weights)
        new_centre = centre + deltas[..., :2] * size
        half = size * deltas[..., 2:].clamp(max=_MAX_LOG_RATIO).exp() / 2
        return torch.cat([new_centre - half, new_centre + half], -1)


@dataclass(frozen=True, kw_only=True)
class SmoothL1:
    """Huber's loss of the deltas, divided by beta: |d| - beta / 2 far out, d^2 / (2 beta) near 0. beta = 0 is L1."""

    beta: float = 1 / 9

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise InputError("beta", f"{self.beta} is negative", "Give 0 (L1) or more")

    def loss_each(self, deltas: Tensor, references: Tensor, boxes: Tensor, code: BoxCode) -> Tensor:
        """[...]: one loss a box, for raw ``deltas``, ``references`` and true ``boxes`` of shape [..., 4]."""
        goal = code.encode(references, boxes)
        return F.smooth_l1_loss(deltas, goal, beta=self.beta, reduction="none").sum(-1)


@dataclass(frozen=True, kw_only=True)
class GIoU:
    """1 - generalised IoU of the decoded box and the true one (Rezatofighi et al. 2019), in [0, 2]."""

    def loss_each(self, deltas: Tensor, references: Tensor, boxes: Tensor, code: BoxCode) -> Tensor:
        """[...]: one loss a box; shapes as in ``SmoothL1.loss_each``."""
        predicted = code.decode(references, deltas)
        low, high = torch.maximum(predicted, boxes), torch.minimum(predicted, boxes)
        both = (high[..., 2:] - low[..., :2]).clamp(min=0).prod(-1)
        union = area(predicted) + area(boxes) - both
        hull = (low[..., 2:] - high[..., :2]).prod(-1)
        tiny = torch.finfo(predicted.dtype).eps
        return 1 - both / union.clamp(min=tiny) + (hull - union) / hull.clamp(min=tiny)


def area(boxes: Tensor) -> Tensor:
    """[..., 4] -> [...], square pixels; 0 for a box turned inside out."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Shared area of broadcastable boxes [..., 4] -> [...]."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    return (high - low).clamp(min=0).prod(-1)


def _centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]

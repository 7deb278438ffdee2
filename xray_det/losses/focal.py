"""Sigmoid focal loss (Lin et al. 2017) under a supervision mask: eq. 3 of the cross-dataset paper.

Shape letters as in targets.py. For a logit x with target t in [0, 1], p = sigmoid(x), q = p + t - 2 p t (= 1 - p_t):

    L(x, t) = (alpha t + (1 - alpha)(1 - t)) q^gamma BCE(x, t),   and 0 where the target is not known (p_t = 1 there).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xray_det.errors import InputError
from xray_det.labels.statistics import ClassStatistics
from xray_det.losses.targets import RowTargets, at_least_float32

# Elements handled at once: on a CPU the dozen passes over a chunk then hit the cache; a GPU wants few launches.
_CHUNK_CPU, _CHUNK_OTHER = 1 << 17, 1 << 26


@dataclass(frozen=True, kw_only=True)
class SigmoidFocal:
    """One sigmoid a class; gamma = 0 with alpha = None is binary cross-entropy.

    Attributes:
        alpha: weight of positives, 1 - alpha that of negatives; None weighs both 1.
        gamma: how far easy rows are played down, at least 0.
        prior: score of every class at the start.
    """

    alpha: float | None = 0.25
    gamma: float = 2.0
    prior: float = 0.01

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise InputError("alpha", f"{self.alpha} is outside [0, 1]", "Give a weight, or none for no weighting")
        if not self.gamma >= 0:
            raise InputError("gamma", f"{self.gamma} is negative", "Give 0 or more")
        if not 0 < self.prior < 1:
            raise InputError("prior", f"{self.prior} is outside (0, 1)", "Give a probability")

    @property
    def needs(self) -> None:
        return None

    def bind(self, num_classes: int, statistics: ClassStatistics | None) -> "SigmoidFocal":
        return self

    def num_outputs(self, num_classes: int) -> int:
        return num_classes

    def initial_bias(self, num_classes: int, objects: float | None = None) -> Tensor:
        return torch.full((num_classes,), -math.log((1 - self.prior) / self.prior))

    def loss_sum(self, logits: Tensor, targets: RowTargets) -> Tensor:
        """Sum over all rows and classes whose target is known; logits [B, R, C]."""
        total: Tensor
        total, _ = _FocalSum.apply(logits, targets, self.alpha, self.gamma, None)
        return total

    def scores(self, logits: Tensor) -> Tensor:
        return at_least_float32(logits).sigmoid()


def focal_loss(logits: Tensor, values: Tensor, alpha: float | None, gamma: float) -> Tensor:
    """L(x, t) of the module docstring, an element each; ``logits`` and ``values`` in [0, 1] of one shape."""
    p = logits.sigmoid()
    loss = F.binary_cross_entropy_with_logits(logits, values, reduction="none")
    if gamma:
        loss = loss * (p + values - 2 * p * values) ** gamma
    return loss if alpha is None else loss * (alpha * values + (1 - alpha) * (1 - values))


def balanced_sum(logits: Tensor, targets: RowTargets, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy with weights a class, for targets of 0 and 1.

    Args:
        up, down: [C], weights of positive and of negative targets.

    Returns:
        the sum over all rows and known classes [], and the absolute gradients of it by class, from positive and from
        negative targets [2, C].
    """
    total, pushed = _FocalSum.apply(logits, targets, None, 0.0, (up, down))
    return total, pushed


class _FocalSum(torch.autograd.Function):
    """The sum and its gradient in one sweep over the logits.

    Autograd would keep half a dozen tensors as large as the logits (0.4 GB each for 200,000 anchors of 500 classes);
    here one is kept, the gradient itself, in the logits' own precision.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: RowTargets,
        alpha: float | None,
        gamma: float,
        balance: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] or balance is not None else None
        sums = []
        up, down = balance if balance is not None else (1.0, 1.0)
        pushed = at_least_float32(logits).new_zeros(2, logits.shape[2] if balance is not None else 0)
        step = max(
            1,
            (_CHUNK_CPU if logits.device.type == "cpu" else _CHUNK_OTHER) // max(1, logits.shape[0] * logits.shape[2]),
        )
        known = targets.background_known[:, None, :]
        weight = 1.0 if alpha is None else 1 - alpha
        for first in range(0, logits.shape[1], step):
            rows = slice(first, first + step)
            # A logit of minus infinity has loss 0 and gradient 0 exactly, so that one fill masks everything.
            mask = targets.background[:, rows, None] & known
            x = at_least_float32(logits[:, rows]).masked_fill(~mask, -math.inf)
            loss, slope = _background(x, gamma, gradient is not None)
            sums.append(loss.sum() if balance is None else (loss.sum((0, 1)) * down).sum())
            if gradient is not None and slope is not None:
                slope *= weight * down
                gradient[:, rows] = slope
                if balance is not None:
                    pushed[1] += slope.sum((0, 1))
        total = torch.stack(sums).sum() * weight if sums else at_least_float32(logits).sum()

        with torch.enable_grad():
            listed = at_least_float32(logits.detach()[targets.image, targets.row]).requires_grad_()
            each = focal_loss(listed, targets.values.to(listed.dtype), alpha, gamma)
            each = torch.where(targets.known, each, 0.0)
            if balance is not None:
                each = each * torch.where(targets.values > 0, up, down)
            listed_sum = (each if targets.weight is None else each * targets.weight[:, None]).sum()
        if gradient is not None:
            (slope,) = torch.autograd.grad(listed_sum, listed)
            gradient[targets.image, targets.row] = slope.to(gradient.dtype)
            ctx.save_for_backward(gradient)
            if balance is not None:
                pushed[0] = -slope.clamp(max=0).sum(0)
                pushed[1] += slope.clamp(min=0).sum(0)
        ctx.mark_non_differentiable(pushed)
        return total + listed_sum.detach(), pushed

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None, None


def _background(x: Tensor, gamma: float, with_slope: bool) -> tuple[Tensor, Tensor | None]:
    """p^gamma softplus(x) and its derivative p^gamma (gamma (1 - p) softplus(x) + p), elementwise."""
    p = x.sigmoid()
    cross_entropy = F.softplus(x, threshold=40.0)
    focus = p.square() if gamma == 2 else p.pow(gamma)
    loss = focus * cross_entropy
    if not with_slope:
        return loss, None
    slope = cross_entropy.mul_(1 - p).mul_(gamma).add_(p).mul_(focus)
    return loss, slope

"""Softmax cross-entropy over C classes and the background, under a supervision mask.

Shape letters as in targets.py; K = C + 1 and the background is output C. A class that is not known leaves the
denominator. A row with several labels has the target y / sum(y) (the label mass is split over them).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from xray_det.errors import InputError
from xray_det.losses.targets import RowTargets, at_least_float32


@dataclass(frozen=True, kw_only=True)
class Softmax:
    """Cross-entropy with the background as a class of its own.

    Attributes:
        background_prior: score of the background at the start; the classes share the rest. None starts all equal.
    """

    background_prior: float | None = None

    def __post_init__(self) -> None:
        if self.background_prior is not None and not 0 < self.background_prior < 1:
            raise InputError("background_prior", f"{self.background_prior} is outside (0, 1)", "Give a probability")

    def num_outputs(self, num_classes: int) -> int:
        return num_classes + 1

    def initial_bias(self, num_classes: int) -> Tensor:
        bias = torch.zeros(num_classes + 1)
        if self.background_prior is not None:
            bias[-1] = math.log(self.background_prior / (1 - self.background_prior) * num_classes)
        return bias

    def loss_sum(self, logits: Tensor, targets: RowTargets) -> Tensor:
        """Sum over the rows that teach; logits [B, R, C + 1]."""
        x = at_least_float32(logits)
        known = _with_background(targets.background_known)[:, None, :]
        background = _log_mass(x, known) - x[..., -1]
        total = torch.where(targets.background, background, 0.0).sum()

        listed = x[targets.image, targets.row]
        values = targets.values.to(x.dtype)
        mass = values.sum(1, keepdim=True)
        goal = torch.cat([values / mass.clamp(min=torch.finfo(x.dtype).tiny), (mass == 0).to(x.dtype)], 1)
        log_mass = _log_mass(listed, _with_background(targets.known | (values > 0)))
        return total + (goal * (log_mass[:, None] - listed)).sum()

    def count(self, targets: RowTargets) -> Tensor:
        return targets.teaching().float()

    def scores(self, logits: Tensor) -> Tensor:
        return at_least_float32(logits).softmax(-1)[..., :-1]


def _with_background(known: Tensor) -> Tensor:
    """bool [..., C] -> [..., C + 1]: the background is always in the denominator."""
    return torch.cat([known, torch.ones_like(known[..., :1])], -1)


def _log_mass(logits: Tensor, known: Tensor) -> Tensor:
    """log sum of e^z over the known outputs, [..., K] -> [...]; its gradient on the others is exactly 0."""
    return logits.masked_fill(~known, -math.inf).logsumexp(-1)

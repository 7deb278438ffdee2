"""Equalization loss v2 (Tan et al. 2021): each class's positive and negative gradients are brought into balance.

One sigmoid a class. With g_j the ratio of the absolute gradients that class j's output has had so far from positive and
from negative targets (eqs 4 to 8),

    f(g) = 1 / (1 + e^(-gamma (g - mu))),    positives weigh q_j = 1 + alpha (1 - f(g_j)), negatives r_j = f(g_j).

A class without any gradient so far has weights 1. As in the authors' code the gradients are those of the weighted loss,
and an output of its own, C, says that a row holds no object: it is weighted 1, its gradients do not count, and scores
are sigmoids times the chance of an object. What is not known has no loss and leaves no gradient.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from xray_det.errors import InputError
from xray_det.labels.statistics import ClassStatistics
from xray_det.losses.focal import SigmoidFocal, balanced_sum
from xray_det.losses.seesaw import background_bias, background_sum
from xray_det.losses.targets import DataLoss, RowTargets, at_least_float32


@dataclass(frozen=True, kw_only=True)
class EqualizationV2:
    """Attributes:
    gamma, mu, alpha: of the weights above.
    prior: score of every class at the start.
    """

    gamma: float = 12.0
    mu: float = 0.8
    alpha: float = 4.0
    prior: float = 0.01

    def __post_init__(self) -> None:
        for name in ("gamma", "alpha"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(name, f"{getattr(self, name)} is not 0 or more", "Give 0 or more")
        self.sigmoid  # noqa: B018  # checks the prior

    @property
    def sigmoid(self) -> SigmoidFocal:
        return SigmoidFocal(alpha=None, gamma=0.0, prior=self.prior)

    @property
    def needs(self) -> None:
        return None

    def bind(self, num_classes: int, statistics: ClassStatistics | None) -> "EqualizationLoss":
        return EqualizationLoss(self, num_classes)

    def num_outputs(self, num_classes: int) -> int:
        return num_classes + 1

    def initial_bias(self, num_classes: int, objects: float | None = None) -> Tensor:
        return torch.cat([self.sigmoid.initial_bias(num_classes), background_bias(objects)])


class EqualizationLoss(DataLoss):
    """See ``EqualizationV2``.

    Attributes:
        positive, negative: float32 [C], absolute gradients from positive and negative targets, summed over all rows of
            all ranks in the steps made so far.
    """

    positive: Tensor
    negative: Tensor

    def __init__(self, config: EqualizationV2, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("positive", torch.zeros(num_classes))
        self.register_buffer("negative", torch.zeros(num_classes))

    def loss_sum(self, logits: Tensor, targets: RowTargets) -> Tensor:
        """Sum over the rows that teach; logits [B, R, C + 1]."""
        config = self.config
        balance = config.gamma * (self.positive / (self.negative + 1e-10) - config.mu)
        down = torch.where(self.positive + self.negative > 0, balance.sigmoid(), 1.0)
        total, pushed = balanced_sum(logits[..., :-1], targets, 1 + config.alpha * (1 - down), down)
        self.see(positive=pushed[0], negative=pushed[1])
        return total + background_sum(logits, targets)

    def scores(self, logits: Tensor) -> Tensor:
        x = at_least_float32(logits)
        return x[..., :-1].sigmoid() * (-x[..., -1:]).sigmoid()

"""Class-balanced weights by the effective number of samples (Cui et al. 2019, eqs 2 and 6), for softmax and sigmoids.

A class with n boxes has the effective number (1 - beta^n) / (1 - beta) and the weight

    w = (1 - beta) / (1 - beta^n),    scaled so that the weights of the classes that occur sum to their number.

As in the authors' code it multiplies the whole loss of a row, the mean over its labels where it has several. Background
is no class and weighs 1.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from xray_det.errors import InputError
from xray_det.labels.statistics import ClassStatistics, Needs
from xray_det.losses.focal import SigmoidFocal
from xray_det.losses.softmax import Softmax
from xray_det.losses.targets import DataLoss, RowTargets


@dataclass(frozen=True, kw_only=True)
class EffectiveNumber:
    """A loss with its rows weighted.

    Attributes:
        loss: what is weighted.
        beta: 0 weighs all classes alike, near 1 by 1 / n; the authors try 0.9 to 0.9999.
    """

    loss: Softmax | SigmoidFocal = field(default_factory=Softmax)
    beta: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 1:
            raise InputError("beta", f"{self.beta} is outside [0, 1)", "Give 0.9 to 0.9999")

    @property
    def needs(self) -> Needs:
        return Needs()

    def bind(self, num_classes: int, statistics: ClassStatistics | None) -> "EffectiveNumberLoss":
        """Raises InputError for statistics of other classes."""
        return EffectiveNumberLoss(self, num_classes, statistics)

    def num_outputs(self, num_classes: int) -> int:
        return self.loss.num_outputs(num_classes)

    def initial_bias(self, num_classes: int, objects: float | None = None) -> Tensor:
        return self.loss.initial_bias(num_classes, objects)

    def weights(self, counts: np.ndarray) -> np.ndarray:
        """float64 [C] for counts [C]; 1 for a class that does not occur."""
        weights = np.ones(len(counts))
        occurs = counts > 0
        log_beta = math.log(self.beta) if self.beta else -math.inf
        weights[occurs] = -1 / np.expm1(counts[occurs] * log_beta)
        weights[occurs] *= occurs.sum() / weights[occurs].sum()
        return weights


class EffectiveNumberLoss(DataLoss):
    """See ``EffectiveNumber``.

    Attributes:
        class_weight: float32 [C].
    """

    class_weight: Tensor

    def __init__(self, config: EffectiveNumber, num_classes: int, statistics: ClassStatistics | None) -> None:
        super().__init__()
        self.loss = config.loss
        weight = torch.full((num_classes,), math.nan)
        if statistics is not None:
            statistics.require(num_classes)
            counts = statistics.with_descendants(statistics.instance_counts)
            weight = torch.from_numpy(config.weights(counts)).float()
        self.register_buffer("class_weight", weight)

    def loss_sum(self, logits: Tensor, targets: RowTargets) -> Tensor:
        labels = (targets.values > 0).to(self.class_weight.dtype)
        count = labels.sum(1)
        weight = torch.where(count > 0, labels @ self.class_weight / count.clamp(min=1), 1.0)
        return self.loss.loss_sum(logits, replace(targets, weight=weight))

    def scores(self, logits: Tensor) -> Tensor:
        return self.loss.scores(logits)

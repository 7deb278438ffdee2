"""Federated loss (Zhou et al. 2021, "Probabilistic two-stage detection", for LVIS): few classes of an image teach.

Binary cross-entropy over a subset S of the classes: those that the image shows, filled up to a fixed number by others,
drawn without replacement in proportion to the square root of the images that hold them. So a rare class is seldom a
negative where nobody looked for it. The authors draw once for the images of a GPU; here each image draws for itself.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xray_det.errors import InputError
from xray_det.labels.statistics import ClassStatistics, Needs
from xray_det.losses.focal import SigmoidFocal
from xray_det.losses.targets import DataLoss, RowTargets


@dataclass(frozen=True, kw_only=True)
class Federated:
    """Attributes:
    classes: |S|, shown and drawn together.
    power: of the number of images of a class, its chance to be drawn; 0 draws all alike.
    prior: score of every class at the start.
    """

    classes: int = 50
    power: float = 0.5
    prior: float = 0.01

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise InputError("classes", f"{self.classes} is below 1", "Give a number of classes")
        if not 0 <= self.power < math.inf:
            raise InputError("power", f"{self.power} is not 0 or more", "Give 0.5")
        self.sigmoid  # noqa: B018  # checks the prior

    @property
    def sigmoid(self) -> SigmoidFocal:
        return SigmoidFocal(alpha=None, gamma=0.0, prior=self.prior)

    @property
    def needs(self) -> Needs:
        return Needs()

    def bind(self, num_classes: int, statistics: ClassStatistics | None) -> "FederatedLoss":
        """Raises InputError for statistics of other classes."""
        return FederatedLoss(self, num_classes, statistics)

    def num_outputs(self, num_classes: int) -> int:
        return self.sigmoid.num_outputs(num_classes)

    def initial_bias(self, num_classes: int, objects: float | None = None) -> Tensor:
        return self.sigmoid.initial_bias(num_classes, objects)


class FederatedLoss(DataLoss):
    """See ``Federated``.

    Attributes:
        chance: float32 [C], in proportion to the chance of a class; 0 for one that no image holds.
    """

    chance: Tensor

    def __init__(self, config: Federated, num_classes: int, statistics: ClassStatistics | None) -> None:
        super().__init__()
        self.config = config
        chance = torch.full((num_classes,), math.nan)
        if statistics is not None:
            statistics.require(num_classes)
            counts = torch.from_numpy(statistics.with_descendants(statistics.image_counts)).float()
            chance = torch.where(counts > 0, counts**config.power, 0.0)
        self.register_buffer("chance", chance)

    def loss_sum(self, logits: Tensor, targets: RowTargets) -> Tensor:
        """Sum over all rows and classes of S whose target is known; logits [B, R, C]."""
        chosen = self.chosen(targets)
        masked = replace(
            targets,
            background_known=targets.background_known & chosen,
            known=targets.known & chosen[targets.image],
        )
        return self.config.sigmoid.loss_sum(logits, masked)

    @torch.no_grad()
    def chosen(self, targets: RowTargets) -> Tensor:
        """bool [B, C]: S of each image. Only classes whose absence is known are drawn."""
        images, classes = targets.background_known.shape
        shown = self.chance.new_zeros(images, classes).index_add_(0, targets.image, (targets.values > 0).float()) > 0
        # The first arrivals of independent exponential clocks are a draw without replacement by their rates.
        arrival = -torch.log1p(-targets.uniforms(classes, "federated")) / self.chance
        arrival = arrival.masked_fill(~targets.background_known | (self.chance == 0), math.inf).masked_fill(shown, -1.0)
        first, which = arrival.topk(min(self.config.classes, classes), dim=1, largest=False)
        return shown.scatter(1, which, first < math.inf) | shown

    def scores(self, logits: Tensor) -> Tensor:
        return self.config.sigmoid.scores(logits)

"""What the rows of a detector's classifier are to learn, and what a classification loss is.

A row is one anchor, proposal or query. Shape letters: B images, R rows an image, C classes, K outputs of the classifier
(C, or C + 1 with the background last), P rows described one by one.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(kw_only=True)
class RowTargets:
    """Targets of B x R rows, kept small: few rows hold an object, and plain background needs no table of its own.

    A row is of one of three kinds: *listed* (it holds an object, or is background that lies on a region and so knows
    less than its image does), *plain background*, or neither, and then it teaches nothing.

    Attributes:
        background: bool [B, R]; plain background: "not c" for every class that ``background_known`` allows.
        background_known: bool [B, C]; the classes whose absence is known in the image.
        image: int64 [P], row: int64 [P]; the listed rows, none twice and none of them plain background.
        values: float [P, C] in [0, 1]; several above 0 for several labels, all 0 for background on a region.
        known: bool [P, C]; classes of which the row learns; those with a value above 0 are known.
    """

    background: Tensor
    background_known: Tensor
    image: Tensor
    row: Tensor
    values: Tensor
    known: Tensor

    def positives(self) -> Tensor:
        """int64 []: how many rows hold an object."""
        return (self.values > 0).any(1).sum()

    def teaching(self) -> Tensor:
        """int64 []: how many rows teach anything at all."""
        return self.background.sum() + self.image.shape[0]


class ClassificationLoss(Protocol):
    """What a detector asks of its classification loss; implementations are frozen dataclasses."""

    def num_outputs(self, num_classes: int) -> int:
        """K for C classes. Output c < C is class c; a background output, where there is one, is the last."""

    def initial_bias(self, num_classes: int) -> Tensor:
        """float32 [K], the classifier's bias at the start of training."""

    def loss_sum(self, logits: Tensor, targets: RowTargets) -> Tensor:
        """The loss of logits [B, R, K] summed over rows; divide by the ``count`` of the whole global batch."""

    def count(self, targets: RowTargets) -> Tensor:
        """float32 [], what the sum is divided by; it adds up over the ranks of a global batch."""

    def scores(self, logits: Tensor) -> Tensor:
        """Scores in [0, 1] of shape [..., C] for logits [..., K], without a background column."""


def at_least_float32(tensor: Tensor) -> Tensor:
    """Losses are taken in float32 where the network ran in bfloat16; float64 stays what it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

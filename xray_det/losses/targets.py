"""What the rows of a detector's classifier are to learn, and what a classification loss is.

A row is one anchor, proposal or query. Shape letters: B images, R rows an image, C classes, K outputs of the classifier
(C, or C + 1 with the background last), P rows described one by one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from xray_det.errors import InputError


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
        weight: float [P]; what the loss of a listed row is multiplied by. None: 1.
        draw: (n, purpose) -> float32 [B, n] in [0, 1): numbers for a loss that draws, the same for an image whatever
            the rank and whatever was drawn before. None where the rows were made without a key.
    """

    background: Tensor
    background_known: Tensor
    image: Tensor
    row: Tensor
    values: Tensor
    known: Tensor
    weight: Tensor | None = None
    draw: Callable[[int, str], Tensor] | None = None

    def uniforms(self, count: int, purpose: str) -> Tensor:
        """What ``draw`` gives; ValueError without it."""
        if self.draw is None:
            raise ValueError("this loss draws at random and needs a key")
        return self.draw(count, purpose)


class ClassificationLoss(Protocol):
    """What a detector asks of its classification loss.

    Its configuration is a frozen dataclass, a member of ``losses.Classification``, which has besides

        needs: Needs | None         what of the training data it must be given; None for nothing
        num_outputs(C) -> K         output c < C is class c; a background output, where there is one, is the last
        initial_bias(C, objects)    float32 [K], the classifier's bias at the start of training; objects: the share of
                                    the stage's rows that hold an object, None where it samples them
        bind(C, statistics)         the loss for C classes of that data

    A loss without data is its own configuration. One with data is a ``DataLoss``, whose buffers belong to the detector.
    """

    def loss_sum(self, logits: Tensor, targets: RowTargets) -> Tensor:
        """The loss of logits [B, R, K] summed over rows. What it is divided by belongs to the detector's stage: the
        same for every loss, so that an exchanged loss is no other learning rate by its divisor."""

    def scores(self, logits: Tensor) -> Tensor:
        """Scores in [0, 1] of shape [..., C] for logits [..., K], without a background column."""


def at_least_float32(tensor: Tensor) -> Tensor:
    """Losses are taken in float32 where the network ran in bfloat16; float64 stays what it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class DataLoss(nn.Module):
    """A loss that keeps data in buffers, float and without gradient: what was counted on the training data, and sums
    that grow with the training. So they lie in the detector's checkpoints and weights.

    Built without statistics, to be loaded, the buffers that these would fill hold NaN.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, Tensor] = {}

    def require_statistics(self) -> None:
        """Raises InputError if the buffers were neither filled nor loaded."""
        if any(buffer.isnan().any() for buffer in self.buffers()):
            problem = "the loss needs statistics of the training data and was built without them"
            raise InputError(
                "model.classification", problem, "Build it with them: Model.build(num_classes, statistics)"
            )

    def see(self, **increments: Tensor) -> None:
        """Note what this rank's part of the batch adds to the buffers of these names; the last call before ``absorb``
        counts."""
        self._seen = {name: value.detach() for name, value in increments.items()}

    @torch.no_grad()
    def absorb(self, over_ranks: Callable[[Tensor], Tensor], allowed: Tensor) -> None:
        """Add what was seen, on every rank alike.

        Args:
            over_ranks: a tensor of this rank -> its sum over all ranks.
            allowed: bool [], False where the step is not to count.
        """
        for name, value in self._seen.items():
            buffer = self.get_buffer(name)
            buffer.copy_(torch.where(allowed, buffer + over_ranks(value.to(buffer)), buffer))
        self._seen = {}

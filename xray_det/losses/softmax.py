"""Softmax cross-entropy over C classes and the background, under a supervision mask.

Shape letters as in targets.py; K = C + 1 and the background is output C. A class that is not known leaves the
denominator. A label is a class with a value above 0. A row with one label, or with none and so of the background, has
the loss

    log sum_j w_j e^z_j - z_i,    w_j = 0 for classes that are not known, and 1 unless the loss says otherwise.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from xray_det.errors import InputError
from xray_det.labels.statistics import ClassStatistics
from xray_det.losses.targets import RowTargets, at_least_float32

# Elements handled at once: on a CPU they then hit the cache; a GPU wants few launches.
_CHUNK_CPU, _CHUNK_OTHER = 1 << 20, 1 << 26
# A share below this is taken anew, in logarithms.
_TINY = 1e-30

#: log w float [Q, K] of rows that name the outputs int64 [Q], the background's among them: what is added to the logits.
#: It is 0 at the output itself.
LogWeights = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Softmax:
    """Cross-entropy with the background as a class of its own.

    Attributes:
        labels: what a row with m > 1 labels learns.
            split: the mass of 1 is split over them, y / m (dist-CE, Mahajan et al. 2018).
            each: each is a target of mass 1, in whose denominator the others stand (paper 002, eqs 1 and 2).
            one: one of them, drawn for the row; the others are wrong.
        background_prior: score of the background at the start; the classes share the rest. None: the share of
            background that the detector's stage expects, all equal where it samples its rows.
    """

    labels: Literal["split", "each", "one"] = "split"
    background_prior: float | None = None

    def __post_init__(self) -> None:
        if self.background_prior is not None and not 0 < self.background_prior < 1:
            raise InputError("background_prior", f"{self.background_prior} is outside (0, 1)", "Give a probability")

    @property
    def needs(self) -> None:
        return None

    def bind(self, num_classes: int, statistics: ClassStatistics | None) -> "Softmax":
        return self

    def num_outputs(self, num_classes: int) -> int:
        return num_classes + 1

    def initial_bias(self, num_classes: int, objects: float | None = None) -> Tensor:
        bias = torch.zeros(num_classes + 1)
        prior = self.background_prior if self.background_prior is not None or objects is None else 1 - objects
        if prior is not None:
            bias[-1] = math.log(prior / (1 - prior) * num_classes)
        return bias

    def loss_sum(self, logits: Tensor, targets: RowTargets) -> Tensor:
        """Sum over the rows that teach; logits [B, R, C + 1]."""
        return softmax_sum(
            logits, one_label(targets) if self.labels == "one" else targets, split=self.labels == "split"
        )

    def scores(self, logits: Tensor) -> Tensor:
        return at_least_float32(logits).softmax(-1)[..., :-1]


def one_label(targets: RowTargets) -> RowTargets:
    """The same rows, each with one of its labels drawn; the others become known negatives."""
    numbers = targets.uniforms(targets.background.shape[1], "label")[targets.image, targets.row]
    labels = targets.values > 0
    rank = labels.cumsum(1)
    wanted = (numbers * rank[:, -1]).long() + 1
    drawn = labels & (rank == wanted[:, None])
    return RowTargets(**{**vars(targets), "values": drawn.to(targets.values.dtype)})


def softmax_sum(
    logits: Tensor,
    targets: RowTargets,
    *,
    split: bool = False,
    apart: bool = False,
    log_weights: LogWeights | None = None,
) -> Tensor:
    """The loss of all rows that teach, [].

    Args:
        logits: [B, R, K].
        split: the labels of a row weigh 1 together, in equal parts; False: 1 each.
        apart: the other labels of a row are in no label's denominator.
        log_weights: log w of listed rows; None: 0.
    """
    total: Tensor = _SoftmaxSum.apply(logits, targets, split, apart, log_weights)
    return total


class _SoftmaxSum(torch.autograd.Function):
    """The sum and its gradient in one sweep over the logits.

    First all rows as if they were plain background, then the listed ones, a copy of the row for each of its labels.
    Memory beside the gradient is that of a chunk and of these copies.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: RowTargets, split: bool, apart: bool, log_weights: LogWeights | None
    ) -> Tensor:
        rows_an_image, k = logits.shape[1:]
        flat = logits.detach().reshape(-1, k)
        weight = targets.background.reshape(-1).to(torch.promote_types(flat.dtype, torch.float32))
        of_image = _log_known(targets.background_known, weight.dtype)
        slope, total = torch.empty_like(flat), weight.new_zeros(())
        for chunk in _chunks(flat):
            x = flat[chunk].to(weight.dtype)
            if of_image is not None:
                x = x + of_image[torch.arange(chunk.start, chunk.stop, device=x.device) // rows_an_image]
            losses, own = _sweep(x, None)
            total += losses @ weight[chunk]
            if len(own) == len(flat):
                slope = own.to(flat.dtype)
            else:
                slope[chunk] = own

        listed = targets.image * rows_an_image + targets.row
        place, output = _named(targets.values)
        name = output[:, None]
        x = flat.index_select(0, listed[place]).to(weight.dtype)
        if (shift := _log_known(targets.known, weight.dtype)) is not None:
            x += shift[place]
        if log_weights is not None:
            x += log_weights(output)
        several = len(place) > len(listed)
        if several and apart:
            rivals = (targets.values > 0)[place]
            x[:, :-1].masked_fill_(rivals.scatter_(1, name.clamp(max=k - 2), False), -math.inf)
        losses, own = _sweep(x, name)
        mass = torch.ones_like(losses) if targets.weight is None else targets.weight[place].to(losses.dtype)
        if several and split:
            mass = mass / torch.bincount(place)[place]
        total += losses @ mass
        own *= mass[:, None]
        if several:
            slope[listed] = own.new_zeros(len(listed), k).index_add_(0, place, own).to(slope.dtype)
        else:
            slope.index_copy_(0, listed[place], own.to(slope.dtype))
        ctx.save_for_backward(slope.view_as(logits), weight.index_fill_(0, listed, 1.0).view(*logits.shape[:2], 1))
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        slope, weight = ctx.saved_tensors
        return slope * (weight * outer[0]).to(slope.dtype), None, None, None, None


def _sweep(x: Tensor, name: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy [n] of rows [n, K] that name an output [n, 1], or all the last (None), and its gradient."""
    share = x.softmax(-1)
    named = share[:, -1:] if name is None else share.gather(1, name)
    losses = -named[:, 0].log()
    if len(x) and named.min() < _TINY:  # nothing, or little, is left of a share, but not of its logarithm
        (low,) = (named[:, 0] < _TINY).nonzero(as_tuple=True)
        logs = x[low].log_softmax(-1)
        losses[low] = -(logs[:, -1] if name is None else logs.gather(1, name[low])[:, 0])
    named -= 1
    return losses, share if name is None else share.scatter_(1, name, named)


def _named(values: Tensor) -> tuple[Tensor, Tensor]:
    """Each label of rows [P, C], and the background, C, of rows without one: row int64 [Q], output int64 [Q]."""
    largest, label = values.max(1)
    total = values.sum(1)
    if torch.equal(total, largest):  # none has two, which takes half as long to see as to list them
        return torch.arange(len(values), device=values.device), label.masked_fill(largest == 0, values.shape[1])
    row, label = values.nonzero(as_tuple=True)
    (empty,) = (total == 0).nonzero(as_tuple=True)
    return torch.cat([row, empty]), torch.cat([label, torch.full_like(empty, values.shape[1])])


def _chunks(flat: Tensor) -> Iterator[slice]:
    step = max(1, (_CHUNK_CPU if flat.device.type == "cpu" else _CHUNK_OTHER) // flat.shape[1])
    for first in range(0, len(flat), step):
        yield slice(first, min(first + step, len(flat)))


def _log_known(known: Tensor, dtype: torch.dtype) -> Tensor | None:
    """0 where known [..., C] and for the background behind, -inf elsewhere: [..., C + 1]; None where a CPU finds
    nothing unknown (a device would have to wait for it)."""
    if known.device.type == "cpu" and (not known.numel() or bool(known.view(torch.uint8).min())):
        return None
    table = torch.zeros(*known.shape[:-1], known.shape[-1] + 1, dtype=dtype, device=known.device)
    table[..., :-1].masked_fill_(~known, -math.inf)
    return table

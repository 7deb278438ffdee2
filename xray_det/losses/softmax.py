"""Softmax cross-entropy over C classes and the background, under a supervision mask.

Shape letters as in targets.py; K = C + 1 and the background is output C. A class that is not known leaves the
denominator. A label is a class with a value above 0. A row with one label, or with none and so of the background, has
the loss

    log sum_j w_j e^z_j - z_i,    w_j = 0 for classes that are not known, and 1 unless the loss says otherwise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from xray_det.errors import InputError
from xray_det.labels.statistics import ClassStatistics
from xray_det.losses.targets import RowTargets, at_least_float32

# Elements handled at once: on a CPU they then hit the cache; a GPU wants few launches.
_CHUNK_CPU, _CHUNK_OTHER = 1 << 20, 1 << 26

#: log w float [Q, K] of rows that name the outputs int64 [Q], the background's among them: what is added to the logits.
#: It is 0 at the output itself.
LogWeights = Callable[[Tensor], Tensor]
#: Losses [S] of rows with several labels: (logits [S, K], labels bool [S, K], known bool [S, K]).
Several = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Softmax:
    """Cross-entropy with the background as a class of its own.

    Attributes:
        labels: what a row with m > 1 labels learns.
            split: the mass of 1 is split over them, y / m (dist-CE, Mahajan et al. 2018).
            each: each is a target of mass 1, in whose denominator the others stand (paper 002, eqs 1 and 2).
            one: one of them, drawn for the row; the others are wrong.
        background_prior: score of the background at the start; the classes share the rest. None starts all equal.
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

    def initial_bias(self, num_classes: int) -> Tensor:
        bias = torch.zeros(num_classes + 1)
        if self.background_prior is not None:
            bias[-1] = math.log(self.background_prior / (1 - self.background_prior) * num_classes)
        return bias

    def loss_sum(self, logits: Tensor, targets: RowTargets) -> Tensor:
        """Sum over the rows that teach; logits [B, R, C + 1]."""
        several = self._each if self.labels == "each" else self._split
        return softmax_sum(logits, one_label(targets) if self.labels == "one" else targets, several)

    def count(self, targets: RowTargets) -> Tensor:
        return targets.teaching().float()

    def scores(self, logits: Tensor) -> Tensor:
        return at_least_float32(logits).softmax(-1)[..., :-1]

    def _each(self, logits: Tensor, labels: Tensor, known: Tensor) -> Tensor:
        log_mass = logits.masked_fill(~known, -math.inf).logsumexp(-1)
        return torch.where(labels, log_mass[:, None] - logits, 0.0).sum(1)

    def _split(self, logits: Tensor, labels: Tensor, known: Tensor) -> Tensor:
        return self._each(logits, labels, known) / labels.sum(1)


def one_label(targets: RowTargets) -> RowTargets:
    """The same rows, each with one of its labels drawn; the others become known negatives."""
    numbers = targets.uniforms(targets.background.shape[1], "label")[targets.image, targets.row]
    labels = targets.values > 0
    rank = labels.cumsum(1)
    wanted = (numbers * rank[:, -1]).long() + 1
    drawn = labels & (rank == wanted[:, None])
    return RowTargets(**{**vars(targets), "values": drawn.to(targets.values.dtype)})


def softmax_sum(logits: Tensor, targets: RowTargets, several: Several, log_weights: LogWeights | None = None) -> Tensor:
    """The loss of all rows that teach, [].

    Args:
        logits: [B, R, K].
        several: losses of rows with more than one label.
        log_weights: log w of listed rows with at most one label; None: 0.
    """
    total: Tensor = _SoftmaxSum.apply(logits, targets, several, log_weights)
    return total


class _SoftmaxSum(torch.autograd.Function):
    """The sum and its gradient in one sweep over the logits, in about the time of torch's own cross-entropy.

    Each row names one output, or none (weight 0); rows with several labels are few, and autograd's. Memory beside the
    gradient is that of a chunk.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: RowTargets, several: Several, log_weights: LogWeights | None
    ) -> Tensor:
        rows_an_image, k = logits.shape[1:]
        flat = logits.detach().reshape(-1, k)
        listed = targets.image * rows_an_image + targets.row
        labels = targets.values > 0
        count, label = labels.sum(1), targets.values.argmax(1)
        label = torch.where(count == 0, k - 1, label)
        one = (count <= 1).to(flat.dtype) if targets.weight is None else (count <= 1) * targets.weight
        weight = targets.background.reshape(-1).to(_precise(flat))
        weight.index_copy_(0, listed, one.to(weight.dtype))
        output = torch.full_like(weight, k - 1, dtype=torch.int64).index_copy_(0, listed, label)

        known = _with_background(targets.known)
        shift = _log_known(known, weight.dtype)
        if log_weights is not None:
            own = log_weights(label).to(weight.dtype)
            shift = own if shift is None else shift + own
        of_image = _log_known(_with_background(targets.background_known), weight.dtype)

        gradient = torch.empty_like(flat)
        total = weight.new_zeros(())
        for chunk, mine in _chunks(flat, listed):
            x = flat[chunk].to(weight.dtype, copy=True)
            if of_image is not None:  # listed rows have masks of their own
                image = torch.arange(chunk.start, chunk.stop, device=x.device) // rows_an_image
                x += of_image[image].masked_fill_(~targets.background.view(-1)[chunk, None], 0.0)
            if shift is not None:
                x.index_add_(0, listed[mine] - chunk.start, shift[mine])
            loss, slope = _sweep(x, output[chunk], weight[chunk])
            total += loss
            if len(slope) == len(flat):
                gradient = slope.to(flat.dtype)
            else:
                gradient[chunk] = slope

        (many,) = (count > 1).nonzero(as_tuple=True)
        if len(many):
            with torch.enable_grad():
                x = at_least_float32(flat.index_select(0, listed[many])).requires_grad_()
                losses = several(x, _with_background(labels[many], False), known[many])
                own_sum = (losses if targets.weight is None else losses * targets.weight[many]).sum()
            (slope,) = torch.autograd.grad(own_sum, x)
            gradient.index_copy_(0, listed[many], slope.to(gradient.dtype))
            total = total + own_sum.detach()
        ctx.save_for_backward(gradient.view_as(logits))
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None


def _sweep(x: Tensor, output: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of weight times cross-entropy of rows [n, K] that name ``output`` [n], and its gradient; spoils ``x``."""
    log_share = x.log_softmax(-1)
    name = output[:, None]
    loss = -(log_share.gather(1, name)[:, 0] * weight).sum()
    outer = x.zero_().scatter_(1, name, -weight[:, None])
    return loss, torch.ops.aten._log_softmax_backward_data(outer, log_share, -1, x.dtype)


def _chunks(flat: Tensor, listed: Tensor) -> Any:
    """Slices of the rows, and of the listed rows that lie in each."""
    step = max(1, (_CHUNK_CPU if flat.device.type == "cpu" else _CHUNK_OTHER) // flat.shape[1])
    if len(flat) <= step:
        yield slice(0, len(flat)), slice(None)
        return
    for first in range(0, len(flat), step):
        chunk = slice(first, min(first + step, len(flat)))
        yield chunk, ((listed >= chunk.start) & (listed < chunk.stop)).nonzero()[:, 0]


def _precise(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _with_background(classes: Tensor, value: bool = True) -> Tensor:
    """bool [..., C] -> [..., C + 1]; the background is always in the denominator."""
    return torch.cat([classes, torch.full_like(classes[..., :1], value)], -1)


def _log_known(known: Tensor, dtype: torch.dtype) -> Tensor | None:
    """0 where known, -inf elsewhere; None where a CPU finds nothing unknown (a device would have to wait for it)."""
    if known.device.type == "cpu" and bool(known.all()):
        return None
    return torch.zeros(known.shape, dtype=dtype, device=known.device).masked_fill_(~known, -math.inf)

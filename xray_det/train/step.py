"""One optimisation step over a global batch.

DDP averages gradients over ranks, and every loss is a sum over the rank's rows divided by a count over all ranks. So
the step multiplies by the world size: the gradient is that of one process holding the whole batch.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xray_det.data.batch import Batch
from xray_det.losses.targets import DataLoss
from xray_det.models.predictions import Detector
from xray_det.models.sampling import SampleKey
from xray_det.train.freeze import FrozenRows

Precision = Literal["fp32", "bf16"]


def native_precision(device: torch.device | str) -> Precision:
    """bf16 where the device computes in it. A CPU without such instructions takes ten times as long in bf16 as in fp32,
    one with them two thirds."""
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else "fp32"


@dataclass(frozen=True, kw_only=True)
class StepKey:
    """Names one step: the random draws of the step are functions of these numbers and of nothing else."""

    seed: int
    phase: int
    epoch: int
    batch: int

    def generator_seed(self, rank: int) -> int:
        """For torch's own generator (dropout and the like): 63 bits that depend on every number."""
        text = f"{self.seed}/{self.phase}/{self.epoch}/{self.batch}/{rank}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


@dataclass(kw_only=True)
class Terms:
    """The losses of one rank, normalised: value [K] and divisor [K] in the order of ``names``."""

    names: list[str]
    values: Tensor
    divisors: Tensor


@dataclass(kw_only=True)
class Made:
    """A step that was made, and what is needed to look into it: the rank's batch on the device, its loss terms
    without their graph, and the total norm of the global gradient."""

    key: StepKey
    batch: Batch
    terms: Terms
    grad_norm: Tensor
    finite: "HostFlag"


class HostFlag:
    """A flag on its way from the device: reading it waits for the work before it, not for what was queued since."""

    def __init__(self, flag: Tensor) -> None:
        self._value = flag.to("cpu", non_blocking=True)
        self._arrived = torch.cuda.Event() if flag.is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    def __bool__(self) -> bool:
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._value)


class NonFinite(Exception):
    """The loss or the gradient of a step is not finite; the weights are those before the step."""

    def __init__(self, made: Made) -> None:
        self.made = made
        values = {name: float(value) for name, value in zip(made.terms.names, made.terms.values, strict=True)}
        super().__init__(f"{made.key}: losses {values}, gradient norm {float(made.grad_norm)}")


def compute_terms(
    model: nn.Module,
    detector: Detector,
    batch: Batch,
    key: StepKey,
    *,
    precision: Precision,
    rank: int,
    divisors: Callable[[Tensor], Tensor],
) -> Terms:
    """Forward pass and losses of this rank's part of the batch (on the model's device).

    Args:
        model: the detector, or the same one wrapped by DDP.
        divisors: counts [K] of this rank -> counts of the global batch.
    """
    torch.manual_seed(key.generator_seed(rank))
    sample_key = SampleKey(seed=key.seed, phase=key.phase, epoch=key.epoch, positions=batch.positions)
    images = batch.images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        predictions = model(images, batch.sizes, batch.targets, sample_key)
    losses = detector.losses(predictions, batch.targets)
    names = sorted(losses.sums)
    counts = torch.stack([losses.counts[name].to(images.device, torch.float32) for name in names])
    total = divisors(counts).clamp(min=1.0)
    return Terms(names=names, values=torch.stack([losses.sums[name] for name in names]) / total, divisors=total)


def summed(world: int) -> Callable[[Tensor], Tensor]:
    """Counts of a rank -> counts of all ranks."""

    def reduce(counts: Tensor) -> Tensor:
        if world > 1:
            dist.all_reduce(counts)
        return counts

    return reduce


@dataclass(kw_only=True)
class Stepper:
    """Forward, backward, check, clip and update, with the parts of one phase.

    Attributes:
        model: what is called (the detector or its DDP wrapper); ``detector`` its inside.
        rows: rows of parameters that must not move.
        clip: greatest total 2-norm of the gradient.
        lag: steps after which a step's finiteness is looked at. 0 asks the host at once. 1 lets a CUDA device run
            ahead; the update of a step that is not finite, and of all after it, is then skipped on the device, which
            needs a fused optimizer.
    """

    model: nn.Module
    detector: Detector
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    ema: nn.Module | None
    rows: Sequence[FrozenRows]
    clip: float | None
    precision: Precision
    rank: int
    world: int
    lag: int
    _unseen: list[Made] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._counting = [module for module in self.detector.modules() if isinstance(module, DataLoss)]
        self._broken = torch.zeros((), device=self._parameters[0].device)
        if self.lag:
            self.optimizer.found_inf = self._broken  # type: ignore[attr-defined]  # read by fused kernels

    def rehearse(self, batch: Batch, key: StepKey, times: int) -> None:
        """Throw-away passes: DDP orders its buckets by the first backward pass after a wrap and only then stays
        the same, so that without them a resumed run would add gradients in another order than an unbroken one."""
        buffers = {name: buffer.clone() for name, buffer in self.detector.named_buffers()}
        for _ in range(times):
            self._backward(batch, key)
            self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in self.detector.named_buffers():
                buffer.copy_(buffers[name])

    def __call__(self, batch: Batch, key: StepKey) -> tuple[list[str], Tensor]:
        """Make the step.

        Returns:
            names and values [K + 1] of the global batch's loss terms and of ``grad_norm`` (before clipping), on the
            device.

        Raises:
            NonFinite: on every rank alike, for this step or (lag 1) the one before.
        """
        terms = self._backward(batch, key)
        for rows in self.rows:
            rows.mask_gradient()
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        values = terms.values.clone()
        if self.world > 1:  # the same on every rank, so that all stop together
            dist.all_reduce(values)
        finite = torch.isfinite(values).all() & torch.isfinite(norm)
        self._broken.add_(~finite).clamp_(max=1.0)
        self._unseen.append(Made(key=key, batch=batch, terms=terms, grad_norm=norm, finite=HostFlag(finite)))
        self._look(keep=self.lag)
        for loss in self._counting:
            loss.absorb(summed(self.world), self._broken == 0)
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.clip, norm)
        self.optimizer.step()
        self.schedule.step()
        for rows in self.rows:
            rows.restore()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update_parameters(self.detector)  # type: ignore[operator]
        return [*terms.names, "grad_norm"], torch.cat([values, norm.reshape(1)])

    def settle(self) -> None:
        """Look at the steps not looked at yet; to be called before a checkpoint.

        Raises:
            NonFinite: one of them was not finite.
        """
        self._look(keep=0)

    def _backward(self, batch: Batch, key: StepKey) -> Terms:
        terms = compute_terms(
            self.model,
            self.detector,
            batch,
            key,
            precision=self.precision,
            rank=self.rank,
            divisors=summed(self.world),
        )
        (terms.values.sum() * self.world).backward()  # type: ignore[no-untyped-call]
        return Terms(names=terms.names, values=terms.values.detach(), divisors=terms.divisors)

    def _look(self, keep: int) -> None:
        while len(self._unseen) > keep:
            made = self._unseen.pop(0)
            if not made.finite:
                raise NonFinite(made)

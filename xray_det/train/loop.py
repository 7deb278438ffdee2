"""The training loop, the only one: phases x epochs x chunks of global batches.

A chunk ends with a checkpoint. A phase begins with a fresh optimizer and, on several workers, a fresh DDP wrapper. At
equal world size the weights are the same to the last bit however often the run was stopped and resumed.
"""

import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xray_det import display
from xray_det.data.batch import Batch
from xray_det.errors import InputError
from xray_det.losses.targets import DataLoss
from xray_det.models.predictions import Detector
from xray_det.train import checkpoint, evidence
from xray_det.train.average import averaged
from xray_det.train.checkpoint import OptimizerState, SaveWeights
from xray_det.train.context import Context, Position
from xray_det.train.freeze import freeze, learnable
from xray_det.train.optimizer import build_optimizer, build_schedule
from xray_det.train.phase import Phase
from xray_det.train.step import (
    NonFinite,
    Precision,
    StepKey,
    Stepper,
    compute_terms,
    native_precision,
    summed,
    unchanged_buffers,
)

logger = display.logger(__name__)

#: Global batches of the first chunk when the length of chunks is left to the loop, and the seconds it then aims at.
FIRST_CHUNK, CHUNK_SECONDS = 32, 60.0
#: Times in a chunk that a notice of preemption is looked for; clouds give it 30 to 120 s before they take a machine.
LOOKS = 6


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the loop is to do.

    Args:
        checkpoint_every: global batches of a chunk; None for what takes a minute, measured. It has no influence on
            the weights.
        ema: highest decay of the averaged weights (average.py), None for no averaging.
        log_every: steps between two points of the training curves, each the mean since the one before.
        classes: names of the unified classes, in the order of the classifier's outputs.
        fingerprints: [P + 1], of the configuration with its first 0, 1, ... P phases, or none; a checkpoint of another
            one is refused. A checkpoint between phases depends on those before it alone: a training may begin from
            that of another one with the same first phases.
    """

    phases: tuple[Phase, ...]
    seed: int
    checkpoint_every: int | None
    precision: Precision = "fp32"
    ema: float | None = None
    log_every: int = 20
    classes: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()

    def fingerprint(self, position: Position) -> str:
        """Of what a checkpoint at ``position`` depends on."""
        if not self.fingerprints:
            return ""
        begun = bool(position.epoch or position.batch)
        return self.fingerprints[position.phase + begun]


def run(context: Context, recipe: Recipe, detector: Detector, save_weights: SaveWeights) -> nn.Module:
    """Train ``detector`` through all phases, from the context's latest checkpoint if it has one.

    Returns:
        the model to use: the averaged one where the recipe averages, else ``detector``, trained in place.

    Raises:
        Diverged: the loss or gradient of a step was not finite; a folder with the evidence was written.
        InputError: a checkpoint that does not fit, a phase that trains nothing, a loss without the statistics it needs.
    """
    return _Run(context, recipe, detector, save_weights).all_phases()


class _Run:
    def __init__(self, context: Context, recipe: Recipe, detector: Detector, save_weights: SaveWeights) -> None:
        self.context, self.recipe, self.save_weights = context, recipe, save_weights
        self.detector: Detector = detector.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.learnable = learnable(detector)
        if recipe.precision == "bf16" and native_precision(context.device) != "bf16" and context.rank == 0:
            logger.warning("this %s has no bf16 and is several times faster with precision=fp32", context.device.type)
        self.ema = None if recipe.ema is None else averaged(self.detector, recipe.ema)
        self.position = Position()
        self.optimizer_state: OptimizerState | None = None
        with context.resume() as folder:
            if folder is not None:
                saved = checkpoint.load(folder, detector=self.detector, ema=self.ema, fingerprint=recipe.fingerprint)
                self.position, self.optimizer_state = saved.position, saved.optimizer
        for module in self.detector.modules():
            if isinstance(module, DataLoss):
                module.require_statistics()
        self.chunk = recipe.checkpoint_every or FIRST_CHUNK
        self.total_steps = sum(p.steps(context.steps_per_epoch(i)) for i, p in enumerate(recipe.phases))

    def all_phases(self) -> nn.Module:
        while self.position.phase < len(self.recipe.phases):
            try:
                self._phase(self.recipe.phases[self.position.phase])
            except NonFinite as failure:
                raise evidence.write(
                    self.context, self.recipe.precision, self.detector, failure, self.save_weights
                ) from None
        return self.ema.module if self.ema is not None else self.detector

    def _phase(self, phase: Phase) -> None:
        number, recipe, context = self.position.phase, self.recipe, self.context
        steps = context.steps_per_epoch(number)
        rows = freeze(self.detector, phase.trainable, self.learnable, recipe.classes)
        if not any(parameter.requires_grad for parameter in self.detector.parameters()):
            raise InputError(f"phases.{number}.trainable", "nothing in the model learns", "Train another part")
        optimizer = build_optimizer(self.detector, phase)
        done = self.position.epoch * steps + self.position.batch
        if self.optimizer_state is not None and (done or phase.keep_optimizer):
            checkpoint.restore_optimizer(optimizer, self.optimizer_state, exact=done > 0)
        stepper: Stepper | None = None
        while self.position.phase == number:
            start, epoch = self.position.batch, self.position.epoch
            stop = min(start + self.chunk, steps, phase.steps(steps) - epoch * steps)  # a phase may end within an epoch
            meter = Meter(context, recipe.log_every, self.total_steps)
            began = time.perf_counter()
            for batch in _waited(context.batches(number, epoch, start, stop), meter):
                batch = batch.to(context.device)
                key = StepKey(seed=recipe.seed, phase=number, epoch=epoch, batch=self.position.batch)
                if stepper is None:
                    stepper = Stepper(
                        model=self._wrap(batch, key),
                        detector=self.detector,
                        optimizer=optimizer,
                        schedule=build_schedule(optimizer, phase, steps_per_epoch=steps, step=done),
                        ema=self.ema,
                        rows=rows,
                        clip=phase.clip,
                        precision=recipe.precision,
                        rank=context.rank,
                        world=context.world,
                        lag=1 if context.device.type == "cuda" else 0,
                    )
                    if context.world > 1:
                        stepper.rehearse(batch, key, times=2)
                    began = time.perf_counter()
                lr = optimizer.param_groups[0]["lr"]
                names, values = stepper(batch, key)
                self.position = replace(self.position, batch=self.position.batch + 1, step=self.position.step + 1)
                meter.add(self.position, names, values, images=len(batch) * context.world, lr=lr)
                made = self.position.batch - start
                if made % max(1, self.chunk // LOOKS) == 0 and self.position.batch < stop and context.interrupted():
                    stop = self.position.batch
                    break
            if stepper is None or self.position.batch != stop:
                raise RuntimeError(f"batches {start} to {stop} were asked for, {self.position.batch} was reached")
            stepper.settle()
            metrics = meter.flush(self.position)
            seconds = (time.perf_counter() - began) / (stop - start)
            self._advance(phase, steps)
            self._report(optimizer, metrics, phase_end=None if self.position.phase == number else number)
            if recipe.checkpoint_every is None:
                self.chunk = self._agreed(max(1, round(CHUNK_SECONDS / max(seconds, 1e-6))))
        self.optimizer_state = checkpoint.optimizer_state(optimizer)

    def _advance(self, phase: Phase, steps: int) -> None:
        """From behind an epoch's last batch to the next epoch, from behind the phase's last one to the next phase."""
        if self.position.epoch * steps + self.position.batch == phase.steps(steps):
            self.position = replace(self.position, phase=self.position.phase + 1, epoch=0, batch=0)
        elif self.position.batch == steps:
            self.position = replace(self.position, epoch=self.position.epoch + 1, batch=0)

    def _report(self, optimizer: torch.optim.Optimizer, metrics: dict[str, float], phase_end: int | None) -> None:
        save = partial(
            checkpoint.save,
            detector=self.detector,
            ema=self.ema,
            optimizer=optimizer,
            position=self.position,
            fingerprint=self.recipe.fingerprint(self.position),
            save_weights=self.save_weights,
        )
        self.context.report(self.position, metrics, save, phase_end)

    def _agreed(self, number: int) -> int:
        """Rank 0's number on every rank."""
        if self.context.world == 1:
            return number
        shared = torch.tensor(number, device=self.context.device)
        dist.broadcast(shared, src=0)
        return int(shared)

    def _wrap(self, batch: Batch, key: StepKey) -> nn.Module:
        """The detector under DDP where there are several workers.

        A parameter that a backward pass does not reach makes DDP wait for ever unless it searches the graph in every
        step. The search costs time, so one pass finds out whether it is needed.
        """
        context = self.context
        if context.world == 1:
            return self.detector
        with unchanged_buffers(self.detector):
            terms = compute_terms(
                self.detector,
                self.detector,
                batch,
                key,
                precision=self.recipe.precision,
                rank=context.rank,
                divisors=summed(context.world),
            )
            terms.values.sum().backward()  # type: ignore[no-untyped-call]
        learning = [(name, p) for name, p in self.detector.named_parameters() if p.requires_grad]
        unused = torch.tensor([float(p.grad is None) for _, p in learning], device=context.device)
        dist.all_reduce(unused)
        for _, parameter in learning:
            parameter.grad = None
        names = [name for (name, _), count in zip(learning, unused.tolist(), strict=True) if count]
        if names and context.rank == 0:
            logger.warning("these parameters take no part in the loss and learn nothing: %s", ", ".join(names))
        with warnings.catch_warnings():  # torch 2.15 has another name for broadcast_buffers, which 2.9 does not know
            warnings.simplefilter("ignore", FutureWarning)
            wrapped: nn.Module = DistributedDataParallel(
                self.detector,
                device_ids=[context.device] if context.device.type == "cuda" else None,
                broadcast_buffers=False,  # they are frozen or the same on every rank
                find_unused_parameters=bool(names),
            )
        return wrapped


class Meter:
    """Means since the last point of the training curves, kept on the device until they are logged."""

    def __init__(self, context: Context, every: int, total_steps: int) -> None:
        self.context, self.every, self.total_steps = context, every, total_steps
        self.last: dict[str, float] = {}
        self._reset()

    def _reset(self) -> None:
        self.sums: Tensor | None = None
        self.names: list[str] = []
        self.steps = self.images = 0
        self.waited, self.lr = 0.0, math.nan
        self.since = time.perf_counter()

    def add(self, position: Position, names: list[str], values: Tensor, *, images: int, lr: float) -> None:
        self.sums = values if self.sums is None else self.sums + values
        self.names, self.lr = names, lr
        self.steps, self.images = self.steps + 1, self.images + images
        self.context.advance(position, self.total_steps)
        if position.step % self.every == 0:
            self.flush(position)

    def flush(self, position: Position) -> dict[str, float]:
        """Log what has gathered; return the last point."""
        if self.sums is not None:
            seconds = time.perf_counter() - self.since
            means = dict(zip(self.names, (self.sums / self.steps).tolist(), strict=True))
            norm = means.pop("grad_norm")
            self.last = {
                "loss": sum(means.values()),
                **{f"loss_{name}": value for name, value in means.items()},
                "grad_norm": norm,
                "lr": self.lr,
                "images_per_second": self.images / seconds,
                "data_wait": self.waited / seconds,
            }
            self.context.log({f"train/{name}": value for name, value in self.last.items()}, position.step)
        self._reset()
        return self.last


def _waited(batches: Iterator[Batch], meter: Meter) -> Iterator[Batch]:
    """The same batches; the time spent waiting for them is added to the meter."""
    iterator = iter(batches)
    while True:
        began = time.perf_counter()
        batch = next(iterator, None)
        meter.waited += time.perf_counter() - began
        if batch is None:
            return
        yield batch

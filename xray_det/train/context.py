"""What the training loop is given: where it runs, its batches, and whom it tells.

The loop knows neither Ray nor MLflow nor an evaluation. ``plain.py`` implements the context in one process,
``orchestrate/worker.py`` with Ray Train.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from xray_det.data.batch import Batch


@dataclass(frozen=True, kw_only=True, order=True)
class Position:
    """Where a training stands: the next global batch, and how many optimizer steps the whole run has made.

    After the last batch of an epoch it points at batch 0 of the next one, after a phase at epoch 0 of the next phase.
    """

    phase: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0


class Context(Protocol):
    """One worker's surroundings. With ``world`` > 1, torch's default process group is up and every rank makes the
    same calls in the same order."""

    rank: int
    world: int
    device: torch.device

    def steps_per_epoch(self, phase: int) -> int:
        """Global batches in an epoch of the phase."""
        ...

    def batches(self, phase: int, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        """This rank's part of the global batches start .. stop - 1 of an epoch, in order, on any device."""
        ...

    def resume(self) -> AbstractContextManager[Path | None]:
        """The folder of the latest checkpoint while the context is open; None when there is none."""
        ...

    def report(
        self, position: Position, metrics: Mapping[str, float], save: Callable[[Path], None], phase_end: int | None
    ) -> None:
        """Keep a checkpoint of ``position``. ``save`` writes it into an existing empty folder; rank 0 calls it.

        May return before a restart would find it. The checkpoint of a phase's end (``phase_end``: which) is kept for
        good. Whoever measures checkpoints does so beside the training.
        """
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers to follow; called on every rank with equal values."""
        ...

    def advance(self, position: Position, total_steps: int) -> None:
        """One step was made. Called after every step, so it must cost nothing."""
        ...

    def interrupted(self) -> bool:
        """Whether a checkpoint is wanted now, because a machine of the training will be taken away; True once for each
        such notice. A barrier with the same answer on every rank, so not called after every step."""
        ...

    def evidence(self, name: str) -> str:
        """The URI of a folder for what explains a failure; the same on every rank, not yet made."""
        ...

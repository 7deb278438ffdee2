"""The training context of one plain process, without Ray: for tests, profiling and a bare GPU machine."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from xray_det.data.batch import Batch
from xray_det.train.context import Position


class Batches(Protocol):
    """What the context asks of its data (``data/loader.py``, or a stand-in)."""

    def steps_per_epoch(self, phase: int) -> int: ...

    def batches(self, phase: int, epoch: int, start: int, stop: int) -> Iterator[Batch]: ...


class PlainContext:
    """One worker of ``world`` (1, or torch's default process group is up), files under one local folder.

    Checkpoints lie in FOLDER/checkpoints/STEP (the last one only) and FOLDER/phases/N (each phase's end).
    """

    def __init__(
        self,
        data: Batches,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        on_log: Callable[[Mapping[str, float], int], None] | None = None,
        on_step: Callable[[Position, int], None] | None = None,
        on_phase_end: Callable[[int, Path], None] | None = None,
    ) -> None:
        self.data, self.folder = data, folder
        self.device = torch.device(device)
        self.rank, self.world = rank, world
        self._on_log, self._on_step, self._on_phase_end = on_log, on_step, on_phase_end
        folder.mkdir(parents=True, exist_ok=True)

    def steps_per_epoch(self, phase: int) -> int:
        return self.data.steps_per_epoch(phase)

    def batches(self, phase: int, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        return self.data.batches(phase, epoch, start, stop)

    @contextmanager
    def resume(self) -> Iterator[Path | None]:
        pointer = self.folder / "latest.json"
        yield self.folder / json.loads(pointer.read_text())["checkpoint"] if pointer.exists() else None

    def report(
        self, position: Position, metrics: Mapping[str, float], save: Callable[[Path], None], phase_end: int | None
    ) -> None:
        if self.rank == 0:
            name = f"phases/{phase_end}" if phase_end is not None else f"checkpoints/{position.step:08d}"
            target, partial = self.folder / name, self.folder / f"{name}.partial"
            for leftover in (partial, target):  # of a run killed between the rename and the pointer
                shutil.rmtree(leftover, ignore_errors=True)
            partial.mkdir(parents=True)
            save(partial)
            os.rename(partial, target)
            pointer = self.folder / "latest.json.partial"
            pointer.write_text(json.dumps({"checkpoint": name}))
            os.replace(pointer, self.folder / "latest.json")
            for old in (self.folder / "checkpoints").glob("*"):
                if old != target:
                    shutil.rmtree(old)
            if phase_end is not None and self._on_phase_end is not None:
                self._on_phase_end(phase_end, target)
        if self.world > 1:
            torch.distributed.barrier()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._on_log is not None:
            self._on_log(metrics, step)

    def advance(self, position: Position, total_steps: int) -> None:
        if self._on_step is not None:
            self._on_step(position, total_steps)

    def interrupted(self) -> bool:
        return False

    def evidence(self, name: str) -> str:
        return str(self.folder / name)

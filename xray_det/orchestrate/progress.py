"""How far a training is: rank 0 writes it to the run's folder, the driver shows it as a bar, or as lines where there is
no terminal.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from xray_det import storage
from xray_det.errors import InputError

#: Seconds between two writes: an object store is asked less often than a disk.
LOCAL_EVERY_S, REMOTE_EVERY_S = 0.5, 10.0


@dataclass(frozen=True, kw_only=True)
class State:
    """Steps made, where the last one lay, and how often the training was started before."""

    step: int
    total_steps: int
    phase: int
    epoch: int
    resumes: int = 0


class Progress:
    """``progress.json`` of a run. Losing it costs nothing, so nothing here raises."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._every_s = REMOTE_EVERY_S if "://" in uri else LOCAL_EVERY_S
        self._told = -self._every_s
        self._resumes: int | None = None

    def tell(self, *, step: int, total_steps: int, phase: int, epoch: int) -> None:
        """Called after every step; writes now and then, and after the last one."""
        now = time.monotonic()
        if now - self._told < self._every_s and step != total_steps:
            return
        if self._resumes is None:
            before = self.read()
            self._resumes = 0 if before is None else before.resumes + 1
        self._told = now
        state = State(step=step, total_steps=total_steps, phase=phase, epoch=epoch, resumes=self._resumes)
        try:
            storage.write_json(self._uri, asdict(state))
        except (OSError, InputError):
            return

    def read(self) -> State | None:
        """What was last written; None while there is nothing."""
        try:
            return State(**storage.read_json(self._uri))
        except (OSError, InputError, TypeError):
            return None


class Display:
    """Shows the progress while the body of a ``with`` runs."""

    def __init__(self, progress: Progress, title: str, *, console: Console | None = None, every_s: float = 0.5) -> None:
        self._progress, self._title, self._every_s = progress, title, every_s
        self._console = console or Console()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="progress")
        self._began = time.monotonic()
        self._stale = progress.read()  # of an attempt before this one

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(timeout=10)

    def _follow(self) -> None:
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            with Bar(*columns, console=self._console) as bar:
                task = bar.add_task(f"{self._title}: starting workers", total=None)
                self._poll(lambda state: bar.update(task, **_shown(self._title, state)))
        else:
            self._poll(self._lines())

    def _poll(self, show: Callable[[State], None]) -> None:
        last = False
        while not last:
            last = self._done.wait(self._every_s)  # once more after the end, for the last steps
            state = self._progress.read()
            if state is not None and state != self._stale:
                show(state)

    def _lines(self, every_s: float = 30.0) -> Callable[[State], None]:
        """For a log: a line at the first step, then every half minute, and at the end."""
        printed = {"at": -every_s, "step": -1.0}

        def show(state: State) -> None:
            now, step = time.monotonic() - self._began, state.step
            if step != printed["step"] and (now - printed["at"] >= every_s or step == state.total_steps):
                printed.update(at=now, step=step)
                shown = _shown(self._title, state)
                self._console.print(f"{shown['description']}  step {step} of {state.total_steps}  {now:.0f} s")

        return show


def _shown(title: str, state: State) -> dict[str, Any]:
    resumed = f" (resumed {state.resumes} x)" if state.resumes else ""
    where = f"phase {state.phase + 1}, epoch {state.epoch + 1}"
    return {
        "description": f"{title}: {where}{resumed}",
        "completed": state.step,
        "total": state.total_steps,
    }

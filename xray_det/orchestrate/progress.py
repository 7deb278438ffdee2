"""How far a training is: told by rank 0 to an actor, shown by the driver as a bar, or as lines where there is no
terminal. Torch-free: the actor's process would import it for seconds.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


@dataclass(frozen=True, kw_only=True)
class State:
    """The last that was heard: steps made and where the next one lies. ``resumes`` counts how often the steps went
    backwards, as after a kill."""

    step: int
    total_steps: int
    phase: int
    epoch: int
    resumes: int = 0


class _Board:
    def __init__(self) -> None:
        self._state: State | None = None

    def tell(self, step: int, total_steps: int, phase: int, epoch: int) -> None:
        before = self._state
        resumes = 0 if before is None else before.resumes + (step <= before.step)
        self._state = State(step=step, total_steps=total_steps, phase=phase, epoch=epoch, resumes=resumes)

    def read(self) -> State | None:
        return self._state


class Progress:
    """A handle to the board that any process of the cluster can hold."""

    def __init__(self) -> None:
        self._board: Any = ray.remote(num_cpus=0)(_Board).remote()

    def tell(self, *, step: int, total_steps: int, phase: int, epoch: int) -> None:
        """Without waiting."""
        self._board.tell.remote(step, total_steps, phase, epoch)

    def read(self, timeout_s: float = 5.0) -> State | None:
        """The last state; None while there is none or the board does not answer."""
        try:
            state: State | None = ray.get(self._board.read.remote(), timeout=timeout_s)
        except (ray.exceptions.RayError, TimeoutError):
            return None
        return state


class Display:
    """Shows a board while the body of a ``with`` runs."""

    def __init__(self, progress: Progress, title: str, *, console: Console | None = None, every_s: float = 0.5) -> None:
        self._progress, self._title, self._every_s = progress, title, every_s
        self._console = console or Console()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="progress")
        self._began = time.monotonic()

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
            if state is not None:
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

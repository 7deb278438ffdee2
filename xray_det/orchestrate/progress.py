"""How far a training is: rank 0 writes it to the run's folder, the driver shows it as a bar, or as lines where there is
no terminal.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Self

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import TaskID

from xray_det import storage
from xray_det.display import bars, terminal
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
        self._thread: threading.Thread | None = None

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
        if "://" not in self._uri:
            self._write(state)
        elif self._thread is None or not self._thread.is_alive():  # the training does not wait
            self._thread = threading.Thread(target=self._write, args=[state], name="progress")
            self._thread.start()

    def _write(self, state: State) -> None:
        with suppress(OSError, InputError):
            storage.write_json(self._uri, asdict(state))

    def read(self) -> State | None:
        """What was last written; None while there is nothing."""
        try:
            return State(**storage.read_json(self._uri))
        except (OSError, InputError, TypeError):
            return None

    def named(self, title: str) -> dict[str, State]:
        """What was last written, for a Display."""
        state = self.read()
        return {} if state is None else {title: state}


class Display:
    """Shows how far trainings are while the body of a ``with`` runs: a bar each, or lines where there is no terminal.

    Args:
        read: title -> state of each training under way, as often as it is asked; a bar goes with its training.
        title: what is shown before the first one has begun.
        lines_s: seconds between two lines of a training.
    """

    def __init__(
        self,
        read: Callable[[], Mapping[str, State]],
        title: str,
        *,
        console: Console | None = None,
        every_s: float = 0.5,
        lines_s: float = 30.0,
    ) -> None:
        self._read, self._title, self._every_s, self._lines_s = read, title, every_s, lines_s
        self._console = console or terminal()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="progress")
        self._stale = read()  # of an attempt before this one

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(timeout=10)

    def _follow(self) -> None:
        if self._console.is_terminal:
            with bars(console=self._console) as bar:
                self._poll(self._bars(bar))
        else:
            self._poll(self._lines())

    def _poll(self, show: Callable[[Mapping[str, State]], None]) -> None:
        last = False
        while not last:
            last = self._done.wait(self._every_s)  # once more after the end, for the last steps
            show({title: state for title, state in self._read().items() if state != self._stale.get(title)})

    def _bars(self, bar: Bar) -> Callable[[Mapping[str, State]], None]:
        tasks: dict[str, TaskID] = {}
        waiting = bar.add_task(f"{self._title}: starting workers", total=None)

        def show(states: Mapping[str, State]) -> None:
            bar.update(waiting, visible=not (states or tasks))
            for title in tasks.keys() - states.keys():
                bar.remove_task(tasks.pop(title))
            for title, state in states.items():
                if title not in tasks:
                    tasks[title] = bar.add_task(title)
                where = _where(title, state)
                bar.update(tasks[title], description=where, completed=state.step, total=state.total_steps)

        return show

    def _lines(self) -> Callable[[Mapping[str, State]], None]:
        """For a log: a line at the first step, then now and then, and at the end."""
        began: dict[str, float] = {}
        printed: dict[str, tuple[float, int]] = {}

        def show(states: Mapping[str, State]) -> None:
            for title, state in states.items():
                now = time.monotonic()
                took = now - began.setdefault(title, now)
                at, before = printed.get(title, (now - self._lines_s, -1))
                if state.step != before and (now - at >= self._lines_s or state.step == state.total_steps):
                    printed[title] = (now, state.step)
                    told = f"{_where(title, state)}  step {state.step} of {state.total_steps}  {took:.0f} s"
                    self._console.print(told)

        return show


def _where(title: str, state: State) -> str:
    resumed = f" (resumed {state.resumes} x)" if state.resumes else ""
    return f"{title}: phase {state.phase + 1}, epoch {state.epoch + 1}{resumed}"

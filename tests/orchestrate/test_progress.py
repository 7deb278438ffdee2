"""What tells how far trainings are."""

import io
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from xray_det.orchestrate.progress import Display, Progress, State

EVERY_S = 0.01


def at(step: int, resumes: int = 0) -> State:
    return State(step=step, total_steps=4, phase=0, epoch=step // 2, resumes=resumes)


def shown(begin: dict[str, State], then: list[dict[str, State]], *, terminal: bool) -> str:
    """What a display wrote while the states went from one to the next, each seen before the next."""
    states, reads = [begin], [0]

    def read() -> dict[str, State]:
        reads[0] += 1
        return states[-1]

    def seen(until: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not until():
            assert time.monotonic() < end
            time.sleep(EVERY_S)

    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, height=20, color_system=None)
    with Display(read, "a study", console=console, every_s=EVERY_S, lines_s=1000.0):
        for one in then:
            states.append(one)
            before = reads[0]
            seen(lambda before=before: reads[0] > before + 1)
    return out.getvalue()


def test_a_log_has_the_first_line_and_the_last() -> None:
    lines = shown({}, [{"a": at(1)}, {"a": at(2)}, {"a": at(4)}], terminal=False).splitlines()
    assert [line.rsplit("  ", 1)[0] for line in lines] == [
        "a: phase 1, epoch 1  step 1 of 4",
        "a: phase 1, epoch 3  step 4 of 4",
    ]


def test_a_log_counts_the_seconds_of_a_training_not_of_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100000, 100))
    display = Display(dict, "a study", console=Console(file=(out := io.StringIO()), width=120), lines_s=0.0)
    show = display._lines()
    monkeypatch.setattr("xray_det.orchestrate.progress.time.monotonic", lambda: next(clock))
    for states in ({"a": at(1)}, {"a": at(2)}, {"a": at(4), "b": at(1)}):
        show(states)
    took = {line.split(":")[0]: line.rsplit("  ", 1)[1] for line in out.getvalue().splitlines()}
    assert took == {"a": "200 s", "b": "0 s"}


def test_what_an_attempt_before_left_is_not_progress() -> None:
    old = {"a": at(3)}
    assert "a" not in shown(old, [old], terminal=False)
    assert "a (resumed" not in shown(old, [old], terminal=False)
    assert "(resumed 1 x)" in shown(old, [{"a": at(3, resumes=1)}], terminal=False)


def test_a_bar_goes_with_its_training() -> None:
    """Forty trainings of a study would push the two that run out of the terminal."""
    states: list[dict[str, State]] = [{"first": at(4)}, {"first": at(4), "second": at(1)}, {"second": at(2)}]
    last = shown({}, states, terminal=True).rsplit("\r", 1)[1]
    assert "second: phase 1, epoch 2" in last
    assert "first" not in last


def test_a_lone_training_keeps_its_bar() -> None:
    written = shown({}, [{"alone": at(1)}, {"alone": at(4)}], terminal=True)
    assert "4/4" in written[written.rindex("alone") :]


def test_resumes_are_counted_and_a_broken_file_costs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "progress.json"
    for resumes in range(3):
        Progress(str(file)).tell(step=4, total_steps=4, phase=1, epoch=1)
        assert Progress(str(file)).read() == State(step=4, total_steps=4, phase=1, epoch=1, resumes=resumes)
    file.write_text("{")
    assert Progress(str(file)).read() is None
    assert Progress(str(file)).named("a") == {}
    Progress(str(file)).tell(step=4, total_steps=4, phase=1, epoch=1)
    assert Progress(str(file)).named("a")["a"].resumes == 0

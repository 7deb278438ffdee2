"""A plan of a sweep: one experiment, what is varied of it, and what Ray Tune does with each choice."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ray import tune

from xray_det import storage
from xray_det.errors import InputError
from xray_det.orchestrate import search
from xray_det.orchestrate.experiment import Experiment, prepare
from xray_det.orchestrate.progress import Progress, State
from xray_det.orchestrate.results import Row, read_rows
from xray_det.orchestrate.run_folder import PROGRESS, Result


class Train(Protocol):
    """Trains an experiment as a child of the sweep's run."""

    def __call__(self, experiment: Experiment, name: str, begin: Result | None, tags: Mapping[str, str]) -> Result:
        """Train under a name, begun with another training's phases, tagged."""
        ...


@dataclass(frozen=True, kw_only=True)
class Round:
    """What Ray Tune is asked for at a time.

    Attributes:
        name: of Ray Tune's record of it.
        drawn_from: where a trial's values come from, in Ray Tune's words.
        trial: what it runs for a choice of values, in a process of its own; also given what trains, and the result of
            the trunk.
        settings: metric, scheduler, searcher, number of samples.
    """

    name: str
    drawn_from: dict[str, Any]
    trial: Callable[[Train, Result | None, search.Values], None]
    settings: tune.TuneConfig


@dataclass(frozen=True, kw_only=True)
class Plan(ABC):
    """See ``Arms`` and ``Population``.

    Args:
        experiment: what all trainings have in common; its name is the sweep's, its folder the sweep's.
        space: paths into the experiment and their values (search.py).
    """

    experiment: Experiment
    space: search.Space

    def __post_init__(self) -> None:
        search.check(self.experiment, self.space)
        if not self.experiment.data.val:
            problem, remedy = "names no dataset", "Give validation images: they tell what is better"
            raise InputError("data.val", problem, remedy)

    @property
    @abstractmethod
    def first(self) -> int:
        """The first phase that differs between trainings."""

    @property
    @abstractmethod
    def choices(self) -> dict[str, Any]:
        """What beside experiment and space makes it this sweep, as JSON."""

    @abstractmethod
    def rounds(self, concurrent: int) -> Iterator[Round]:
        """What Ray Tune is asked for, so many trials at a time; each once the one before it has ended."""

    @property
    def metric(self) -> str:
        return self.experiment.validation.metric

    @property
    def document(self) -> dict[str, Any]:
        """All that makes it this sweep, as JSON."""
        return {**prepare(self.experiment).document, "space": search.described(self.space), **self.choices}

    def trunk(self) -> Experiment | None:
        """The phases that all trainings share; None where there are none."""
        if self.first == 0:
            return None
        phases, out = self.experiment.phases[: self.first], self.experiment.folder
        return replace(self.experiment, name="trunk", phases=phases, out=out)

    def score(self, result: Result) -> float:
        """The metric of a training's last validation."""
        found = result.validations[-1]
        if self.metric not in found:
            known = ", ".join(found)
            raise InputError("validation.metric", f"{self.metric!r} was not measured", f"Give one of {known}")
        return found[self.metric]

    def rows(self) -> tuple[Row, ...]:
        """What the trainings so far came to."""
        return read_rows(self.experiment.folder, self.metric)

    def states(self) -> dict[str, State]:
        """How far each training that has begun and not ended is."""
        states: dict[str, State] = {}
        for row in self.rows():
            if row.score is None:
                states |= Progress(storage.join(row.folder, PROGRESS)).named(f"{row.arm}, {row.share:g}")
        return states

"""A study: arms x seeds, and one table of what they came to. A training is made once, in whatever tables it stands.

OUT/KEY/             a training, in a run folder called after what its numbers depend on: studies share them
OUT/NAME/            the study's own journal
RESULTS/NAME.json    what its trainings were measured at (study_record.py), written after each: what is in there, or in
                     another study's file, is not trained again, on any machine
RESULTS/NAME.md      its table; NAME.png beside it draws the same

A training of several phases goes on from that of the phases before its last, which other arms may share: natural order,
then soft-balance with this lambda or that.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import ray
from rich.console import Console
from rich.text import Text

from xray_det import storage
from xray_det.data.cluster import connect
from xray_det.display import lines, terminal
from xray_det.errors import InputError
from xray_det.evaluation.over_seeds import OverSeeds
from xray_det.evaluation.over_seeds_figure import sheet
from xray_det.lettering import figure_bytes
from xray_det.orchestrate.experiment import Experiment
from xray_det.orchestrate.progress import Display, Progress, State
from xray_det.orchestrate.run_folder import PROGRESS, Result, RunFolder
from xray_det.orchestrate.study_record import Identity, Known, Outcome, read_known, write_record
from xray_det.orchestrate.sweep import Child, side_by_side
from xray_det.orchestrate.validation import on_the_way
from xray_det.tracking.environment import commit
from xray_det.tracking.tracker import Tracker

#: What is trained with a seed.
Arm: TypeAlias = Callable[[int], Experiment]
#: What starting a training takes on a quiet machine, for the first estimate.
START_S = 30.0
#: One MLflow experiment for all studies: they share trainings.
MLFLOW_EXPERIMENT = "studies"


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is tried.

    Args:
        name: of the study and its files.
        arms: title -> the experiment of a seed; the first is what the others are compared with. Its name and the folder
            of the runs are the study's.
        seeds: 0, 1, ...
        metrics: column of the table -> name of the metric.
        epoch_s: what an epoch takes, for the estimate while nothing is measured; None: nobody knows.
        verdicts: what the table shows, a line each.
    """

    name: str
    arms: Mapping[str, Arm]
    seeds: int
    metrics: Mapping[str, str]
    epoch_s: float | None
    verdicts: Callable[[OverSeeds], Sequence[str]] = lambda _: ()

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError("seeds", f"{self.seeds} is less than one", "Give at least 1")
        if not self.arms:
            raise InputError("arms", "there are none", "Give at least one")


def seeded(experiment: Experiment) -> Arm:
    """The experiment as an arm: with the study's seeds."""
    return lambda seed: replace(experiment, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One arm with one seed, or the phases that it begins with.

    Attributes:
        begin: the training of all phases but the last.
    """

    title: str
    identity: Identity
    experiment: Experiment
    begin: "Training | None"

    @classmethod
    def of(cls, title: str, experiment: Experiment, out: str) -> "Training":
        """Reads the manifests of its datasets."""
        identity, begin = Identity.of(experiment), None
        if not experiment.data.val:
            problem, remedy = "names no dataset", "Give validation images: they tell what is better"
            raise InputError("data.val", problem, remedy)
        if len(experiment.phases) > 1:
            at_its_end = replace(experiment.validation, every=None)  # whatever an arm wants to know of its last phase
            shorter = replace(experiment, phases=experiment.phases[:-1], validation=at_its_end)
            begin = cls.of(f"{title}, the first {len(shorter.phases)} of its phases", shorter, out)
        placed = replace(experiment, name=identity.key, out=out).absolute()
        return cls(title=title, identity=identity, experiment=placed, begin=begin)

    @property
    def key(self) -> str:
        return self.identity.key

    @property
    def last_epochs(self) -> float:
        """Epochs that it adds to what it begins with; of iterations nobody knows here how many epochs they are: one."""
        last = self.experiment.phases[-1]
        return last.length if last.unit == "epochs" else 1

    def finished(self) -> Result | None:
        return RunFolder(uri=self.experiment.folder, fingerprint="").finished()

    def chain(self) -> "Iterator[Training]":
        """What has to be trained for it, in this order, but for what is finished."""
        if self.finished() is None:
            if self.begin is not None:
                yield from self.begin.chain()
            yield self


def run_study(
    study: Study,
    *,
    out: str,
    results: str,
    command: str,
    tracking: str | None = None,
    max_concurrent: int | None = None,
    console: Console | None = None,
) -> OverSeeds:
    """Train what is missing, write and print the table. Stopped, the same call goes on.

    Args:
        out: folder or URI of the runs.
        results: folder of the studies' files.
        command: that runs the study, for its files.
        tracking: address of MLflow; the study is a run with a child for each training that it makes.
        max_concurrent: trainings side by side; None: as many as the cluster has room for, on a CPU one a core.

    Raises:
        InputError: an arm cannot run, or the cluster has too little.
    """
    console = console or terminal(quiet=True)
    seeds = range(study.seeds)
    arms = {
        title: [Training.of(f"{title}, seed {seed}", arm(seed), out) for seed in seeds]
        for title, arm in study.arms.items()
    }
    work = Work(study=study, arms=arms, known=read_known(results), results=results, command=command, console=console)
    missing = work.missing()
    work.announce(missing, max_concurrent)
    if missing:
        connect(include_dashboard=True)
        folder = storage.join(out, study.name)
        with Tracker(folder, experiment=MLFLOW_EXPERIMENT, name=study.name, uri=tracking) as tracker:
            tracker.tags({"study": study.name})
            concurrent, allotted = side_by_side(max(missing, key=_workers).experiment, max_concurrent)
            child = Child(
                sweep=study.name,
                folder=folder,
                validate=None,
                tracking=tracker.uri,
                mlflow_experiment=MLFLOW_EXPERIMENT,
                allotted=allotted,
            )
            with Display(lambda: work.under_way(missing), study.name, console=console, every_s=2.0, lines_s=60.0):
                work.train(missing, child, concurrent)
            tracker.table(study.name, work.rows())
            tracker.figure(study.name, sheet(work.found()))
            tracker.json(study.name, work.write())
    return work.conclude()


def _workers(training: Training) -> int:
    return training.experiment.workers


@dataclass(frozen=True, kw_only=True)
class Work:
    """A study under way."""

    study: Study
    arms: Mapping[str, Sequence[Training]]
    known: Known
    results: str
    command: str
    console: Console

    def missing(self) -> list[Training]:
        """What has to be trained, each once, a beginning before what goes on from it."""
        missing: dict[str, Training] = {}
        for training in self.trainings().values():
            if training.key not in self.known and (result := training.finished()) is not None:
                self.known[training.key] = _outcome(training, result)
            if training.key not in self.known:
                missing |= {one.key: one for one in training.chain() if one.key not in missing}
        return list(missing.values())

    def trainings(self) -> dict[str, Training]:
        """The arms' trainings by key, each once."""
        return {one.key: one for arm in self.arms.values() for one in arm}

    def announce(self, missing: Sequence[Training], concurrent: int | None) -> None:
        """The first line: trainings x minutes."""
        told = f"{self.study.name}: {len(self.trainings())} trainings, {len(missing)} to be made"
        if missing:
            minutes, beside = self.minutes(missing), concurrent or "as many as there is room for"
            told += (
                f", {beside} side by side"
                if minutes is None
                else (
                    f" x {minutes / len(missing):.1f} minutes, {beside} side by side: {minutes:.0f} minutes of a core"
                )
            )
        self.console.print(told, soft_wrap=True)

    def minutes(self, of: Sequence[Training]) -> float | None:
        """An estimate: as long as those of the study that have been measured, an epoch and a start alike."""
        measured = {key: one for key, one in self.trainings().items() if key in self.known}
        if measured:
            took = sum(self.known[key].minutes for key in measured)
            return took / sum(map(self._expected, measured.values())) * sum(map(self._expected, of))
        return sum(map(self._expected, of)) if self.study.epoch_s is not None else None

    def _expected(self, training: Training) -> float:
        return (START_S + training.last_epochs * (self.study.epoch_s or START_S)) / 60

    def train(self, missing: Sequence[Training], child: Child, concurrent: int) -> None:
        """Make what is missing; the record is written after each."""
        for ended, (training, result) in enumerate(made(missing, child, concurrent), 1):
            if isinstance(result, str):
                self.console.print(f"{training.title} has no result: {result}", soft_wrap=True)
                continue
            self.known[training.key] = _outcome(training, result)
            self.write()
            self.tell(training, len(missing) - ended)

    def under_way(self, missing: Sequence[Training]) -> dict[str, State]:
        """How far each training that has begun and is not known yet is."""
        states: dict[str, State] = {}
        for training in missing:
            if training.key not in self.known:
                states |= Progress(storage.join(training.experiment.folder, PROGRESS)).named(training.title)
        return states

    def tell(self, training: Training, left: int) -> None:
        outcome = self.known[training.key]
        name, key = next(iter(self.study.metrics.items()))
        score = 100 * outcome.metrics.get(key, float("nan"))
        told = f"{training.title}: {name} {score:.1f} after {outcome.minutes:.1f} minutes; {left} left"
        self.console.print(told, soft_wrap=True)

    def found(self) -> OverSeeds:
        """What is known; an arm without a result has no numbers."""
        outcomes = {title: [self.known.get(one.key) for one in arm] for title, arm in self.arms.items()}
        measured = {title: [{} if of is None else of.metrics for of in arm] for title, arm in outcomes.items()}
        curves = {title: [() if of is None else of.curve for of in arm] for title, arm in outcomes.items()}
        return OverSeeds.of(measured, self.study.metrics, curves)

    def rows(self) -> list[dict[str, object]]:
        """A line an arm and seed, for MLflow's table."""
        found = self.found()
        return [
            {"arm": arm, "seed": seed, **dict(zip(found.metrics, values.tolist(), strict=True))}
            for arm, seeds in zip(found.arms, found.values, strict=True)
            for seed, values in enumerate(seeds)
        ]

    def write(self) -> dict[str, object]:
        arms = {title: [one.identity for one in arm] for title, arm in self.arms.items()}
        return write_record(self.results, self.study.name, arms, self.known, command=self.command)

    def conclude(self) -> OverSeeds:
        """The study's files, and the table on the console."""
        self.write()
        found = self.found()
        commits = sorted({self.known[key].commit for key in self.trainings() if key in self.known})
        about = f"{self.study.seeds} seeds; `{self.command}`; trained at commit {', '.join(commits) or '-'}"
        parts = (f"# {self.study.name}", found.markdown(), about, *self.study.verdicts(found))
        text, address = "\n\n".join(parts) + "\n", storage.join(self.results, f"{self.study.name}.md")
        storage.write_bytes(address, text.encode())
        storage.write_bytes(storage.join(self.results, f"{self.study.name}.png"), figure_bytes(sheet(found), dpi=90))
        self.console.print(Text(lines(text)), f"table: {address}", sep="\n", soft_wrap=True)
        return found


def made(trainings: Sequence[Training], child: Child, concurrent: int) -> Iterator[tuple[Training, Result | str]]:
    """Train, so many at a time, each looked after by a process of its own beside this one; each comes as it ends, with
    the reason where it cannot be made. A beginning stands before what goes on from it."""
    waiting, ended = list(trainings), dict[str, Result | str]()
    running: dict[ray.ObjectRef, Training] = {}
    here = {f"node:{ray.util.get_node_ip_address()}": 0.001}
    task = ray.remote(num_cpus=0, resources=here, max_retries=2, retry_exceptions=[storage.Refused])(_make)
    under_way = {training.key for training in trainings}
    while waiting or running:
        for training in [one for one in waiting if one.begin is None or one.begin.key not in under_way]:
            if len(running) < concurrent:
                waiting.remove(training)
                begun = None if training.begin is None else ended.get(training.begin.key) or training.begin.finished()
                running[task.remote(child, training, begun)] = training
        (done,), _ = ray.wait(list(running), num_returns=1)
        training, result = running.pop(done), ray.get(done)
        ended[training.key] = result
        under_way.remove(training.key)
        yield training, result


def _make(child: Child, training: Training, begin: Result | str | None) -> Result | str:
    """Train; in words why it cannot be done, where trying again would not help."""
    if isinstance(begin, str):
        return "its first phases have none"
    try:
        return child(training.experiment, training.title, begin, {"study": child.sweep, "arm": training.title})
    except storage.Refused:
        raise
    except InputError as error:
        return str(error)


def _outcome(training: Training, result: Result) -> Outcome:
    experiment = training.experiment
    curve: tuple[Mapping[str, float], ...] = ()
    if experiment.validation.every is not None:
        measured = on_the_way(RunFolder(uri=result.folder, fingerprint=""), len(experiment.phases) - 1)
        *_, end = measured
        curve = (*(measured.get(epoch, {}) for epoch in range(1, math.ceil(end))), measured[end])
    minutes = result.seconds.get("total", float("nan")) / 60
    return Outcome(metrics=result.validations[-1], minutes=minutes, commit=commit(), curve=curve)

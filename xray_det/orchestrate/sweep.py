"""A sweep: many trainings of one experiment with other values, chosen and cut by Ray Tune, the same after any kill.

SWEEP/experiment.json   the experiment, the space, the rungs, and their fingerprint
SWEEP/trunk-R/          the phases that all arms of a rung share, trained once
SWEEP/ARM/rung-R/       a training, with a run folder of its own
SWEEP/tune/             Ray Tune's record of which arms there are
SWEEP/results.json      a row a training

An arm is a set of values, a rung a complete schedule, short ones first: an arm that is not among the best of a rung
does not get the next one. Arms are looked after by the driver's machine; their workers run anywhere.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import ray
import ray.cloudpickle
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from rich.console import Console

from xray_det import config, storage
from xray_det.data.cluster import connect
from xray_det.errors import InputError
from xray_det.orchestrate import search
from xray_det.orchestrate.experiment import Experiment, prepare
from xray_det.orchestrate.progress import Display, Progress, State
from xray_det.orchestrate.resources import cluster_resources, concurrent_trials
from xray_det.orchestrate.results import ARM, ENDED, RESULTS, Row, read_rows, write_results
from xray_det.orchestrate.run_folder import PROGRESS, TUNE, Result, RunFolder
from xray_det.orchestrate.trainer import train
from xray_det.orchestrate.validation import Validate
from xray_det.tracking.tracker import Tracker
from xray_det.train.evidence import Diverged

logger = logging.getLogger(__name__)

#: Ray Tune's clock: rung R is reported at REDUCTION ** R, where ASHA looks.
CLOCK = "rung_time"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is tried.

    Args:
        experiment: what all arms have in common; its name is the sweep's, its folder the sweep's.
        space: paths into the experiment and their values (search.py).
        rungs: shares of the schedule behind the phases that all arms share, rising to 1: a short complete schedule for
            all arms, then longer ones for the best. (1.0,) trains every arm in full.
        reduction: one in so many arms of a rung gets the next.
        samples: how often lists are gone through, and how many points are drawn where there are none.
    """

    experiment: Experiment
    space: search.Space
    rungs: tuple[float, ...] = (1.0,)
    reduction: int = 3
    samples: int = 1

    def __post_init__(self) -> None:
        search.check(self.experiment, self.space)
        if not self.experiment.data.val:
            raise InputError("data.val", "names no dataset", "Give validation images: arms are told apart by them")
        if list(self.rungs) != sorted(set(self.rungs)) or not self.rungs or self.rungs[0] <= 0 or self.rungs[-1] != 1:
            raise InputError("rungs", f"{list(self.rungs)} do not rise to 1", "Give shares such as 0.25 1")
        for name, least in (("reduction", 2), ("samples", 1)):
            if getattr(self, name) < least:
                raise InputError(name, f"{getattr(self, name)} is less than {least}", f"Give at least {least}")
        lengths = [[p.epochs for p in self.schedule(rung).phases] for rung in range(len(self.rungs))]
        if any(a == b for a, b in pairwise(lengths)):
            raise InputError("rungs", f"two of them have the same epochs, {lengths}", "Give more epochs or fewer rungs")

    @cached_property
    def first(self) -> int:
        """The first phase that differs between arms."""
        return search.first_searched(self.experiment, self.space)

    @property
    def metric(self) -> str:
        return self.experiment.validation.metric

    @property
    def document(self) -> dict[str, Any]:
        """What makes it this sweep, as JSON."""
        return {
            **prepare(self.experiment).document,
            "space": search.described(self.space),
            "rungs": list(self.rungs),
            "reduction": self.reduction,
            "samples": self.samples,
        }

    def schedule(self, rung: int) -> Experiment:
        """The experiment of a rung, before any value is chosen."""
        return search.shortened(self.experiment, self.rungs[rung], self.first)

    def trunk(self) -> Experiment | None:
        """The phases that all arms share."""
        if self.first == 0:
            return None
        phases, out = self.experiment.phases[: self.first], self.experiment.folder
        return replace(self.experiment, name="trunk", phases=phases, out=out)

    def arm(self, values: search.Values) -> str:
        """An arm's name: its values and, for those that print alike, four digits."""
        return f"{search.label(values)} {config.fingerprint(dict(values))[:4]}"

    def training(self, values: search.Values, rung: int) -> Experiment:
        """The training of an arm's rung."""
        return replace(search.chosen(self.schedule(rung), values), name=f"rung-{rung}", out=self.arm_folder(values))

    def arm_folder(self, values: search.Values) -> str:
        return storage.join(self.experiment.folder, self.arm(values).replace(" ", ","))

    def states(self) -> dict[str, State]:
        """How far each training that has begun is."""
        states: dict[str, State] = {}
        for row in self.rows():
            if row.score is None:
                states |= Progress(storage.join(row.folder, PROGRESS)).named(f"{row.arm}, {row.share:g}")
        return states

    def rows(self) -> tuple[Row, ...]:
        """What the trainings so far came to."""
        return read_rows(self.experiment.folder, self.rungs, self.metric)


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep found: a row a training, the best first, and where it all is."""

    folder: str
    rows: tuple[Row, ...]

    @property
    def best(self) -> Row:
        return self.rows[0]


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What an arm is given, on its way to Ray Tune's process for it."""

    sweep: Sweep
    trunk: Result | None
    validate: Validate | None
    tracking: str | None
    mlflow_experiment: str
    trials: int
    gpus_per_worker: float

    def run(self, values: search.Values, rung: int) -> Result:
        """Train, tracked as a child of the sweep's run."""
        experiment = self.sweep.training(values, rung)
        share = self.sweep.rungs[rung]
        name = self.sweep.arm(values) + ("" if share == 1 else f", {share:g} of the schedule")
        with Tracker(
            experiment.folder,
            experiment=self.mlflow_experiment,
            name=name,
            uri=self.tracking,
            parent_folder=self.sweep.experiment.folder,
            system_metrics_s=0,
        ) as tracker:
            tracker.tags({"sweep": self.sweep.experiment.name, "arm": self.sweep.arm(values), "rung": f"{share:g}"})
            return train(
                experiment,
                tracker=tracker,
                validate=self.validate,
                begin=self.trunk,
                trials=self.trials,
                gpus_per_worker=self.gpus_per_worker,
                console=Console(quiet=True),
            )


def sweep(
    plan: Sweep,
    *,
    searcher: Searcher | None = None,
    validate: Validate | None = None,
    tracking: str | None = None,
    mlflow_experiment: str = "sweep",
    max_concurrent: int | None = None,
    gpus_per_worker: float = 1.0,
    console: Console | None = None,
) -> Swept:
    """Run a sweep, or go on with one that was stopped, or return what it found.

    Args:
        searcher: chooses the values instead of going through lists, for example Ray Tune's OptunaSearch.
        validate: as for ``train``.
        tracking: address of MLflow. The sweep is a run with a child a training.
        max_concurrent: arms side by side; None: as many as the cluster has room for.
        gpus_per_worker: a fraction lets arms share a GPU.

    Raises:
        InputError: the sweep cannot run, or its folder holds another one; the message names the differences.
    """
    plan = replace(plan, experiment=plan.experiment.absolute())
    folder = RunFolder.open(plan.experiment.folder, plan.document)
    if storage.exists(folder.path(RESULTS)):
        return Swept(folder=folder.uri, rows=plan.rows())
    connect()
    with Tracker(folder.uri, experiment=mlflow_experiment, name=plan.experiment.name, uri=tracking) as tracker:
        tracker.config(plan.document)
        tracker.tags({"sweep": plan.experiment.name})
        room = concurrent_trials(
            plan.experiment.workers, plan.experiment.device, cluster_resources(), gpus_per_worker=gpus_per_worker
        )
        concurrent = min(max_concurrent or room, room)
        errand = Errand(
            sweep=plan,
            trunk=_trunk(plan, validate, tracking, mlflow_experiment, console),
            validate=validate,
            tracking=tracker.uri,
            mlflow_experiment=mlflow_experiment,
            trials=concurrent,
            gpus_per_worker=gpus_per_worker,
        )
        with Display(plan.states, plan.experiment.name, console=console, every_s=2.0, lines_s=60.0):
            _tune(errand, folder, _arms(errand), search.to_tune(plan.space), _scheduler(plan), searcher, concurrent)
        rows = plan.rows()
        if all(row.score in (None, float("-inf")) for row in rows):
            raise InputError(folder.uri, f"no arm has a result: {rows[0].reason}", "Mend it and remove the folder")
        write_results(folder.uri, rows, tracker, plan.metric)
    return Swept(folder=folder.uri, rows=rows)


def _trunk(
    plan: Sweep, validate: Validate | None, tracking: str | None, mlflow_experiment: str, console: Console | None
) -> Result | None:
    """Train what all arms share, with the whole cluster."""
    trunk = plan.trunk()
    if trunk is None:
        return None
    parent = plan.experiment.folder
    with Tracker(
        trunk.folder, experiment=mlflow_experiment, name="trunk", uri=tracking, parent_folder=parent, system_metrics_s=0
    ) as tracker:
        tracker.tags({"sweep": plan.experiment.name, "arm": "trunk"})
        return train(trunk, tracker=tracker, validate=validate, console=console)


def _arms(errand: Errand) -> Callable[[dict[str, Any]], None]:
    """What Ray Tune runs for an arm, in a process of its own."""
    pickled = ray.cloudpickle.dumps(errand)

    def arm(values: dict[str, Any]) -> None:
        climb(ray.cloudpickle.loads(pickled), values)

    return arm


def climb(errand: Errand, values: search.Values) -> None:
    """An arm's rungs, one after another, each told to Ray Tune, which stops the arm where others are better."""
    plan = errand.sweep
    storage.write_json(storage.join(plan.arm_folder(values), ARM), {"name": plan.arm(values), "values": dict(values)})
    for rung in range(len(plan.rungs)):
        clock = float(plan.reduction**rung)
        try:
            found = errand.run(values, rung).validations[-1]
        except (Diverged, InputError) as error:  # trying again would not help; other arms go on
            plan_folder = plan.training(values, rung).folder
            logger.warning("%s ended: %s", plan_folder, error)
            storage.write_json(storage.join(plan_folder, ENDED), {"reason": str(error)})
            tune.report({plan.metric: float("-inf"), CLOCK: clock})
            return
        tune.report({plan.metric: _score(found, plan.metric), CLOCK: clock})


def _score(found: Mapping[str, float], metric: str) -> float:
    if metric not in found:
        raise InputError("validation.metric", f"{metric!r} was not measured", f"Give one of {', '.join(found)}")
    return found[metric]


class Rungs(ASHAScheduler):
    """ASHA that knows what was measured before a restart: Ray Tune restores arms, not the scheduler's memory."""

    def __init__(self, plan: Sweep) -> None:
        super().__init__(
            time_attr=CLOCK,
            max_t=plan.reduction ** (len(plan.rungs) - 1),
            grace_period=1,
            reduction_factor=plan.reduction,
        )
        self._plan = plan

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        bracket = self._trial_info[trial.trial_id]
        for row in self._plan.rows():
            if row.arm == self._plan.arm(trial.config) and row.score is not None:
                bracket.on_result(trial, self._plan.reduction**row.rung, row.score)


def _scheduler(plan: Sweep) -> TrialScheduler:
    return Rungs(plan) if len(plan.rungs) > 1 else FIFOScheduler()


def _tune(
    errand: Errand,
    folder: RunFolder,
    trainable: Callable[[dict[str, Any]], None],
    space: dict[str, Any],
    scheduler: TrialScheduler,
    searcher: Searcher | None,
    concurrent: int,
) -> None:
    plan = errand.sweep
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # ours go to MLflow
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the old output can be silent
    here = f"node:{ray.util.get_node_ip_address()}"  # beside the driver, whatever CPUs its machine offers
    trainable = tune.with_resources(trainable, {here: 0.001})
    address = folder.path(TUNE)
    if tune.Tuner.can_restore(address):
        try:
            tuner = tune.Tuner.restore(
                address, trainable=trainable, param_space=space, resume_unfinished=True, resume_errored=True
            )
        except Exception as error:  # cut off as it was written; the run folders know what is finished
            logger.warning("%s cannot be read (%s): the arms are gone through again", address, error)
            tuner = None
    else:
        tuner = None
    if tuner is None:
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=plan.metric,
                mode="max",
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=plan.samples,
                max_concurrent_trials=concurrent,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=TUNE, storage_path=folder.uri, verbose=0, failure_config=tune.FailureConfig(max_failures=2)
            ),
        )
    tuner.fit()
    errors = tuner.get_results().errors
    if errors:
        raise errors[0]

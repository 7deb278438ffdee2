"""A sweep: many trainings of one experiment, chosen and cut by Ray Tune, the same after any kill.

SWEEP/experiment.json     the experiment, the space, and their fingerprint
SWEEP/trunk/              the phases that all trainings share, trained once
SWEEP/ARM/TRAINING/       a training, with a run folder of its own
SWEEP/tune/               Ray Tune's record of which there are
SWEEP/results.json        a row a training

Trainings are looked after by the driver's machine; their workers run anywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray.cloudpickle
from rich.console import Console

from xray_det import display, storage
from xray_det.data.cluster import connect
from xray_det.display import terminal
from xray_det.errors import InputError
from xray_det.orchestrate.experiment import Experiment
from xray_det.orchestrate.plan import Plan, Round
from xray_det.orchestrate.preflight import preflight, require
from xray_det.orchestrate.progress import Display
from xray_det.orchestrate.resources import Share, cluster_resources, concurrent_trials
from xray_det.orchestrate.results import RESULTS, Row
from xray_det.orchestrate.run_folder import TUNE, Result, RunFolder
from xray_det.orchestrate.sweep_figures import figures
from xray_det.orchestrate.trainer import allot, train
from xray_det.orchestrate.tuner import run_tuner
from xray_det.orchestrate.validation import Validate
from xray_det.tracking.resend import send_left
from xray_det.tracking.tracker import Tracker

logger = display.logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep found: a row a training, the best first, and where it all is."""

    folder: str
    rows: tuple[Row, ...]

    @property
    def best(self) -> Row:
        return self.rows[0]


@dataclass(frozen=True, kw_only=True)
class Child:
    """Trains as a child of the sweep's run; travels to the processes that look after a training."""

    sweep: str
    folder: str
    validate: Validate | None
    tracking: str | None
    mlflow_experiment: str
    allotted: Share

    def __call__(self, experiment: Experiment, name: str, begin: Result | None, tags: Mapping[str, str]) -> Result:
        return self.train(experiment, name, begin, tags, terminal(quiet=True))

    def train(
        self,
        experiment: Experiment,
        name: str,
        begin: Result | None,
        tags: Mapping[str, str],
        console: Console | None,
    ) -> Result:
        with Tracker(
            experiment.folder,
            experiment=self.mlflow_experiment,
            name=name,
            uri=self.tracking,
            parent_folder=self.folder,
            system_metrics_s=0,
        ) as tracker:
            tracker.tags({"sweep": self.sweep, **tags})
            return train(
                experiment,
                tracker=tracker,
                validate=self.validate,
                begin=begin,
                allotted=self.allotted,
                console=console,
            )


def sweep(
    plan: Plan,
    *,
    validate: Validate | None = None,
    tracking: str | None = None,
    mlflow_experiment: str = "sweep",
    max_concurrent: int | None = None,
    gpus_per_worker: float = 1.0,
    console: Console | None = None,
) -> Swept:
    """Run a sweep, or go on with one that was stopped, or return what it found.

    Args:
        validate: as for ``train``.
        tracking: address of MLflow. The sweep is a run with a child a training.
        max_concurrent: trainings side by side; None: as many as the cluster has room for.
        gpus_per_worker: a fraction lets trainings share a GPU.

    Raises:
        InputError: the sweep cannot run, or its folder holds another one; the message names the differences.
    """
    plan = replace(plan, experiment=plan.experiment.absolute())
    experiment = plan.experiment
    folder = RunFolder.open(experiment.folder, plan.document)
    if storage.exists(folder.path(RESULTS)):
        return Swept(folder=folder.uri, rows=plan.rows())
    connect(include_dashboard=True)
    with Tracker(folder.uri, experiment=mlflow_experiment, name=experiment.name, uri=tracking) as tracker:
        tracker.config(plan.document)
        tracker.tags({"sweep": experiment.name})
        concurrent, allotted = side_by_side(experiment, max_concurrent, gpus_per_worker)
        child = Child(
            sweep=experiment.name,
            folder=folder.uri,
            validate=validate,
            tracking=tracker.uri,
            mlflow_experiment=mlflow_experiment,
            allotted=allotted,
        )
        trunk, begun = plan.trunk(), None
        if trunk is not None:  # with the whole cluster
            alone = allot(experiment, validated=True, gpus_per_worker=gpus_per_worker)
            begun = replace(child, allotted=alone).train(trunk, "trunk", None, {"arm": "trunk"}, console)
        with Display(plan.states, experiment.name, console=console, every_s=2.0, lines_s=60.0):
            for one in plan.rounds(concurrent):
                address = storage.join(folder.path(TUNE), one.name)
                run_tuner(address, _trial(one, child, begun), one.drawn_from, one.settings, concurrent)
        rows = plan.rows()
        if all(row.score in (None, float("-inf")) for row in rows):
            raise InputError(folder.uri, f"nothing has a result: {rows[0].reason}", "Mend it and remove the folder")
        _write_results(folder.uri, rows, tracker, plan.metric)
        # a training does not wait long for MLflow at its end; a sweep goes on for hours, and MLflow may be back
        ended = [*([begun.folder] if begun is not None else []), *(row.folder for row in rows)]
        if waiting := send_left(ended, tracker.uri):
            command = f"python -m xray_det.tracking.resend {' '.join(waiting)}"
            logger.warning("MLflow has not all of %d runs. Send it with: %s", len(waiting), command)
    return Swept(folder=folder.uri, rows=rows)


def side_by_side(
    experiment: Experiment, max_concurrent: int | None = None, gpus_per_worker: float = 1.0
) -> tuple[int, Share]:
    """How many such trainings run at the same time, and what each gets of the cluster; on several nodes the preflight
    is run first. Counted once: a node that is lost later is waited for.

    Args:
        max_concurrent: at most so many; None: as many as there is room for.

    Raises:
        InputError: the cluster has too little for one, or a node lacks what a training needs.
    """
    cluster = cluster_resources()
    room = concurrent_trials(experiment.workers, experiment.device, cluster, gpus_per_worker=gpus_per_worker)
    concurrent = min(max_concurrent or room, room)
    if len(cluster.nodes) > 1:
        require(preflight(experiment, tracking="off", trials=concurrent, gpus_per_worker=gpus_per_worker))
    return concurrent, allot(experiment, validated=True, trials=concurrent, gpus_per_worker=gpus_per_worker)


def _write_results(folder: str, rows: Sequence[Row], tracker: Tracker, metric: str) -> None:
    """The sweep's run gets the table, the figures, and the numbers of the best arm."""
    tracker.table("results", [row.flat for row in rows])
    for name, figure in figures(rows, metric).items():
        tracker.figure(f"{name}.png", figure)
    best = rows[0]
    tracker.log(best.metrics, step=len(rows))
    tracker.tags({"best.arm": best.arm, "weights.best": best.weights})
    storage.write_json(storage.join(folder, RESULTS), [row.flat for row in rows])


def _trial(of: Round, child: Child, trunk: Result | None) -> Callable[[dict[str, Any]], None]:
    """What Ray Tune runs for a choice of values; pickled here, since its registry is read by processes that need not
    import what ``validate`` comes from."""
    pickled = ray.cloudpickle.dumps((of.trial, child, trunk))

    def trial(values: dict[str, Any]) -> None:
        chosen, run, begun = ray.cloudpickle.loads(pickled)
        chosen(run, begun, values)

    return trial

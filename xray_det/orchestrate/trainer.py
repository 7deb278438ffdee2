"""Train an experiment on a Ray cluster: one ``fit()`` through all phases, resumed wherever it was stopped."""

import os
import time
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow.fs as pafs
import ray
import ray.cloudpickle
import ray.train
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, ValidationConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback
from rich.console import Console

from xray_det import display, storage
from xray_det.data.cluster import connect, is_bare
from xray_det.errors import InputError
from xray_det.orchestrate.class_statistics import class_statistics
from xray_det.orchestrate.experiment import Experiment, Prepared, prepare
from xray_det.orchestrate.preflight import preflight, require
from xray_det.orchestrate.progress import Display, Progress
from xray_det.orchestrate.resources import WORKER_CPUS, Share, cluster_resources, share
from xray_det.orchestrate.run_folder import CHECKPOINTS, PROGRESS, Result, RunFolder
from xray_det.orchestrate.validation import SCORE, Measuring, Validate, measure_experiment, read_measured
from xray_det.orchestrate.worker import OUTCOME, Assignment, work
from xray_det.tracking.tracker import Tracker
from xray_det.train.evidence import Diverged

logger = display.logger(__name__)

#: How long workers may wait for machines, an autoscaler's (a GPU machine and the image take minutes) or others in place
#: of those that were lost. By Ray's default four waits of 60 s fail a training.
NODES_S = "1800"


def train(
    experiment: Experiment,
    *,
    tracker: Tracker | None = None,
    validate: Validate | None = None,
    begin: Result | None = None,
    allotted: Share | None = None,
    max_failures: int = 10,
    console: Console | None = None,
) -> Result:
    """Train, or go on with a training that was stopped, or return the result of one that has finished.

    The run's folder (``experiment.folder``) holds all that a later call needs: call again with the same experiment
    after whatever happened. Ray is started on this machine unless the caller is connected to a cluster.

    Args:
        tracker: of the run; parameters and datasets are written to it here, curves by rank 0. None: the curves go to
            the run folder's journal alone.
        validate: what measures a checkpoint, an importable function or one that Ray can pickle; None:
            ``measure_experiment`` where there is ``data.val``.
        begin: a finished run that made the first phases of this experiment: they are not made again.
        allotted: what it gets of the cluster, where several trainings share it; nodes that are away are waited for.
            None: what ``allot`` finds, and on several nodes the preflight is run first.
        max_failures: times that workers are started anew after one died; a machine that was taken away is not counted.
        console: where progress is shown; None for nowhere.

    Raises:
        InputError: the experiment cannot run: data, classes, resources, or another run of its name.
        Diverged: the loss was not finite; the message says where the evidence lies.
        ray.train.TrainingFailedError: workers kept failing.
    """
    began = time.time()
    experiment = experiment.absolute()
    prepared = prepare(experiment)
    folder = RunFolder.open(experiment.folder, prepared.document)
    result = folder.finished()
    if result is not None:
        remove_spent(folder, experiment)  # a kill may have come between
        return result
    experiment.built()  # a start that cannot be is told before workers run
    if console is not None and prepared.unified.merged:
        console.print("one class by their aliases:", *prepared.unified.merged, sep="\n  ", soft_wrap=True)
    connect()
    if validate is None and experiment.data.val:
        validate = partial(measure_experiment, experiment=experiment)
    if allotted is None:
        if len(cluster_resources().nodes) > 1:
            require(preflight(experiment, tracking="off"))
        allotted = allot(experiment, validated=validate is not None)
    if allotted.waits:
        logger.warning("%s", allotted.waits)
    if allotted.waits or allotted.min_workers == allotted.workers:  # else fewer workers are tried
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", NODES_S)
    experiment = replace(experiment, device=allotted.device)
    if tracker is not None:
        _describe(tracker, prepared)
    folder.clear_failure()
    mend_record(folder)
    assignment = Assignment(
        experiment=experiment,
        run=folder,
        allotted=allotted,
        begin=_begin(experiment, begin),
        validate=validate is not None,
        statistics=class_statistics(prepared),
    )
    measuring = _measuring(assignment, validate)
    trainer = _trainer(assignment, allotted, measuring, max_failures)
    fit = time.time()
    progress = Progress(folder.path(PROGRESS))
    with Display(lambda: progress.named(experiment.name), experiment.name, console=console):
        fitted = trainer.fit()
    outcome: dict[str, Any] = fitted.return_value or {}
    failure = outcome.get("failed")
    if failure is not None:
        raise _raised(failure)
    if measuring is not None:
        _measure_what_is_missing(measuring, experiment, first=len(begin.phases) if begin is not None else 0)
    result = _result(assignment, outcome, begin, allotted, _seconds(began, fit, outcome["marks"]))
    folder.finish(result)
    remove_spent(folder, experiment)
    if tracker is not None:
        tracker.tags({"weights.last": result.weights, **({"weights.best": result.best} if result.best else {})})
        tracker.log({f"cost/{name}": value for name, value in result.cost.items()}, step=result.steps)
    return result


def allot(experiment: Experiment, *, validated: bool, trials: int = 1, gpus_per_worker: float = 1.0) -> Share:
    """What each of so many trainings gets of the cluster.

    Raises:
        InputError: it has too little.
    """
    return share(
        experiment.workers,
        experiment.min_workers,
        experiment.device,
        cluster_resources(),
        gpus_per_worker=gpus_per_worker,
        validation_cpus=1.0 if validated else 0.0,
        trials=trials,
    )


def _begin(experiment: Experiment, begin: Result | None) -> str | None:
    """The checkpoint of the other run's last phase."""
    if begin is None:
        return None
    if len(begin.phases) >= len(experiment.phases):
        problem = f"has made {len(begin.phases)} phases; the experiment has {len(experiment.phases)}"
        raise InputError(begin.folder, problem, "Begin with a run of fewer phases")
    return storage.join(begin.folder, "phases", str(len(begin.phases) - 1))


def _seconds(began: float, fit: float, marks: dict[str, float]) -> dict[str, float]:
    """How long the attempt took from station to station, and in all."""
    stations = {"prepare": fit, **marks}
    seconds: dict[str, float] = {}
    before = began
    for name in ("prepare", "workers", "model", "first_batch", "first_step"):
        if name in stations:
            seconds[name] = stations[name] - before
            before = stations[name]
    return {**seconds, "total": time.time() - began}


def _measuring(assignment: Assignment, validate: Validate | None) -> Measuring | None:
    if validate is None:
        return None
    experiment, pickled = assignment.experiment, ray.cloudpickle.dumps(validate)
    averaged, metric = experiment.ema is not None, experiment.validation.metric
    return Measuring(run=assignment.run, validate=pickled, averaged=averaged, metric=metric)


def _measure_what_is_missing(measuring: Measuring, experiment: Experiment, first: int) -> None:
    """Phases' ends whose validation failed, or was forgotten with a record that was cut off. Here it may raise."""
    for number in range(first, len(experiment.phases)):
        if not storage.exists(measuring.run.validation(number)):
            end = storage.read_json(storage.join(measuring.run.phase(number), OUTCOME))
            measuring(None, phase=number, epoch=end["epoch"], step=end["steps"], ended=True)


class _Trainer(TorchTrainer):
    """Without Ray Train's placement group cleaner where Ray ends with this process: it has nothing to free, and without
    a dashboard it warns every second that it knows nothing."""

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        callbacks = super()._create_default_callbacks()
        return [one for one in callbacks if not (is_bare() and isinstance(one, PlacementGroupCleanerCallback))]


def _trainer(assignment: Assignment, allotted: Share, measuring: Measuring | None, max_failures: int) -> TorchTrainer:
    experiment = assignment.experiment
    fs, path = storage.locate(assignment.run.uri)
    score, validation, elastic = {}, None, allotted.min_workers < allotted.workers
    if measuring is not None:
        # The task itself only waits for others: what computes asks for CPUs of its own.
        validation = ValidationConfig(fn=measuring, ray_remote_kwargs={"num_cpus": 0, "max_retries": 2})
        score = {"checkpoint_score_attribute": SCORE}
    return _Trainer(
        work,
        train_loop_config={"assignment": ray.cloudpickle.dumps(assignment)},
        scaling_config=ScalingConfig(
            num_workers=(allotted.min_workers, allotted.workers) if elastic else allotted.workers,
            use_gpu=allotted.device == "cuda",
            resources_per_worker={
                "CPU": WORKER_CPUS,
                **({"GPU": allotted.gpus_per_worker} if allotted.device == "cuda" else {}),
            },
        ),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=path,
            storage_filesystem=fs,
            # a process group that cannot be set up would be tried for ever by default
            failure_config=FailureConfig(max_failures=max_failures, controller_failure_limit=3),
            # a phase's end is kept by the worker in phases/N; Ray keeps the newest whatever its score
            checkpoint_config=CheckpointConfig(num_to_keep=experiment.validation.keep if score else 2, **score),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
        validation_config=validation,
    )


def _result(
    assignment: Assignment, outcome: dict[str, Any], begin: Result | None, allotted: Share, seconds: dict[str, float]
) -> Result:
    experiment, folder = assignment.experiment, assignment.run
    averaged = experiment.ema is not None
    first = len(begin.phases) if begin is not None else 0
    own = range(first, len(experiment.phases))
    ends = [read_measured(folder.validation(phase)) for phase in own]
    found = tuple({} if measured is None else dict(measured.metrics) for measured in ends)
    hours = outcome["worker_hours"]
    return Result(
        folder=folder.uri,
        weights=folder.weights(len(experiment.phases) - 1, averaged=averaged),
        phases=(*(begin.phases if begin else ()), *(folder.weights(phase, averaged=averaged) for phase in own)),
        best=next(iter(measured_weights(folder, experiment)), ""),
        steps=outcome["steps"],
        metrics=outcome["metrics"],
        validations=(*(begin.validations if begin else ()), *found),
        cost={
            "cpu_hours": hours * (WORKER_CPUS + allotted.data_cpus),
            "gpu_hours": hours * allotted.gpus_per_worker,
        },
        seconds=seconds,
    )


def measured_weights(folder: RunFolder, experiment: Experiment) -> list[str]:
    """The weights folders that have a validation's score and are still there, the best first."""
    averaged, metric = experiment.ema is not None, experiment.validation.metric
    candidates = []
    for address in folder.validations():
        value = storage.read_json(address)
        weights = folder.weights(value["phase"], averaged=averaged)
        if address != folder.validation(value["phase"]):
            weights = folder.checkpoint(value["step"], averaged=averaged)
        score = value["metrics"].get(metric)
        if score is not None and storage.exists(weights):
            candidates.append((score, value["step"], weights))
    return [weights for _, _, weights in sorted(candidates, reverse=True)]


def remove_spent(folder: RunFolder, experiment: Experiment) -> None:
    """Remove a finished run's checkpoints, but those of the ``validation.keep`` best that lie within a phase.

    A phase's end lies in ``phases/`` for good, and nothing goes on from the others, among them those that Ray does not
    know: uploaded by a worker that was killed before it could report them.
    """
    fs, path = storage.locate(folder.path(CHECKPOINTS))
    found = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    there = [info for info in found if info.type == pafs.FileType.Directory and info.base_name.startswith("step-")]
    if there:
        best = measured_weights(folder, experiment)[: experiment.validation.keep]
        kept = {weights.rsplit("/", 2)[1] for weights in best}
        for info in there:
            if info.base_name not in kept:
                fs.delete_dir(info.path)


def mend_record(folder: RunFolder) -> None:
    """Remove Ray's record of checkpoints if a kill cut it off as it was written; ours points to the newest one."""
    address = folder.path(CHECKPOINTS, "checkpoint_manager_snapshot.json")
    if storage.exists(address):
        try:
            storage.read_json(address)
        except InputError:
            logger.warning("%s was cut off as it was written; resuming by %s", address, folder.path("latest.json"))
            fs, path = storage.locate(address)
            fs.delete_file(path)
    fs, path = storage.locate(folder.path(CHECKPOINTS))
    if fs.get_file_info(path).type == pafs.FileType.NotFound:
        fs.create_dir(path, recursive=True)


def _describe(tracker: Tracker, prepared: Prepared) -> None:
    tracker.config(prepared.document)
    sets = [(m, "training") for m in prepared.train] + [(m, "validation") for m in prepared.val]
    tracker.inputs([{"name": m.name, "digest": m.fingerprint, "source": m.folder, "context": use} for m, use in sets])


def _raised(failure: dict[str, str]) -> Exception:
    if failure["kind"] == "Diverged":
        return Diverged(failure["folder"], failure["step"])
    return InputError(failure["where"], failure["problem"], failure["remedy"])

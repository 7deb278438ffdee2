"""Train an experiment on a Ray cluster: one ``fit()`` through all phases, resumed wherever it was stopped."""

import logging
import time
from dataclasses import replace
from typing import Any

import pyarrow.fs as pafs
import ray
import ray.cloudpickle
import ray.train
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from rich.console import Console

from xray_det import storage
from xray_det.data.cluster import connect
from xray_det.errors import InputError
from xray_det.orchestrate.experiment import Experiment, Prepared, prepare
from xray_det.orchestrate.progress import Display, Progress
from xray_det.orchestrate.run_folder import PROGRESS, Result, RunFolder
from xray_det.orchestrate.validation import Validate
from xray_det.orchestrate.worker import Assignment, work
from xray_det.tracking.tracker import Tracker
from xray_det.train.evidence import Diverged

logger = logging.getLogger(__name__)

#: A worker asks for a little less than a CPU, so that some is left for Ray Data on a machine as small as the world.
WORKER_CPUS = 0.9
#: Ray's name of the run below the run's folder; its checkpoints lie there.
CHECKPOINTS = "checkpoints"


def train(
    experiment: Experiment,
    *,
    tracker: Tracker | None = None,
    validate: Validate | None = None,
    cpus: float | None = None,
    max_failures: int = 10,
    console: Console | None = None,
) -> Result:
    """Train, or go on with a training that was stopped, or return the result of one that has finished.

    The run's folder (``experiment.folder``) holds all that a later call needs: call again with the same experiment
    after whatever happened. Ray is started on this machine unless the caller is connected to a cluster.

    Args:
        tracker: of the run; parameters and datasets are written to it here, curves by rank 0. None: the curves go to
            the run folder's journal alone.
        validate: weights folder -> metrics, run beside the training at the end of each phase; an importable function
            or one that Ray can pickle.
        cpus: how many of the cluster's CPUs the run may use, None for all.
        max_failures: times that workers are started anew after one died.
        console: where progress is shown.

    Raises:
        InputError: the experiment cannot run: data, classes, resources, or another run of its name.
        Diverged: the loss was not finite; the message says where the evidence lies.
        ray.train.TrainingFailedError: workers kept failing.
    """
    began = time.time()
    experiment = experiment.absolute()
    if experiment.device == "auto":
        experiment = replace(experiment, device=_device(experiment))
    prepared = prepare(experiment)
    folder = RunFolder.open(experiment.folder, prepared.document)
    result = folder.finished()
    if result is not None:
        return result
    connect()
    data_cpus = _data_cpus(experiment, cpus)
    if tracker is not None:
        _describe(tracker, prepared)
    folder.clear_failure()
    mend_record(folder)
    assignment = Assignment(experiment=experiment, run=folder, data_cpus=data_cpus, validate=validate)
    trainer = _trainer(assignment, max_failures)
    fit = time.time()
    with Display(Progress(folder.path(PROGRESS)), experiment.name, console=console):
        fitted = trainer.fit()
    outcome: dict[str, Any] = fitted.return_value or {}
    failure = outcome.get("failed")
    if failure is not None:
        raise _raised(failure)
    last = len(experiment.phases) - 1
    averaged = experiment.ema is not None
    result = Result(
        folder=folder.uri,
        weights=folder.weights(last, averaged=averaged),
        phases=tuple(folder.weights(phase, averaged=averaged) for phase in range(last + 1)),
        steps=outcome["steps"],
        metrics=outcome["metrics"],
        validations=tuple(outcome.get("validations", ())),
        seconds=_seconds(began, fit, outcome["marks"]),
    )
    folder.finish(result)
    return result


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


def _device(experiment: Experiment) -> Any:
    connect()
    return "cuda" if ray.cluster_resources().get("GPU", 0) >= experiment.workers else "cpu"


def _data_cpus(experiment: Experiment, cpus: float | None) -> float:
    """CPUs a worker may spend on data tasks: its share of what the workers themselves leave."""
    cluster = ray.cluster_resources()
    gpus = cluster.get("GPU", 0)
    if experiment.device == "cuda" and gpus < experiment.workers:
        raise InputError(
            "workers",
            f"{experiment.workers} GPU workers on a cluster of {gpus:g} GPUs would wait for ever",
            "Lower workers, set device cpu, or use a larger cluster",
        )
    there = cluster.get("CPU", 0.0)
    allowed = min(there, cpus) if cpus is not None else there
    left = allowed - experiment.workers * WORKER_CPUS
    if left < 0.01 * experiment.workers:
        raise InputError(
            "workers",
            f"{experiment.workers} and their data tasks need more than {allowed:g} CPUs and would wait for ever",
            f"Use at most {int(allowed / (WORKER_CPUS + 0.01))} workers, or a larger cluster",
        )
    # Ray counts CPUs in ten-thousandths; a share that rounds up would add to more than there is.
    return int(left / experiment.workers * 1000) / 1000


def _trainer(assignment: Assignment, max_failures: int) -> TorchTrainer:
    experiment = assignment.experiment
    cuda = experiment.device == "cuda"
    return TorchTrainer(
        work,
        train_loop_config={"assignment": ray.cloudpickle.dumps(assignment)},
        scaling_config=ScalingConfig(
            num_workers=experiment.workers,
            use_gpu=cuda,
            resources_per_worker={"CPU": WORKER_CPUS, **({"GPU": 1} if cuda else {})},
        ),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=assignment.run.uri,
            # a process group that cannot be set up would be tried for ever by default
            failure_config=FailureConfig(max_failures=max_failures, controller_failure_limit=3),
            # a phase's end is kept by the worker in phases/N; here only what a restart needs
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


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
        return Diverged(failure["folder"], failure["problem"])
    return InputError(failure["where"], failure["problem"], failure["remedy"])

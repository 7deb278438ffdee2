"""One training worker under Ray Train: the context that the training loop is given.

Rank 0 writes a checkpoint and trains on while it is uploaded; Ray Train starts a killed worker anew, which goes on from
the newest one that is whole. Which images come next and what they look like follows from the position in it alone.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray.cloudpickle
import ray.data
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointUploadMode, ValidationTaskConfig
from ray.train.collective import broadcast_from_rank_zero

from xray_det import display, storage
from xray_det.data.batch import Batch
from xray_det.data.loader import RayData
from xray_det.errors import InputError
from xray_det.labels.statistics import ClassStatistics
from xray_det.models.predictions import Detector
from xray_det.models.weights import save_detector, transfer_from
from xray_det.orchestrate.experiment import Experiment, Prepared, read_in
from xray_det.orchestrate.progress import Progress
from xray_det.orchestrate.resources import Share, cluster_resources
from xray_det.orchestrate.run_folder import CHECKPOINTS, LATEST, PROGRESS, RunFolder, checkpoint_name
from xray_det.orchestrate.validation import SCORE, UNMEASURED
from xray_det.tracking.journal import Journal
from xray_det.train.checkpoint import SaveWeights
from xray_det.train.context import Position
from xray_det.train.evidence import Diverged
from xray_det.train.loop import run

logger = display.logger(__name__)


#: In a checkpoint: what the training has come to, beside its position.
OUTCOME = "outcome.json"


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What the driver gives each worker.

    Attributes:
        experiment: resolved, with absolute addresses.
        allotted: what the training gets of the cluster.
        begin: checkpoint of another run to begin with, whose phases are the first of this one; None: from the start.
        validate: checkpoints are measured.
        statistics: of the training data, where the classification loss needs them.
    """

    experiment: Experiment
    run: RunFolder
    allotted: Share
    begin: str | None = None
    validate: bool = False
    statistics: ClassStatistics | None = None


def work(given: Mapping[str, bytes]) -> dict[str, Any]:
    """The function that Ray Train runs on every worker.

    Args:
        given: the worker's Assignment, pickled, under ``assignment``. Ray hands the mapping to other processes too,
            which need not import what it holds.

    Returns:
        steps, metrics and ``worker_hours`` of a training that came to its end, and ``marks``, the times at which this
        attempt reached its stations; ``failed`` says why it cannot. What a restart cannot mend is not raised, or Ray
        would try it again and again.
    """
    marks = {"workers": time.time()}
    assignment: Assignment = ray.cloudpickle.loads(given["assignment"])
    _be_quiet()
    torch.set_num_threads(assignment.experiment.threads)
    failure = assignment.run.failure()
    if failure is not None:  # of the attempt before this one, on whichever rank
        return {"failed": failure}
    try:
        prepared = read_in(assignment.experiment)
        detector = build_detector(prepared, assignment)
        marks["model"] = time.time()
        with RayContext(assignment, prepared, marks) as context:
            run(context, prepared.recipe, detector, weight_saver(prepared))
            return context.outcome()
    except Diverged as error:  # on every rank alike
        return {"failed": {"kind": "Diverged", "folder": error.folder, "step": error.step}}
    except storage.Refused:  # passes
        raise
    except InputError as error:
        assignment.run.fail("InputError", where=error.where, problem=error.problem, remedy=error.remedy)
        raise


def _be_quiet() -> None:
    """A bar a chunk and rank, and a line a report, would bury everything else; also on a cluster of the user's own."""
    logging.disable(logging.INFO)  # Ray Train's loggers bear paths of files: there is no name to set a level by
    ray.data.DataContext.get_current().enable_progress_bars = False


def build_detector(prepared: Prepared, assignment: Assignment) -> Detector:
    """The detector at its start. Rank 0 goes first, so that a download of weights happens once a machine of one rank,
    and writes what became of each key to the run's folder."""
    experiment = prepared.experiment
    context = ray.train.get_context()
    first = context.get_local_rank() == 0
    for turn in (True, False):
        if turn == first:
            torch.manual_seed(experiment.seed)
            detector: Detector = experiment.built().build(len(prepared.space), assignment.statistics)
            reports = [detector.loaded] if detector.loaded else []
            if experiment.start_from is not None:
                start, space = experiment.start_from, prepared.space
                reports.append(transfer_from(detector, start, space, partial=experiment.start_partial))
        if context.get_world_size() > 1:
            dist.barrier()
    if reports and context.get_world_rank() == 0:
        lines = [line for report in reports for line in report.lines()]
        storage.write_bytes(assignment.run.path("loaded_weights.txt"), "\n".join(lines).encode())
    return detector


def weight_saver(prepared: Prepared) -> SaveWeights:
    """Writes a model with all that is needed to use it: classes, the resolved experiment, the preparation of images."""
    experiment = prepared.document["experiment"]
    return partial(_save, space=prepared.space, experiment=experiment, preprocessor=prepared.preprocessor)


def _save(model: torch.nn.Module, folder: Path, **about: Any) -> None:
    assert isinstance(model, Detector)
    save_detector(folder, model, **about)


class RayContext:
    """``train.context.Context`` by Ray Train."""

    def __init__(self, assignment: Assignment, prepared: Prepared, marks: dict[str, float]) -> None:
        self._marks = marks
        ray_context = ray.train.get_context()
        self.rank, self.world = ray_context.get_world_rank(), ray_context.get_world_size()
        self.device = ray.train.torch.get_device()
        self._experiment, self._run = assignment.experiment, assignment.run
        self._begin, self._validate = assignment.begin, assignment.validate
        self._loader = prepared.loader
        self._executor = RayData(cpus=assignment.allotted.data_cpus_on(cluster_resources(), self.world))
        self._progress = Progress(self._run.path(PROGRESS))
        self._journal = Journal(self._run.uri, "rank0") if self.rank == 0 else None
        self._plan: tuple[tuple[int, int], np.ndarray] | None = None
        self._outcome: dict[str, Any] = {"steps": 0, "metrics": {}, "worker_hours": 0.0}
        self._counted = time.monotonic()
        self._watched = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1") != "0"
        self._known: list[str] = []

    def __enter__(self) -> "RayContext":
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            self._journal.close()

    def outcome(self) -> dict[str, Any]:
        """What the worker returns."""
        return {**self._outcome, "marks": self._marks}

    def steps_per_epoch(self, phase: int) -> int:
        return (
            len(self._planned(phase, 0)) // self._experiment.batch
        )  # planned: what cannot be drawn is told at the start

    def batches(self, phase: int, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        plan = self._planned(phase, epoch)
        batches = self._loader.batches(
            plan, phase, epoch, start, stop, self.rank, self.world, self._executor, pin=self.device.type == "cuda"
        )
        for batch in batches:
            self._marks.setdefault("first_batch", time.time())
            yield batch

    def _planned(self, phase: int, epoch: int) -> np.ndarray:
        if self._plan is None or self._plan[0] != (phase, epoch):
            settings = self._experiment.phases[phase]
            sampling = settings.sampling_at(epoch, self._loader.steps_per_epoch)
            self._plan = (phase, epoch), self._loader.plan(sampling, settings.ratio, phase, epoch)
        return self._plan[1]

    @contextmanager
    def resume(self) -> Iterator[Path | None]:
        address = broadcast_from_rank_zero(self._newest())
        if address is None:
            yield None
            return
        fs, path = storage.locate(address)
        with Checkpoint(path, fs).as_directory() as folder:
            if address != self._begin:
                self._outcome = storage.read_json(Path(folder) / OUTCOME)
            yield Path(folder)

    def _newest(self) -> str | None:
        """The newest whole checkpoint by our own pointer: Ray's record of them may be cut off by a kill."""
        address = self._run.path(LATEST)
        if not storage.exists(address):
            return self._begin
        return self._run.path(CHECKPOINTS, storage.read_json(address)["checkpoint"])

    def report(
        self, position: Position, metrics: Mapping[str, float], save: Callable[[Path], None], phase_end: int | None
    ) -> None:
        name = checkpoint_name(position.step)
        now = time.monotonic()
        hours = self._outcome["worker_hours"] + self.world * (now - self._counted) / 3600
        self._counted = now
        phase, epoch = (position.phase, position.epoch) if phase_end is None else (phase_end, self._epochs(phase_end))
        self._outcome = {"steps": position.step, "epoch": epoch, "metrics": dict(metrics), "worker_hours": hours}
        numbers = {**metrics, **asdict(position), SCORE: UNMEASURED}
        if self.rank != 0:
            ray.train.report(numbers, checkpoint=None, checkpoint_dir_name=name)
            return
        local = tempfile.mkdtemp(prefix="xray_det-")
        save(Path(local))
        storage.write_json(Path(local) / OUTCOME, self._outcome)
        ray.train.report(
            numbers,
            checkpoint=Checkpoint.from_directory(local),
            checkpoint_dir_name=name,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=partial(_upload, run=self._run, phase_end=phase_end, journal=self._journal),
            delete_local_checkpoint_after_upload=True,
            validation=self._to_measure(position, phase, epoch, ended=phase_end is not None) or False,
        )

    def _epochs(self, phase: int) -> float:
        """How many a phase has."""
        settings = self._experiment.phases[phase]
        if settings.unit == "epochs":
            return settings.length
        return settings.length / self._loader.steps_per_epoch

    def _to_measure(self, position: Position, phase: int, epoch: float, *, ended: bool) -> ValidationTaskConfig | None:
        """How the checkpoint is to be measured, if it is."""
        every = self._experiment.validation.every
        if not self._validate or (not ended and (position.batch or every is None or epoch % every)):
            return None
        return ValidationTaskConfig(fn_kwargs={"phase": phase, "epoch": epoch, "step": position.step, "ended": ended})

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._journal is not None:
            self._journal.log(metrics, step)

    def advance(self, position: Position, total_steps: int) -> None:
        self._marks.setdefault("first_step", time.time())
        if self.rank == 0:
            self._progress.tell(step=position.step, total_steps=total_steps, phase=position.phase, epoch=position.epoch)

    def interrupted(self) -> bool:
        notice = ray.train.get_preemption_info() if self._watched else None
        if notice is None or notice.preempted_node_ids == self._known:
            return False
        self._known = notice.preempted_node_ids
        if self.rank == 0:
            logger.warning("ranks %s lose their machine: a checkpoint is made", notice.preempted_ranks)
        return True

    def evidence(self, name: str) -> str:
        return self._run.path(name)


def _upload(
    checkpoint: Checkpoint, name: str, *, run: RunFolder, phase_end: int | None, journal: Journal | None
) -> Checkpoint:
    """Put a checkpoint on storage, a phase's end also where it is kept for good; the pointer to it last.

    The journal goes before it: the steps that the checkpoint is behind are not made again.
    """
    address = run.path(CHECKPOINTS, name)
    storage.upload(checkpoint.path, address)
    if phase_end is not None:
        storage.upload(checkpoint.path, run.phase(phase_end))
    if journal is not None:
        journal.flush()
    storage.write_json(run.path(LATEST), {"checkpoint": name})
    fs, path = storage.locate(address)
    return Checkpoint(path, fs)

"""One training worker under Ray Train: the context that the training loop is given.

Ray is told of a checkpoint, waits until the controller has it for sure, and starts a killed worker anew; which images
come next and what they look like follows from the position in the checkpoint alone.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import ray.cloudpickle
import ray.data
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointConsistencyMode

from xray_det import storage
from xray_det.data.batch import Batch
from xray_det.data.loader import RayData
from xray_det.errors import InputError
from xray_det.models.predictions import Detector
from xray_det.models.weights import save_detector, transfer_from
from xray_det.orchestrate.experiment import Experiment, Prepared, prepare
from xray_det.orchestrate.progress import Progress
from xray_det.orchestrate.run_folder import LATEST, PROGRESS, RunFolder
from xray_det.orchestrate.validation import Validations
from xray_det.tracking.journal import Journal
from xray_det.train.checkpoint import SaveWeights
from xray_det.train.context import Position
from xray_det.train.evidence import Diverged
from xray_det.train.loop import run


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What the driver gives each worker.

    Attributes:
        experiment: resolved, with absolute addresses.
        data_cpus: CPUs that this worker's data tasks may use together.
        validate: weights folder -> metrics, run as a task at each phase's end; None for none.
    """

    experiment: Experiment
    run: RunFolder
    data_cpus: float
    validate: Callable[[str], Mapping[str, float]] | None = None


def work(given: Mapping[str, bytes]) -> dict[str, Any]:
    """The function that Ray Train runs on every worker.

    Args:
        given: the worker's Assignment, pickled, under ``assignment``. Ray hands the mapping to other processes too,
            which need not import what it holds.

    Returns:
        steps, metrics and validations of a training that came to its end, and ``marks``, the times at which this
        attempt reached its stations; ``failed`` says why it cannot. What a
        restart cannot mend is not raised, or Ray would try it again and again.
    """
    marks = {"workers": time.time()}
    assignment: Assignment = ray.cloudpickle.loads(given["assignment"])
    _be_quiet()
    torch.set_num_threads(assignment.experiment.threads)
    failure = assignment.run.failure()
    if failure is not None:  # of the attempt before this one, on whichever rank
        return {"failed": failure}
    try:
        prepared = prepare(assignment.experiment)
        detector = build_detector(prepared, assignment.run)
        marks["model"] = time.time()
        with RayContext(assignment, prepared, marks) as context:
            recipe = assignment.experiment.recipe(assignment.run.fingerprint, prepared.unified.space.names)
            run(context, recipe, detector, weight_saver(prepared))
            return context.outcome()
    except Diverged as error:  # on every rank alike
        return {"failed": {"kind": "Diverged", "folder": error.folder, "problem": error.problem}}
    except InputError as error:
        assignment.run.fail("InputError", where=error.where, problem=error.problem, remedy=error.remedy)
        raise


def _be_quiet() -> None:
    """A bar a chunk and rank, and a line a report, would bury everything else; also on a cluster of the user's own."""
    logging.disable(logging.INFO)  # Ray Train's loggers bear paths of files: there is no name to set a level by
    ray.data.DataContext.get_current().enable_progress_bars = False


def build_detector(prepared: Prepared, folder: RunFolder) -> Detector:
    """The detector at its start. Rank 0 goes first, so that a download of weights happens once a machine of one rank,
    and writes what became of each key to the run's folder."""
    experiment = prepared.experiment
    context = ray.train.get_context()
    first = context.get_local_rank() == 0
    for turn in (True, False):
        if turn == first:
            torch.manual_seed(experiment.seed)
            detector: Detector = experiment.model.build(len(prepared.unified.space))
            reports = [detector.loaded] if detector.loaded else []
            if experiment.start_from is not None:
                reports.append(transfer_from(detector, experiment.start_from, prepared.unified.space))
        if context.get_world_size() > 1:
            dist.barrier()
    if reports and context.get_world_rank() == 0:
        lines = [line for report in reports for line in report.lines()]
        storage.write_bytes(folder.path("loaded_weights.txt"), "\n".join(lines).encode())
    return detector


def weight_saver(prepared: Prepared) -> SaveWeights:
    """Writes a model with all that is needed to use it: classes, the resolved experiment, the preparation of images."""
    experiment = prepared.document["experiment"]
    return partial(_save, space=prepared.unified.space, experiment=experiment, preprocessor=prepared.preprocessor)


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
        self._loader = prepared.loader
        self._executor = RayData(cpus=assignment.data_cpus)
        self._progress = Progress(self._run.path(PROGRESS))
        self._journal = Journal(self._run.uri, "rank0") if self.rank == 0 else None
        self._validations = Validations(assignment.validate, self._run, averaged=self._experiment.ema is not None)
        self._plan: tuple[tuple[int, int], np.ndarray] | None = None
        self._outcome: dict[str, Any] = {"steps": 0, "metrics": {}}

    def __enter__(self) -> "RayContext":
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            self._journal.close()

    def outcome(self) -> dict[str, Any]:
        """What the worker returns; waits for validations."""
        self._outcome["marks"] = self._marks
        if self.rank == 0:
            self._outcome["validations"] = self._validations.results(len(self._experiment.phases))
        return self._outcome

    def steps_per_epoch(self, phase: int) -> int:
        return len(self._planned(phase, 0)) // self._experiment.batch

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
            self._plan = (phase, epoch), self._loader.plan(settings.sampling, settings.ratio, phase, epoch)
        return self._plan[1]

    @contextmanager
    def resume(self) -> Iterator[Path | None]:
        checkpoint = ray.train.get_checkpoint() or self._confirmed()
        if checkpoint is None:
            yield None
        else:
            with checkpoint.as_directory() as folder:
                self._outcome = storage.read_json(Path(folder) / "outcome.json")
                yield Path(folder)

    def _confirmed(self) -> Checkpoint | None:
        """The newest checkpoint by our own pointer: Ray's record may have been cut off by a kill as it was written."""
        address = self._run.path(LATEST)
        if not storage.exists(address):
            return None
        fs, path = storage.locate(self._run.path("checkpoints", storage.read_json(address)["checkpoint"]))
        return Checkpoint(path, fs) if fs.get_file_info(path).type != pafs.FileType.NotFound else None

    def report(
        self, position: Position, metrics: Mapping[str, float], save: Callable[[Path], None], phase_end: int | None
    ) -> None:
        name = f"step-{position.step:09d}"
        self._outcome = {"steps": position.step, "metrics": dict(metrics)}
        numbers = {**metrics, **asdict(position)}
        if self.rank != 0:
            ray.train.report(numbers, checkpoint=None, checkpoint_dir_name=name)
            return
        with tempfile.TemporaryDirectory(prefix="xray_det-") as local:
            save(Path(local))
            storage.write_json(Path(local) / "outcome.json", self._outcome)
            if phase_end is not None:
                for part in ("weights", "ema"):
                    self._keep(Path(local) / part, phase_end, part)
            checkpoint = Checkpoint.from_directory(local)
            ray.train.report(numbers, checkpoint=checkpoint, checkpoint_dir_name=name)
        # A report has returned long before the controller would resume from its checkpoint.
        ray.train.get_all_reported_checkpoints(consistency_mode=CheckpointConsistencyMode.COMMITTED)
        storage.write_json(self._run.path(LATEST), {"checkpoint": name})

    def _keep(self, local: Path, phase: int, part: str) -> None:
        if local.is_dir():
            for file in sorted(local.iterdir()):
                storage.write_bytes(self._run.path("phases", str(phase), part, file.name), file.read_bytes())

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._journal is not None:
            self._journal.log(metrics, step)

    def advance(self, position: Position, total_steps: int) -> None:
        self._marks.setdefault("first_step", time.time())
        if self.rank == 0:
            self._progress.tell(step=position.step, total_steps=total_steps, phase=position.phase, epoch=position.epoch)

    def validate(self, phase: int) -> None:
        if self.rank == 0:
            self._validations.start(phase)

    def evidence(self, name: str) -> str:
        return self._run.path(name)

"""Population-based training (Jaderberg et al. 2017): values change while the members of a population are trained.

A generation is a phase. A member trains it with its values; then the worst members go on from the checkpoints of the
best ones, with values that differ a little. What comes out is a schedule, a list of phases, that can be trained again
by itself like any other experiment. Each generation is a training with a folder of its own, begun with the one before:

SWEEP/MEMBER/generation-G-HASH/

Ray Tune's scheduler exploits only what a trial itself gives it as a checkpoint: here a note of the last generation.
"""

import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from xray_det import config, storage
from xray_det.errors import InputError
from xray_det.orchestrate import search
from xray_det.orchestrate.experiment import Experiment
from xray_det.orchestrate.plan import Plan, Round, Train
from xray_det.orchestrate.results import begin_row
from xray_det.orchestrate.run_folder import Result, RunFolder

NOTE = "generation.json"
CLOCK = "generation"


@dataclass(frozen=True, kw_only=True)
class Population(Plan):
    """What is bred. The experiment's last phase is a generation; the space lies in it: lists, of which a neighbour or
    another value is taken, or Ray Tune's domains, a fifth more or less or another draw.

    Args:
        members: how many.
        generations: how many times the last phase is trained, each going on with the optimizer of the one before.
        exploited: share of the members that give up their weights after a generation.
    """

    members: int = 4
    generations: int = 4
    exploited: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        for path in self.space:
            if not path.startswith(f"{self.prefix}."):
                raise InputError(path, "does not lie in the last phase", f"Give paths that begin with {self.prefix}.")
        for name in ("members", "generations"):
            if getattr(self, name) < 2:
                raise InputError(name, f"{getattr(self, name)} is less than 2", "Give at least 2")
        if not 0 < self.exploited <= 0.5:
            raise InputError("exploited", f"{self.exploited} is out of range", "Give a share above 0, up to 0.5")

    @property
    def first(self) -> int:
        return len(self.experiment.phases) - 1

    @property
    def prefix(self) -> str:
        """The path of generation 0."""
        return f"phases.{self.first}"

    @property
    def choices(self) -> dict[str, Any]:
        return {"members": self.members, "generations": self.generations, "exploited": self.exploited}

    def rounds(self, concurrent: int) -> Iterator[Round]:
        """One: who goes on from whom is Ray Tune's business."""
        random.seed(self.experiment.seed)  # the scheduler draws from the process's generators
        np.random.seed(self.experiment.seed)  # noqa: NPY002
        # All finish a generation before any begins the next: who exploits whom does not depend on who is faster.
        scheduler = PopulationBasedTraining(
            time_attr=CLOCK,
            perturbation_interval=1,
            hyperparam_mutations=search.listed(self.space),
            quantile_fraction=self.exploited,
            synch=True,
            log_config=False,
        )
        settings = tune.TuneConfig(
            metric=self.metric,
            mode="max",
            scheduler=scheduler,
            num_samples=self.members,
            trial_dirname_creator=lambda trial: trial.trial_id,
        )
        # the scheduler draws what is missing of a trial's values: all
        yield Round(name="generations", drawn_from={}, trial=self.trial, settings=settings)

    def trial(self, run: Train, trunk: Result | None, values: search.Values) -> None:
        """A member's generations, from the note that it was given with its values."""
        member = f"member-{tune.get_context().get_trial_id().rsplit('_', 1)[-1]}"
        history, begin = _noted(trunk)
        while len(history) < self.generations:
            history, generation = [*history, dict(values)], len(history)
            experiment = self.training(history, member)
            share = len(history) / self.generations
            begin_row(experiment.folder, arm=member, values=values, rung=generation, share=share)
            begin = run(experiment, f"{member}, {generation}", begin, {"arm": member, "generation": str(generation)})
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, NOTE).write_text(json.dumps({"history": history, "folder": begin.folder}))
                told = {self.metric: self.score(begin), CLOCK: len(history)}
                tune.report(told, checkpoint=tune.Checkpoint.from_directory(folder))

    def training(self, history: Sequence[search.Values], member: str) -> Experiment:
        """The training of a member's newest generation: a whole experiment, with a phase a generation.

        Args:
            history: the values of each generation so far.
        """
        template = self.experiment.phases[self.first]
        later = replace(template, keep_optimizer=True, warmup_steps=0, warmup_epochs=None)
        experiment = replace(self.experiment, phases=(*self.experiment.phases, *(later for _ in history[1:])))
        for generation, values in enumerate(history):
            moved = f"phases.{self.first + generation}"
            experiment = search.chosen(
                experiment, {moved + path.removeprefix(self.prefix): value for path, value in values.items()}
            )
        mark = config.fingerprint({"history": [dict(values) for values in history]})[:4]
        out = storage.join(self.experiment.folder, member)
        return replace(experiment, name=f"generation-{len(history) - 1}-{mark}", out=out)


def _noted(trunk: Result | None) -> tuple[list[dict[str, Any]], Result | None]:
    """The generations that the weights to begin with have had, and the training that left them."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return [], trunk
    with checkpoint.as_directory() as folder:
        note = json.loads(Path(folder, NOTE).read_text())
    return note["history"], RunFolder(uri=note["folder"], fingerprint="").finished()

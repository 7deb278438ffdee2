"""How scripts run a study: on the miniature of the claims, or on the datasets that they are told.

Importing this costs nothing, so that --help answers at once.
"""

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xray_det import storage
from xray_det.orchestrate.command_line import Placed, Told, assigned, configure

if TYPE_CHECKING:
    from xray_det.evaluation.over_seeds import OverSeeds
    from xray_det.orchestrate.experiment import Experiment
    from xray_det.orchestrate.study import Arm

#: Where the tables of the claims are committed.
RESULTS = Path(__file__).parents[2] / "experiments" / "results"


@dataclass(frozen=True, kw_only=True)
class StudyTold(Placed):
    """How much of a study, and where it is kept."""

    seeds: int = 2
    """0, 1, ...: of the weights' start, the order and the augmentation."""
    concurrent: int | None = None
    """Trainings side by side; as many as the cluster has room for unless given."""
    results: str | None = None
    """Folder of the table and of what trainings came to; experiments/results, the study's own in --out on own data."""
    smoke: bool = False
    """The first arm and the last, one seed, a few images and steps."""


@dataclass(frozen=True, kw_only=True)
class OnAnyData(StudyTold, Told):
    """Without datasets or --config the study is made on the miniature of the claims (orchestrate/claims.py)."""

    @property
    def own(self) -> bool:
        """The user's own data are tried."""
        return bool(self.datasets) or self.config is not None


def base(told: OnAnyData, name: str) -> "Experiment":
    """What the arms are made of: the experiment that is told, or that of the claims."""
    if told.own:
        from xray_det.train.phase import Phase

        return configure(told, name=name, phases=(Phase(),))
    from xray_det.orchestrate.claims import experiment

    return assigned(experiment(smoke=told.smoke), told.set)


def runs(told: StudyTold) -> str:
    """Folder of the trainings and of the studies' own files."""
    return told.out or storage.join(storage.home(), "runs", "studies")


def called(told: Placed, name: str, *, smoke: bool) -> str:
    """A study's name, of which its folder is called: what is told or ``name``; a smoke run has its own."""
    return f"{told.run or name}{'-smoke' if smoke else ''}"


def called_by() -> str:
    """The command that runs, for what it writes."""
    return shlex.join([f"experiments/{os.path.basename(sys.argv[0])}", *sys.argv[1:]])


def conduct(
    told: StudyTold,
    name: str,
    arms: "Mapping[str, Arm]",
    verdicts: "Callable[[OverSeeds], Sequence[str]]",
    metrics: Mapping[str, str] | None = None,
) -> "OverSeeds":
    """Run a study.

    Args:
        name: unless the command line has another.
        arms: all of them; --smoke takes the first and the last, and no verdicts, which speak of all.
        metrics: columns of the table; None: those of the claims, on own data each dataset's own protocol.
    """

    from xray_det.display import terminal
    from xray_det.labels.frequency import BANDS
    from xray_det.orchestrate import claims
    from xray_det.orchestrate.study import Study, run_study

    name, own = called(told, name, smoke=told.smoke), isinstance(told, OnAnyData) and told.own
    out = runs(told)
    if told.smoke:
        arms = {title: arms[title] for title in dict.fromkeys((*[*arms][:1], *[*arms][-1:]))}
    if metrics is None:
        metrics = {"AP": "val/AP", **{f"AP {b}": f"val/AP_{b}" for b in BANDS}} if own else claims.METRICS
    study = Study(
        name=name,
        arms=arms,
        seeds=1 if told.smoke else told.seeds,
        metrics=metrics,
        epoch_s=None if own else claims.EPOCH_S,
        verdicts=(lambda _: ()) if told.smoke else verdicts,
    )
    return run_study(
        study,
        out=out,
        results=told.results or (storage.join(out, name) if told.smoke or own else str(RESULTS)),
        command=called_by(),
        tracking=told.tracking,
        max_concurrent=told.concurrent,
        console=terminal(),
    )


def holds(value: bool) -> str:
    """How a claim came out."""
    return "holds" if value else "does not hold here"


def beyond(spread: float, *gains: float) -> str:
    """How a claim came out that holds where every gain is greater than the seeds' spread.

    The spread is NaN with one seed or arm, the gain of an arm without a result too.
    """
    if spread != spread:
        return "cannot be told without a spread"
    known = all(gain == gain for gain in gains)
    return holds(all(gain > spread for gain in gains)) if known else "cannot be told while an arm is not trained"


def points(value: float) -> str:
    """A difference in percentage points; - where there is none."""
    return f"{round(100 * value, 1) + 0.0:+.1f}" if value == value else "-"  # no minus zero

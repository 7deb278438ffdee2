"""Arms and rungs: sets of values, and complete schedules, short ones first.

An arm that is not among the best of a rung does not get the next one (ASHA; Li et al. 2020).
"""

import logging
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import Searcher

from xray_det import config, storage
from xray_det.errors import InputError
from xray_det.orchestrate import search
from xray_det.orchestrate.experiment import Experiment
from xray_det.orchestrate.plan import Plan, Train
from xray_det.orchestrate.results import ENDED, begin_row
from xray_det.orchestrate.run_folder import Result
from xray_det.train.evidence import Diverged

logger = logging.getLogger(__name__)

#: Ray Tune's clock: rung R is reported at REDUCTION ** R, where ASHA looks.
CLOCK = "rung_time"


@dataclass(frozen=True, kw_only=True)
class Arms(Plan):
    """What is tried.

    Args:
        rungs: shares of the schedule behind the phases that all arms share, rising to 1: a short complete schedule for
            all arms, then longer ones for the best. (1.0,) trains every arm in full.
        reduction: one in so many arms of a rung gets the next.
        samples: how many points are drawn where the space has domains (with each of the lists' values).
        searcher: chooses the points, for example Ray Tune's OptunaSearch; None: they are drawn at random.
    """

    rungs: tuple[float, ...] = (1.0,)
    reduction: int = 3
    samples: int = 1
    searcher: Searcher | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.rungs) != sorted(set(self.rungs)) or not self.rungs or self.rungs[0] <= 0 or self.rungs[-1] != 1:
            raise InputError("rungs", f"{list(self.rungs)} do not rise to 1", "Give shares such as 0.25 1")
        for name, least in (("reduction", 2), ("samples", 1)):
            if getattr(self, name) < least:
                raise InputError(name, f"{getattr(self, name)} is less than {least}", f"Give at least {least}")
        if self.samples > 1 and not search.is_drawn(self.space):
            raise InputError("samples", "lists would be gone through twice alike", 'Sweep the seed too: "seed": [0, 1]')
        lengths = [[p.epochs for p in self.schedule(rung).phases] for rung in range(len(self.rungs))]
        if any(a == b for a, b in pairwise(lengths)):
            raise InputError("rungs", f"two of them have the same epochs, {lengths}", "Give more epochs or fewer rungs")

    @property
    def first(self) -> int:
        return search.first_searched(self.experiment, self.space)

    @property
    def choices(self) -> dict[str, Any]:
        return {"rungs": list(self.rungs), "reduction": self.reduction, "samples": self.samples}

    def settings(self, concurrent: int) -> tune.TuneConfig:
        return tune.TuneConfig(
            metric=self.metric,
            mode="max",
            search_alg=self.searcher,
            scheduler=Rungs(self) if len(self.rungs) > 1 else FIFOScheduler(),
            num_samples=self.samples,
            # a searcher that learns is asked when there is room
            max_concurrent_trials=concurrent if self.searcher is not None else None,
            trial_dirname_creator=lambda trial: trial.trial_id,
        )

    def trial(self, run: Train, trunk: Result | None, values: search.Values) -> None:
        """An arm's rungs, one after another, each told to Ray Tune, which stops the arm where others are better."""
        arm = self.arm(values, tune.get_context().get_trial_id())
        for rung, share in enumerate(self.rungs):
            experiment, clock = self.training(values, arm, rung), float(self.reduction**rung)
            begin_row(experiment.folder, arm=arm, values=values, rung=rung, share=share)
            name = arm if share == 1 else f"{arm}, {share:g} of the schedule"
            try:
                found = run(experiment, name, trunk, {"arm": arm, "rung": f"{share:g}"})
            except storage.Refused:  # passes; Ray Tune tries again
                raise
            except (Diverged, InputError) as error:  # trying again would not help; other arms go on
                logger.warning("%s ended: %s", experiment.folder, error)
                storage.write_json(storage.join(experiment.folder, ENDED), {"reason": str(error)})
                tune.report({self.metric: float("-inf"), CLOCK: clock})
                return
            tune.report({self.metric: self.score(found), CLOCK: clock})

    def schedule(self, rung: int) -> Experiment:
        """The experiment of a rung, before any value is chosen."""
        return search.shortened(self.experiment, self.rungs[rung], self.first)

    def training(self, values: search.Values, arm: str, rung: int) -> Experiment:
        """The training of an arm's rung."""
        out = storage.join(self.experiment.folder, arm.replace(" ", ","))
        return replace(search.chosen(self.schedule(rung), values), name=f"rung-{rung}", out=out)

    def arm(self, values: search.Values, trial: str) -> str:
        """An arm's name: its values, four digits for those that print alike, and where they are drawn, so that the same
        may come twice, the number of Ray Tune's trial."""
        number = f"-{trial.rsplit('_', 1)[-1]}" if search.is_drawn(self.space) else ""
        return f"{search.label(values)} {config.fingerprint(dict(values))[:4]}{number}"


class Rungs(ASHAScheduler):
    """ASHA that knows what was measured before a restart: Ray Tune restores arms, not the scheduler's memory."""

    def __init__(self, plan: Arms) -> None:
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
            if row.arm == self._plan.arm(trial.config, trial.trial_id) and row.score is not None:
                bracket.on_result(trial, self._plan.reduction**row.rung, row.score)

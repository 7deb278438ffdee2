"""Arms and rungs: sets of values, and complete schedules, short ones first.

The best arms of a rung get the next one, once all have finished it (successive halving; Jamieson and Talwalkar 2016).
Ray Tune's ASHA waits for nobody: the first arms climb unopposed, so that a sweep of few arms costs half as much again,
and which ones are kept depends on who was faster (experiments/rungs.py).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from xray_det import config, display, storage
from xray_det.errors import InputError
from xray_det.orchestrate import search
from xray_det.orchestrate.experiment import Experiment
from xray_det.orchestrate.plan import Plan, Round, Train
from xray_det.orchestrate.results import ENDED, Row, begin_row
from xray_det.orchestrate.run_folder import Result
from xray_det.train.evidence import Diverged

logger = display.logger(__name__)

#: What a trial of a later rung is told.
ARM = "arm"


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
        lengths = [[p.length for p in self.schedule(rung).phases] for rung in range(len(self.rungs))]
        if any(a == b for a, b in pairwise(lengths)):
            raise InputError(
                "rungs", f"two of them have the same epochs or iterations, {lengths}", "Give more or fewer rungs"
            )

    @property
    def first(self) -> int:
        return search.first_searched(self.experiment, self.space)

    @property
    def choices(self) -> dict[str, Any]:
        return {"rungs": list(self.rungs), "reduction": self.reduction, "samples": self.samples}

    def rounds(self, concurrent: int) -> Iterator[Round]:
        """A rung each: all arms, then the best of those before."""
        settings = tune.TuneConfig(
            metric=self.metric,
            mode="max",
            search_alg=self.searcher,
            num_samples=self.samples,
            # a searcher that learns is asked when there is room
            max_concurrent_trials=concurrent if self.searcher is not None else None,
            trial_dirname_creator=lambda trial: trial.trial_id,
        )
        yield Round(name="rung-0", drawn_from=search.to_tune(self.space), trial=self.begin, settings=settings)
        settings = replace(settings, search_alg=None, num_samples=1, max_concurrent_trials=None)
        for rung in range(1, len(self.rungs)):
            if not (best := self.climbing(rung)):
                return
            trial = partial(self.climb, rung, {row.arm: row.values for row in best})
            drawn_from = {ARM: tune.grid_search([row.arm for row in best])}
            yield Round(name=f"rung-{rung}", drawn_from=drawn_from, trial=trial, settings=settings)

    def climbing(self, rung: int) -> list[Row]:
        """The arms that get this rung, by all that the one below came to: the best first."""
        below = [row for row in self.rows() if row.rung == rung - 1]
        best = below[: max(1, len(below) // self.reduction)]
        return [row for row in best if row.score is not None and math.isfinite(row.score)]

    def begin(self, run: Train, trunk: Result | None, values: search.Values) -> None:
        """Ray Tune's trial of the first rung."""
        self.train(run, trunk, self.arm(values, tune.get_context().get_trial_id()), values, 0)

    def climb(
        self, rung: int, arms: Mapping[str, search.Values], run: Train, trunk: Result | None, chosen: search.Values
    ) -> None:
        """Ray Tune's trial of a later rung, whose values are an arm's name."""
        arm = chosen[ARM]
        self.train(run, trunk, arm, arms[arm], rung)

    def train(self, run: Train, trunk: Result | None, arm: str, values: search.Values, rung: int) -> None:
        """An arm's training of a rung, its score told to Ray Tune."""
        experiment, share = self.training(values, arm, rung), self.rungs[rung]
        begin_row(experiment.folder, arm=arm, values=values, rung=rung, share=share)
        name = arm if share == 1 else f"{arm}, {share:g} of the schedule"
        try:
            score = self.score(run(experiment, name, trunk, {"arm": arm, "rung": f"{share:g}"}))
        except storage.Refused:  # passes; Ray Tune tries again
            raise
        except (Diverged, InputError) as error:  # trying again would not help; other arms go on
            logger.warning("%s ended: %s", experiment.folder, error)
            storage.write_json(storage.join(experiment.folder, ENDED), {"reason": str(error)})
            score = float("-inf")
        tune.report({self.metric: score})

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

"""Do short trainings rank arms as the full ones do, and which arm would have been kept for how many epochs?

Pure functions of what was measured, so that a finished grid answers for every ladder of rungs below it.

Letters: A arms, R rungs, S seeds. Scores are more-is-better; a rung is the share of the full schedule that it costs.
"""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, permutations
from math import factorial
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from xray_det.errors import InputError
from xray_det.evaluation.over_seeds import seed_spread

Floats: TypeAlias = npt.NDArray[np.float64]

_METRIC, _CLOCK = "score", "rung_time"


def ranks(values: npt.ArrayLike) -> Floats:
    """1 for the least, equal values share the mean of their ranks: float64 [A]."""
    own = np.asarray(values, np.float64)
    below = (own[None, :] < own[:, None]).sum(axis=1)
    equal = (own[None, :] == own[:, None]).sum(axis=1)
    return np.asarray(below + (equal + 1) / 2, np.float64)


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Spearman's rank correlation: Pearson's of the ranks; NaN where one of the two does not vary."""
    a, b = (found - found.mean() for found in (ranks(first), ranks(second)))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else float("nan")


def kendall(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Kendall's tau-b: pairs in the same order less those in the opposite one, over the geometric mean of the pairs
    that are no tie on either side; NaN where one of the two does not vary."""
    a, b = (np.sign(x[:, None] - x[None, :]) for x in (np.asarray(v, np.float64) for v in (first, second)))
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else float("nan")


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Rungs, and how an arm climbs them.

    Args:
        shares: of the full schedule, rising to 1.
        reduction: one in so many arms of a rung gets the next.
        anew: a rung is a schedule of its own, begun where all arms begin (a complete one); False: an arm goes on where
            the rung below cut it.
    """

    shares: tuple[float, ...]
    reduction: int = 3
    anew: bool = True

    def __post_init__(self) -> None:
        if list(self.shares) != sorted(set(self.shares)) or not self.shares or self.shares[-1] != 1:
            raise InputError("shares", f"{list(self.shares)} do not rise to 1", "Give shares such as 0.25 1")
        if self.reduction < 2:
            raise InputError("reduction", f"{self.reduction} is less than 2", "Give at least 2")

    def cost(self, rung: int) -> float:
        """What climbing to a rung adds, in full schedules."""
        return self.shares[rung] - (self.shares[rung - 1] if rung and not self.anew else 0.0)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How a replay ended: the best arm of those that got the full schedule, and what all arms cost together, in full
    schedules."""

    arm: int
    cost: float


def asha(scores: npt.ArrayLike, ladder: Ladder, order: Sequence[int], *, concurrent: int = 2) -> Kept:
    """What Ray Tune's own ASHA would have kept, had it been told these scores.

    Args:
        scores: [R, A], of each rung, the full schedule last.
        order: in which the arms begin.
        concurrent: arms side by side; a training takes as long as its share.
    """
    found = _checked(scores, ladder)
    last, reduction = len(ladder.shares) - 1, ladder.reduction
    scheduler = ASHAScheduler(
        time_attr=_CLOCK, max_t=reduction**last, grace_period=1, reduction_factor=reduction, metric=_METRIC, mode="max"
    )
    waiting = iter(order)
    running: list[tuple[float, int, int, int]] = []  # when it ends, its number among the trainings, arm, rung
    begun, cost, full = 0, 0.0, []

    def begin(now: float, arm: int, rung: int) -> None:
        nonlocal begun, cost
        heapq.heappush(running, (now + ladder.cost(rung), begun, arm, rung))
        begun, cost = begun + 1, cost + ladder.cost(rung)

    def next_arms(now: float, places: int) -> None:
        for arm in islice(waiting, places):
            scheduler.on_trial_add(_nobody, _trial(arm))
            begin(now, arm, 0)

    next_arms(0.0, concurrent)
    while running:
        now, _, arm, rung = heapq.heappop(running)
        result = {_CLOCK: float(reduction**rung), _METRIC: found[rung, arm]}
        goes_on = scheduler.on_trial_result(_nobody, _trial(arm), result) == TrialScheduler.CONTINUE
        if rung == last:
            full.append(arm)
        if goes_on and rung < last:
            begin(now, arm, rung + 1)
        else:
            next_arms(now, 1)
    return Kept(arm=max(full, key=lambda arm: found[last, arm]), cost=cost)


#: The scheduler's controller, which ASHA does not ask for anything.
_nobody: Any = None


def _trial(arm: int) -> Any:
    """What ASHA knows a trial by."""
    return SimpleNamespace(trial_id=str(arm))


def halving(scores: npt.ArrayLike, ladder: Ladder) -> Kept:
    """What is kept when nobody gets a rung before all have finished the one below: one in ``reduction`` goes on, at
    least one. The order of the arms does not matter (equal scores: the first)."""
    found = _checked(scores, ladder)
    arms, cost = np.arange(found.shape[1]), 0.0
    for rung in range(len(ladder.shares)):
        if rung:
            best = np.argsort(-found[rung - 1, arms], kind="stable")
            arms = np.sort(arms[best[: max(1, len(arms) // ladder.reduction)]])
        cost += len(arms) * ladder.cost(rung)
    return Kept(arm=int(arms[np.argmax(found[-1, arms])]), cost=cost)


def _checked(scores: npt.ArrayLike, ladder: Ladder) -> Floats:
    found = np.asarray(scores, np.float64)
    if found.ndim != 2 or len(found) != len(ladder.shares) or not found.shape[1] or np.isnan(found).any():
        problem = f"shape {list(found.shape)} with {np.isnan(found).sum()} undefined for {len(ladder.shares)} rungs"
        raise InputError("scores", problem, "Give a number for each rung and arm")
    return found


def orders(arms: int, most: int, seed: int = 0) -> Iterator[tuple[int, ...]]:
    """Every order of the arms; ``most`` seeded ones where there are more."""
    if factorial(arms) <= most:
        yield from permutations(range(arms))
        return
    rng = np.random.default_rng(seed)
    for _ in range(most):
        yield tuple(rng.permutation(arms).tolist())


@dataclass(frozen=True, kw_only=True)
class Odds:
    """Many replays as shares: how often the grid's best arm was kept, how often one within the seeds' spread of it
    (the best among them), and the mean cost over the grid's."""

    best: float
    within: float
    cost: float


def odds(
    scores: npt.ArrayLike, ladder: Ladder, replays: Callable[[Floats, Ladder], Sequence[Kept]], spread: float
) -> Odds:
    """Replays of each seed's grid, judged by that seed's full schedules.

    Args:
        scores: [S, R, A].
        spread: a kept arm this far below the best is no worse; NaN: only the best is.
    """
    best, within, cost = [], [], []
    for of_seed in np.asarray(scores, np.float64):
        lost = of_seed[-1].max() - of_seed[-1]
        for kept in replays(of_seed, ladder):
            best.append(lost[kept.arm] == 0)
            within.append(lost[kept.arm] == 0 or lost[kept.arm] <= spread)
            cost.append(kept.cost / of_seed.shape[1])
    return Odds(best=float(np.mean(best)), within=float(np.mean(within)), cost=float(np.mean(cost)))


# What a finished grid says


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """All that was measured of arms whose full and short schedules begin at one trunk a seed; E epochs of the full one.

    Attributes:
        lam: what tells the arms apart: [A].
        rungs: shares of the full schedule, whole epochs of it.
        curves: metric -> [S, A, E + 1] of the full schedules, first the trunk.
        complete: metric -> [S, A, R] of the complete short schedules.
    """

    lam: tuple[float, ...]
    epochs: int
    rungs: tuple[float, ...]
    curves: Mapping[str, Floats]
    complete: Mapping[str, Floats]

    def end(self, metric: str) -> Floats:
        """[S, A] of the full schedules."""
        return self.curves[metric][..., -1]

    def kinds(self, metric: str) -> dict[str, Floats]:
        """[S, A, R] by the full schedules, cut where the rung ends, and by the complete short ones."""
        cut = self.curves[metric][..., [round(rung * self.epochs) for rung in self.rungs]]
        return {"cut": cut, "complete": self.complete[metric]}


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """How a rung ranks the arms of each seed as the end does."""

    metric: str
    rung: float
    kind: str
    spearman: tuple[float, ...]
    kendall: tuple[float, ...]


def correlations(grid: Grid, metrics: Sequence[str]) -> list[Correlation]:
    """Of every rung of both kinds."""
    found = []
    for metric in metrics:
        for number, rung in enumerate(grid.rungs):
            for kind, scores in grid.kinds(metric).items():
                pairs = list(zip(scores[..., number], grid.end(metric), strict=True))
                rho, tau = (tuple(of(a, b) for a, b in pairs) for of in (spearman, kendall))
                found.append(Correlation(metric=metric, rung=rung, kind=kind, spearman=rho, kendall=tau))
    return found


@dataclass(frozen=True, kw_only=True)
class Climb:
    """What sweeps over one ladder of rungs of one kind would have kept by one rule: ``ASHA`` or ``whole rungs``."""

    ladder: Ladder
    kind: str
    rule: str
    odds: Odds


def climbs(grid: Grid, metric: str, *, reduction: int, most: int, concurrent: int) -> list[Climb]:
    """Sweeps over each rung alone and over all of them, replayed; ASHA in every order of the arms, at most ``most``."""

    def told(scores: Floats, ladder: Ladder) -> list[Kept]:
        return [asha(scores, ladder, order, concurrent=concurrent) for order in orders(len(grid.lam), most)]

    def whole(scores: Floats, ladder: Ladder) -> list[Kept]:
        return [halving(scores, ladder)]

    end, everything = grid.end(metric), tuple(range(len(grid.rungs)))
    found = []
    for numbers in dict.fromkeys([*((number,) for number in everything), everything]):
        for kind, scores in grid.kinds(metric).items():
            shares = (*(grid.rungs[number] for number in numbers), 1.0)
            ladder = Ladder(shares=shares, reduction=reduction, anew=kind == "complete")
            levels = np.stack([*(scores[..., number] for number in numbers), end], axis=1)
            for rule, replays in (("ASHA", told), ("whole rungs", whole)):
                shown = odds(levels, ladder, replays, seed_spread(end))
                found.append(Climb(ladder=ladder, kind=kind, rule=rule, odds=shown))
    return found

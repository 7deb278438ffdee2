"""Arms measured over the same seeds: means, differences from the first arm, and how far seeds spread.

Letters: A arms, S seeds, M metrics, E epochs. What a seed does to two arms alike (the same order of the images, the
same test images) cancels in their difference, so differences are taken inside a seed and their spread is the standard
deviation over seeds. A number that is missing in one seed is missing in whatever is made of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from xray_det.errors import InputError

Floats = npt.NDArray[np.float64]


def seed_spread(scores: npt.ArrayLike) -> float:
    """Standard deviation over seeds of the difference between two arms of one seed, over all pairs of arms.

    Args:
        scores: [S, A]. What a seed does to all arms alike (their common trunk) cancels in a difference: it is sqrt(2)
            times the standard deviation of what an additive model of seed and arm leaves.

    Returns:
        NaN with fewer than two seeds or arms.
    """
    found = np.asarray(scores, np.float64)
    seeds, arms = found.shape
    if seeds < 2 or arms < 2:
        return float("nan")
    left = found - found.mean(axis=0, keepdims=True) - found.mean(axis=1, keepdims=True) + found.mean()
    return float(np.sqrt(2 * (left**2).sum() / ((seeds - 1) * (arms - 1))))


@dataclass(frozen=True, kw_only=True, eq=False)
class OverSeeds:
    """What arms came to.

    Attributes:
        arms: A names; the first is what others are compared with.
        metrics: M names.
        values: [A, S, M], shares of 1; NaN where there is no number.
        curves: arm -> [S, E, M] after each epoch, of the arms that were measured on their way in every seed.
    """

    arms: tuple[str, ...]
    metrics: tuple[str, ...]
    values: Floats
    curves: Mapping[str, Floats] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        measured: Mapping[str, Sequence[Mapping[str, float]]],
        metrics: Mapping[str, str],
        curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]] | None = None,
    ) -> "OverSeeds":
        """From arm -> for each seed key -> value, empty where an arm has no result.

        Args:
            metrics: name -> key.
            curves: arm -> for each seed and epoch key -> value; no epochs where there is no curve.
        """

        def numbers(found: Sequence[Mapping[str, float]]) -> list[list[float]]:
            return [[of.get(key, np.nan) for key in metrics.values()] for of in found]

        return cls(
            arms=tuple(measured),
            metrics=tuple(metrics),
            values=np.array([numbers(seeds) for seeds in measured.values()], np.float64),
            curves={a: np.array([*map(numbers, seeds)]) for a, seeds in (curves or {}).items() if all(seeds)},
        )

    @cached_property
    def means(self) -> Floats:
        """[A, M], over seeds."""
        return np.asarray(self.values.mean(axis=1))

    def difference(self, metric: str, arm: str, other: str | None = None) -> tuple[float, float]:
        """Mean and standard deviation over seeds of an arm minus another one (the first unless given), of a metric.

        The deviation of one seed is NaN.

        Raises:
            InputError: no such arm or metric.
        """
        a, b = (self._row(self.arms, name) for name in (arm, other if other is not None else self.arms[0]))
        differences = (self.values[a] - self.values[b])[:, self._row(self.metrics, metric)]
        return float(differences.mean()), float(differences.std(ddof=1)) if len(differences) > 1 else float("nan")

    def mean(self, metric: str, arm: str) -> float:
        """Of a metric over the seeds of an arm."""
        return float(self.means[self._row(self.arms, arm), self._row(self.metrics, metric)])

    def best(self, metric: str, arms: Sequence[str] = ()) -> str:
        """The arm, of these or of all, with the highest mean; those without a number are left out.

        Raises:
            InputError: none has a number.
        """
        means = {arm: self.mean(metric, arm) for arm in arms or self.arms}
        known = {arm: value for arm, value in means.items() if not np.isnan(value)}
        if not known:
            raise InputError(metric, f"none of {', '.join(means)} has a number", "See why the arms ended")
        return max(known, key=known.__getitem__)

    def spread(self, metric: str) -> float:
        """``seed_spread`` of the arms that have a number in every seed."""
        scores = self.values[..., self._row(self.metrics, metric)]
        return seed_spread(scores[~np.isnan(scores).any(axis=1)].T)

    def markdown(self) -> str:
        """A line an arm, in percent: the mean, and its difference from the first arm with its deviation over seeds."""
        lines = [["arm", *self.metrics], ["---", *("---:" for _ in self.metrics)]]
        for arm in self.arms:
            cells = [_percent(self.mean(metric, arm)) for metric in self.metrics]
            if arm != self.arms[0]:
                told = [_signed(*self.difference(metric, arm)) for metric in self.metrics]
                cells = [f"{cell} ({more})" if more else cell for cell, more in zip(cells, told, strict=True)]
            lines.append([arm, *cells])
        if self.values.shape[1] > 1:
            lines.append(["spread of a difference", *(_percent(self.spread(metric)) for metric in self.metrics)])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    @staticmethod
    def _row(names: Sequence[str], name: str) -> int:
        if name not in names:
            raise InputError(name, "is not in this study", f"Give one of {', '.join(names)}")
        return names.index(name)


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"


def _signed(mean: float, deviation: float) -> str:
    if np.isnan(mean):
        return ""
    return f"{100 * mean:+.1f}" + ("" if np.isnan(deviation) else f" ± {100 * deviation:.1f}")

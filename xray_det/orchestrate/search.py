"""A search space: which fields of an experiment take which values.

    space = {"phases.1.sampling.lam": [0.0, 0.7, 1.0], "phases.1.lr": tune.loguniform(1e-4, 1e-2)}

A list is tried value by value, each with every value of the other lists; anything else is one of Ray Tune's domains or
its ``grid_search``. A key is a path into the experiment, as config.replace takes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from ray import tune
from ray.tune.search.sample import Domain

from xray_det import config
from xray_det.errors import InputError
from xray_det.orchestrate.experiment import Experiment
from xray_det.train.phase import Phase

Space: TypeAlias = Mapping[str, Any]
Values: TypeAlias = Mapping[str, Any]


def to_tune(space: Space) -> dict[str, Any]:
    """The space in Ray Tune's words: lists are gone through."""
    return {path: tune.grid_search(value) if _is_list(value) else value for path, value in listed(space).items()}


def listed(space: Space) -> dict[str, Any]:
    """The space with plain lists."""
    return {path: value if (items := _listed(value)) is None else items for path, value in space.items()}


def check(experiment: Experiment, space: Space) -> None:
    """Every listed value, and one drawn from each domain, fits the experiment.

    Raises:
        InputError: an empty space, an unknown path or a value that cannot be, named.
    """
    if not space:
        raise InputError("space", "is empty", "Name a field of the experiment and its values")
    for path, value in space.items():
        for sample in _samples(path, value):
            chosen(experiment, {path: sample})


def chosen(experiment: Experiment, values: Values) -> Experiment:
    """The experiment with these values in place."""
    for path, value in values.items():
        experiment = config.replace(experiment, path, value)
    return experiment


def described(space: Space) -> dict[str, Any]:
    """The space as JSON: lists as they are, a domain in Tune's words for it."""
    return {path: _listed(value) or f"{value.get_sampler()} {value.domain_str}" for path, value in space.items()}


def is_drawn(space: Space) -> bool:
    """Whether values are drawn, not gone through."""
    return any(_listed(value) is None for value in space.values())


def first_searched(experiment: Experiment, space: Space) -> int:
    """The first phase that differs between arms: those before it are the same for all. 0 if anything else differs."""
    numbers = [int(p.split(".")[1]) if p.startswith("phases.") and p.count(".") > 1 else 0 for p in space]
    return min(*numbers, len(experiment.phases) - 1) if numbers else 0


def shortened(experiment: Experiment, fraction: float, first: int) -> Experiment:
    """A complete schedule of ``fraction`` of the epochs: from phase ``first`` on each phase is shorter, and its warm-up
    and drops come as much earlier. A schedule that is cut off instead ranks arms by how they do before the drop, where
    too high a lambda leads (paper 002, Fig. 4)."""
    phases = (*experiment.phases[:first], *(_shorter(phase, fraction) for phase in experiment.phases[first:]))
    return replace(experiment, phases=phases)


def _shorter(phase: Phase, fraction: float) -> Phase:
    epochs = max(1, round(phase.epochs * fraction))
    scale = epochs / phase.epochs
    return replace(
        phase,
        epochs=epochs,
        drops=tuple(drop * scale for drop in phase.drops),
        warmup_steps=None if phase.warmup_steps is None else round(phase.warmup_steps * scale),
        warmup_epochs=None if phase.warmup_epochs is None else phase.warmup_epochs * scale,
    )


def label(values: Values) -> str:
    """What distinguishes an arm, short enough for a folder and a run's name: ``lam=0.7 lr=0.01``."""
    ends = [path.rsplit(".", 1)[1] if "." in path else path for path in values]
    names = ends if len(set(ends)) == len(ends) else list(values)
    return " ".join(f"{name}={_short(value)}" for name, value in zip(names, values.values(), strict=True))


def _short(value: Any) -> str:
    if _is_list(value) and len(value) > 3:  # classes, for example
        value = f"{len(value)}_from_{value[0]}"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return "".join(letter if letter.isalnum() or letter in "._+-" else "_" for letter in text)[:40]


def _samples(path: str, value: Any) -> Sequence[Any]:
    listed = _listed(value)
    if listed is not None:
        if not listed:
            raise InputError(path, "has no values", "Give at least one")
        return listed
    if isinstance(value, Domain):
        return [value.sample()]
    raise InputError(path, f"{value!r} is no search space", "Give a list of values, or a domain such as tune.uniform")


def _listed(value: Any) -> list[Any] | None:
    if isinstance(value, Mapping) and set(value) == {"grid_search"}:
        value = value["grid_search"]
    return list(value) if _is_list(value) else None


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)

"""Runs as they are compared, and which of them are one variant: those that differ in nothing but the seed."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from xray_det.evaluation.measured import Measured


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Hours of processors, all workers together."""

    cpu_hours: float
    gpu_hours: float

    def __str__(self) -> str:
        return f"{self.gpu_hours:.3g} GPU-h" if self.gpu_hours else f"{self.cpu_hours:.3g} CPU-h"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run as it is compared.

    Attributes:
        name: what it is called, not necessarily unique.
        measured: the validation that counts.
        step: optimizer steps before that validation.
        parameters: path -> value of what the outcome depends on; ``seed`` is the seed.
        cost: None while it has not finished, or where it was not kept.
        finished: the training came to its end.
    """

    name: str
    measured: Measured
    step: int
    parameters: Mapping[str, Any]
    cost: Cost | None = None
    finished: bool = True


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Runs that differ in nothing but the seed.

    Attributes:
        label: unique in the comparison.
        runs: one or more.
        changes: path -> value, of the parameters that are not the same in all variants.
    """

    label: str
    runs: tuple[Run, ...]
    changes: Mapping[str, str]

    @property
    def cost(self) -> Cost | None:
        """Of one run, the mean over those that know it."""
        known = [run.cost for run in self.runs if run.cost is not None]
        if not known:
            return None
        cpu, gpu = ([getattr(cost, name) for cost in known] for name in ("cpu_hours", "gpu_hours"))
        return Cost(cpu_hours=float(np.mean(cpu)), gpu_hours=float(np.mean(gpu)))


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Path -> the shortest end of it that no other path has: ``phases.1.sampling.lam`` -> ``lam``."""
    parts = {path: path.split(".") for path in paths}
    ends = Counter(".".join(part[-size:]) for part in parts.values() for size in range(1, len(part) + 1))
    return {
        path: next(
            end for size in range(1, len(part) + 1) if ends[end := ".".join(part[-size:])] == 1 or size == len(part)
        )
        for path, part in parts.items()
    }


def variants_of(runs: Sequence[Run]) -> tuple[Variant, ...]:
    """Runs by equal parameters, in the order given; the same seed twice is a repeat, and not of one variant."""
    groups: dict[tuple[str, int], list[Run]] = {}
    seen: dict[str, int] = {}
    for run in runs:
        rest = json.dumps({k: v for k, v in run.parameters.items() if k != "seed"}, sort_keys=True, default=str)
        exact = f"{rest} {run.parameters.get('seed')}"
        seen[exact] = seen.get(exact, 0) + 1
        groups.setdefault((rest, seen[exact]), []).append(run)
    values = [_values(group) for group in groups.values()]
    paths = list(dict.fromkeys(path for value in values for path in value))
    differing = [path for path in paths if len({value.get(path) for value in values}) > 1]
    found: dict[str, Variant] = {}
    for group, value in zip(groups.values(), values, strict=True):
        label = stem = _label([run.name for run in group])
        number = 1
        while label in found:
            number += 1
            label = f"{stem} ({number})"
        changes = {path: value[path] for path in differing if path in value}
        found[label] = Variant(label=label, runs=tuple(group), changes=changes)
    return tuple(found.values())


def _values(group: Sequence[Run]) -> dict[str, str]:
    """Path -> value as text; the seeds of all runs."""
    values = {path: _text(value) for path, value in group[0].parameters.items()}
    if "seed" in values:
        values["seed"] = ",".join(sorted({_text(run.parameters["seed"]) for run in group}, key=lambda s: (len(s), s)))
    return values


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _label(names: Sequence[str]) -> str:
    """The name of a variant: the words that its runs' names begin with alike."""
    if len(names) == 1:
        return names[0]
    words = (re.findall(r"[^-_ ,/]+[-_ ,/]*", name) for name in names)
    alike = takewhile(lambda word: len(set(word)) == 1, zip(*words, strict=False))
    shared = "".join(word[0] for word in alike).rstrip("-_ ,/")
    return f"{shared or names[0]} ({len(names)} seeds)"

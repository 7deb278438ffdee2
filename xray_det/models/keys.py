"""Copying parameters by name, with the fate of every key told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xray_det.errors import InputError

#: A counter that batch norm keeps beside its statistics. Nothing here reads it, so a file may have it or not.
_COUNTER = "num_batches_tracked"
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What became of every key when a file's tensors were put into a module.

    Attributes:
        source: the file.
        taken: keys copied whole.
        partly: (key, what was copied), e.g. the rows of shared classes.
        left: (key of the file, why it was not used).
        missing: keys of the module that the file has not: they keep their random start.
    """

    source: str
    taken: tuple[str, ...] = ()
    partly: tuple[tuple[str, str], ...] = ()
    left: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report, one line a key that was not simply copied, after a line of counts."""
        counts = (
            f"{len(self.taken)} taken, {len(self.partly)} in part, {len(self.left)} left, {len(self.missing)} missing"
        )
        return [
            f"{self.source}: {counts}",
            *(f"  in part  {key}: {what}" for key, what in self.partly),
            *(f"  left     {key}: {why}" for key, why in self.left),
            *(f"  missing  {key}: keeps its random start" for key in self.missing),
        ]

    def require_whole(self, what: str, remedy: str) -> None:
        """Raises InputError if a key was left or is missing; ``what`` was to be filled."""
        problems = []
        if self.missing:
            problems.append(f"{len(self.missing)} keys are missing ({some(self.missing)})")
        if self.left:
            problems.append(f"{len(self.left)} do not fit ({some([f'{key}: {why}' for key, why in self.left])})")
        if problems:
            problem = f"does not fit {what}: {len(self.taken)} keys fit, {', '.join(problems)}"
            raise InputError(self.source, problem, remedy)


def some(items: Sequence[str]) -> str:
    """The first of them, for a message."""
    return "; ".join([*(item[:200] for item in items[:_SHOWN]), *(["..."] if len(items) > _SHOWN else [])])


@torch.no_grad()
def copy_by_name(module: nn.Module, state: Mapping[str, Tensor], source: str) -> Loaded:
    """Copy every tensor of ``state`` whose name and shape the module has; strides of the module are kept.

    Integers are not put in the place of real numbers: a quantised network's weights mean something else.
    """
    own = module.state_dict()
    taken, left = [], []
    for key, value in state.items():
        if key not in own:
            if not key.endswith(_COUNTER):
                left.append((key, "the model has no such key"))
        elif own[key].shape != value.shape:
            left.append((key, f"shape {list(value.shape)}, the model has {list(own[key].shape)}"))
        elif own[key].is_floating_point() != value.is_floating_point():
            left.append((key, f"holds {value.dtype}, the model {own[key].dtype}"))
        else:
            own[key].copy_(value)
            taken.append(key)
    found = set(taken)
    missing = tuple(key for key in own if key not in found and not key.endswith(_COUNTER))
    return Loaded(source=source, taken=tuple(taken), left=tuple(left), missing=missing)

"""What a phase trains: gradients switched on and off, and class rows kept where they were."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xray_det.errors import InputError
from xray_det.models.predictions import Detector
from xray_det.train.optimizer import NORMS
from xray_det.train.phase import Everything, Head, Trainable

#: Parameters under this attribute of a detector are its backbone and feature pyramid.
BACKBONE = "pyramid."


@dataclass(kw_only=True)
class FrozenRows:
    """Rows of a parameter's first axis that must not move while the others learn.

    Masking the gradient keeps them out of the gradient's norm; momentum carried over and weight decay would still
    move them, so ``restore`` puts them back after an update.
    """

    parameter: nn.Parameter
    frozen: Tensor  # bool [rows]
    values: Tensor  # of the frozen rows

    def mask_gradient(self) -> None:
        if self.parameter.grad is not None:
            self.parameter.grad[self.frozen] = 0

    @torch.no_grad()
    def restore(self) -> None:
        self.parameter[self.frozen] = self.values


def learnable(detector: nn.Module) -> frozenset[str]:
    """Names of the parameters that the freshly built model lets learn; what it froze itself stays frozen."""
    return frozenset(name for name, parameter in detector.named_parameters() if parameter.requires_grad)


def freeze(detector: Detector, trainable: Trainable, names: frozenset[str], classes: Sequence[str]) -> list[FrozenRows]:
    """Switch gradients so that exactly ``trainable``, within the learnable ``names``, learns.

    Normalisations that learn nothing stop following statistics too.

    Args:
        classes: names of the unified classes, in the order of the classifier's outputs.

    Returns:
        the rows to hold where only some rows of a parameter learn.

    Raises:
        InputError: a class that does not exist.
    """
    rows: dict[str, Tensor] = {}
    if isinstance(trainable, Everything):
        chosen = names
    elif isinstance(trainable, Head):
        chosen = frozenset(name for name in names if not name.startswith(BACKBONE))
    else:
        rows = class_rows(detector, trainable.names, classes)
        chosen = frozenset(rows)
    for name, parameter in detector.named_parameters():
        parameter.requires_grad_(name in chosen)
    detector.train()
    for module in detector.modules():
        if isinstance(module, NORMS) and not any(p.requires_grad for p in module.parameters()):
            module.eval()
    parameters = dict(detector.named_parameters())
    return [
        FrozenRows(parameter=parameters[name], frozen=~kept, values=parameters[name].detach()[~kept].clone())
        for name, kept in rows.items()
    ]


def class_rows(detector: Detector, names: Sequence[str], classes: Sequence[str]) -> dict[str, Tensor]:
    """Parameter name -> bool [rows], the rows of the classification layer that belong to the classes ``names``."""
    unknown = [name for name in names if name not in classes]
    if unknown:
        close = difflib.get_close_matches(unknown[0], classes)
        raise InputError(
            "trainable.names",
            f"no class is called {unknown[0]!r}",
            f"Did you mean {' or '.join(close)}" if close else f"Give names such as {', '.join(classes[:5])}",
        )
    columns = [classes.index(name) for name in names]
    parameters = dict(detector.named_parameters())
    masks = {}
    for name, per_cell in detector.class_rows().items():
        rows = torch.zeros(
            per_cell, len(parameters[name]) // per_cell, dtype=torch.bool, device=parameters[name].device
        )
        rows[:, columns] = True
        masks[name] = rows.flatten()
    return masks

"""The optimizer of a phase, its schedule, and which parameters it holds."""

import bisect
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from xray_det.train.phase import SGD, Phase

#: Modules whose parameters are scales and shifts of a normalisation.
NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)


def parameter_groups(model: nn.Module, *, weight_decay: float, decay_norms: bool) -> list[dict[str, Any]]:
    """Groups of the named parameters that require a gradient, in the model's order.

    Without ``decay_norms`` the parameters of normalisations and all biases stand in a second group with weight decay 0.
    Groups without a member are left out.
    """
    exempt = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, NORMS) or name == "bias"
    }
    learning = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decayed = [(n, p) for n, p in learning if decay_norms or id(p) not in exempt]
    rest = [(n, p) for n, p in learning if not decay_norms and id(p) in exempt]
    return [
        {"params": members, "weight_decay": decay}
        for members, decay in ((decayed, weight_decay), (rest, 0.0))
        if members
    ]


def build_optimizer(model: nn.Module, phase: Phase) -> torch.optim.Optimizer:
    """The phase's optimizer over the parameters of ``model`` that require a gradient (at least one)."""
    config = phase.optimizer
    groups = parameter_groups(model, weight_decay=config.weight_decay, decay_norms=config.decay_norms)
    # fused: parameters are read once, and on CUDA no other kind can skip an update without asking the host
    if isinstance(config, SGD):
        return torch.optim.SGD(groups, lr=phase.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)
    return torch.optim.AdamW(groups, lr=phase.lr, betas=(config.beta1, config.beta2), fused=True)


def warmup_length(phase: Phase, steps_per_epoch: int) -> int:
    """Steps of the phase's warm-up."""
    if phase.warmup_steps is not None:
        return phase.warmup_steps
    if phase.warmup_epochs is not None:
        return round(phase.warmup_epochs * steps_per_epoch)
    return 0 if phase.keep_optimizer else min(500, round(phase.epochs * steps_per_epoch / 10))


def lr_factor(phase: Phase, step: int, steps_per_epoch: int) -> float:
    """What lr is multiplied by at step ``step`` of the phase, counted from 0.

    With W warm-up steps and f the warm-up factor, f + (1 - f) step / W while step < W, else 1; times drop_factor
    to the power of the drops passed. A drop at epoch e is passed from step round(e * steps_per_epoch) on.
    """
    warmup = warmup_length(phase, steps_per_epoch)
    rise = phase.warmup_factor + (1 - phase.warmup_factor) * step / warmup if step < warmup else 1.0
    drops = [round(epoch * steps_per_epoch) for epoch in phase.drops]
    return float(rise * phase.drop_factor ** bisect.bisect_right(drops, step))


def build_schedule(optimizer: torch.optim.Optimizer, phase: Phase, *, steps_per_epoch: int, step: int) -> LambdaLR:
    """A schedule by optimizer step that stands at ``step`` of the phase: the next update uses lr_factor(step).

    It has no state of its own beyond the step, so none is saved.
    """
    for group in optimizer.param_groups:
        group["initial_lr"] = phase.lr
    return LambdaLR(optimizer, lambda now: lr_factor(phase, now, steps_per_epoch), last_epoch=step - 1)


def names_in_order(optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the optimizer's parameters in its own numbering."""
    return [name for group in optimizer.param_groups for name in group["param_names"]]

"""A checkpoint: a folder from which a training goes on as if it had never stopped. Nothing in it is pickled.

    weights/              the model, a folder of its own that others can open
    ema/                  the averaged model, likewise, where averaging is on
    training.safetensors  the optimizer's tensors, named PARAMETER/STATE
    training.json         position, fingerprint of the configuration, what of the optimizer is not a tensor

Random numbers are not in it: each draw is a function of (seed, phase, epoch, plan position). Nor is the schedule, a
function of the step.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from xray_det.errors import InputError
from xray_det.train.context import Position
from xray_det.train.optimizer import names_in_order

FORMAT = 1
WEIGHTS, EMA, TENSORS, STATE = "weights", "ema", "training.safetensors", "training.json"

#: parameter name -> state name -> tensor, number or None. Every parameter that the optimizer holds has an entry, an
#: empty one if it has no state (before the first step, without momentum, or never reached by a gradient).
OptimizerState = dict[str, dict[str, Any]]
#: Writes a model into an existing folder as ``model.safetensors`` and what describes it.
SaveWeights = Callable[[nn.Module, Path], None]


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a checkpoint says beside the weights."""

    position: Position
    optimizer: OptimizerState


def optimizer_state(optimizer: torch.optim.Optimizer) -> OptimizerState:
    """The optimizer's state by parameter name."""
    state = optimizer.state_dict()["state"]
    return {name: dict(state.get(index, {})) for index, name in enumerate(names_in_order(optimizer))}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: OptimizerState, *, exact: bool) -> None:
    """Give the optimizer a state by parameter name.

    Args:
        exact: the state must be that of an optimizer of the same parameters; else what both have is taken (a phase
            that keeps the optimizer of one that trained other parameters).

    Raises:
        InputError: ``exact`` and the names or shapes differ.
    """
    names = names_in_order(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if exact and set(names) != set(state):
        missing, strange = sorted(set(names) - set(state)), sorted(set(state) - set(names))
        raise InputError(
            TENSORS,
            f"the optimizer's parameters differ: {missing[:3]} were not trained, {strange[:3]} are not trained now",
            "Resume with the configuration and version that wrote the checkpoint",
        )
    groups = optimizer.state_dict()["param_groups"]
    chosen = {}
    for index, (name, parameter) in enumerate(zip(names, parameters, strict=True)):
        if state.get(name):
            chosen[index] = {key: _like(value, parameter, f"{name}/{key}") for key, value in state[name].items()}
    optimizer.load_state_dict({"state": chosen, "param_groups": groups})


def _like(value: Any, parameter: Tensor, where: str) -> Any:
    """In the parameter's memory format, which decides in which order elements are taken and so the last bit."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    if value.shape != parameter.shape:
        raise InputError(
            where,
            f"has shape {list(value.shape)}, the model {list(parameter.shape)}",
            "Resume with the configuration that wrote the checkpoint",
        )
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def save(
    folder: Path,
    *,
    detector: nn.Module,
    ema: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
    position: Position,
    fingerprint: str,
    save_weights: SaveWeights,
) -> None:
    """Write a checkpoint into an existing folder; the caller renames or uploads the folder as a whole."""
    for name, model in ((WEIGHTS, detector), (EMA, ema.module if ema is not None else None)):
        if model is not None:
            (folder / name).mkdir()
            save_weights(model, folder / name)
    state = optimizer_state(optimizer)
    tensors = {f"{p}/{k}": v.contiguous() for p, named in state.items() for k, v in named.items() if _is_tensor(v)}
    plain = {p: {k: v for k, v in named.items() if not _is_tensor(v)} for p, named in state.items()}
    save_file(tensors, folder / TENSORS)
    document = {
        "format": FORMAT,
        "position": asdict(position),
        "fingerprint": fingerprint,
        "optimizer": plain,
        "ema_updates": int(ema.n_averaged) if ema is not None else None,
    }
    (folder / STATE).write_text(json.dumps(document, indent=1))


def load(
    folder: Path, *, detector: nn.Module, ema: AveragedModel | None, fingerprint: Callable[[Position], str]
) -> Saved:
    """Put a checkpoint's weights into the models and return the rest.

    Args:
        fingerprint: position -> the fingerprint that a checkpoint there must bear.

    Raises:
        InputError: another format, another configuration, a file that is missing or does not fit the model.
    """
    try:
        document: Mapping[str, Any] = json.loads((folder / STATE).read_text())
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            folder, f"is no whole checkpoint ({error})", "Remove it and resume from the one before"
        ) from error
    if document["format"] != FORMAT:
        raise InputError(folder, f"has format {document['format']}, not {FORMAT}", "Use the version that wrote it")
    position = Position(**document["position"])
    if document["fingerprint"] != fingerprint(position):
        raise InputError(folder, "was written under another configuration", "Give the run another name")
    load_weights(folder / WEIGHTS, detector)
    if ema is not None:
        load_weights(folder / EMA, ema.module)
        ema.n_averaged.fill_(document["ema_updates"])
    state: OptimizerState = {parameter: dict(named) for parameter, named in document["optimizer"].items()}
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition("/")
        state[parameter][key] = tensor
    return Saved(position=position, optimizer=state)


def load_weights(folder: Path, model: nn.Module) -> None:
    """Every tensor of ``folder/model.safetensors`` into the model, none missing and none left over.

    Raises:
        InputError: a missing file, a key or a shape that differs.
    """
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(
            folder, f"does not fit the model ({error})", "Resume with the run's own configuration"
        ) from error


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)

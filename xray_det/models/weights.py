"""Weights in and out: pretrained backbones, other detectors' parameters by name, and the folder a detector is saved as.

A folder holds ``model.safetensors``, ``config.json`` (architecture, label space, ``id2label``, the resolved experiment)
and ``preprocessor_config.json``; nothing is pickled.
"""

import urllib.error
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from xray_det import storage
from xray_det.config import from_dict, to_dict
from xray_det.errors import InputError
from xray_det.labels.space import LabelSpace
from xray_det.models.backbones import PIXEL_MEAN, PIXEL_STD, Backbone
from xray_det.models.decoding import Decoding
from xray_det.models.keys import Loaded, copy_by_name
from xray_det.models.predictions import Detector

#: Keys of a detector below this prefix are its classification loss's: data of a training, and no parameters.
COUNTED = "classification."
WEIGHTS_FILE, CONFIG_FILE, PREPROCESSOR_FILE = "model.safetensors", "config.json", "preprocessor_config.json"


def read_weights(uri: str | Path) -> dict[str, Tensor]:
    """Tensors by name of a .safetensors file, or of a PyTorch file of nothing but tensors.

    Raises:
        InputError: no such file, not such a file, or it holds more than tensors.
    """
    if not storage.exists(uri):
        raise InputError(uri, "no such file", "Check the path")
    if str(uri).endswith(".safetensors"):
        try:
            return dict(safetensors.torch.load(storage.read_bytes(uri)))
        except safetensors.SafetensorError as error:
            raise InputError(uri, f"not a safetensors file ({error})", "Copy the file anew") from error
    try:
        state = torch.load(str(uri), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file or a pickled object
        problem = str(error).split("\n")[0]
        raise InputError(uri, f"holds more than tensors or is damaged ({problem})", "Save its state_dict()") from error
    for wrapper in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(uri, "is no table of tensors by name", "Save a model's state_dict()")
    return dict(state)


def load_backbone(body: nn.Module, config: Backbone) -> Loaded | None:
    """Fill a pyramid's ``body`` as ``config.weights`` says; None when it says "none".

    Raises:
        InputError: the file is missing or not readable, fits the network nowhere, or the download was refused.
    """
    if config.weights == "none":
        return None
    if config.weights == "library":
        source, state = _download(config.name)
    else:
        source, state = config.weights, read_weights(config.weights)
    # A whole detector's file is welcome too: its backbone lies below one of these prefixes.
    for prefix in ("pyramid.body.", "backbone.body.", "module."):
        if any(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    loaded = copy_by_name(body, state, source)
    if not loaded.taken:
        raise InputError(source, f"holds no key of a {config.name}", "Give weights of that network")
    return loaded


def _download(name: str) -> tuple[str, dict[str, Tensor]]:
    """torchvision's best ImageNet weights of a network, from its cache or its server."""
    import torchvision  # not with the module: see backbones.py

    url = torchvision.models.get_model_weights(name).DEFAULT.url
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / url.rsplit("/", 1)[-1]
    try:
        state = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise InputError(
            "backbone.weights",
            f"{url} cannot be downloaded ({error})",
            f"Put {file.name} into {folder}, or give the path of a file with weights of a {name} instead of library",
        ) from error
    return str(file), dict(state)


def transfer(
    detector: Detector, state: Mapping[str, Tensor], source: str, *, old: LabelSpace, new: LabelSpace
) -> Loaded:
    """Start a detector from another's parameters: equal names and shapes whole, classifier rows by class name.

    Args:
        detector: of the classes of ``new``; changed in place.
        state: parameters of a detector of the classes of ``old``.

    Rows of classes that ``old`` has not keep their random start; a background row is copied to the background row. What
    the classification loss has counted on its training data stays where it is.
    """
    rows = detector.class_rows()
    whole = {key: value for key, value in state.items() if key not in rows and not key.startswith(COUNTED)}
    loaded = copy_by_name(detector, whole, source)
    own = detector.state_dict()
    number = {entry.name: i for i, entry in enumerate(old.classes)}
    pairs = [(number[entry.name], i) for i, entry in enumerate(new.classes) if entry.name in number]
    partly, left = [], list(loaded.left)
    missing = [key for key in loaded.missing if key not in rows and not key.startswith(COUNTED)]
    left += [(key, "counted on other training data") for key in state if key.startswith(COUNTED)]
    for key, repeats in rows.items():
        problem = _copy_rows(own[key], state.get(key), repeats, pairs, len(old.classes), len(new.classes))
        if key not in state:
            missing.append(key)
        elif problem:
            left.append((key, problem))
        else:
            partly.append((key, f"rows of {len(pairs)} of {len(new.classes)} classes, by name"))
    return replace(loaded, partly=tuple(partly), left=tuple(left), missing=tuple(missing))


@torch.no_grad()
def _copy_rows(
    to: Tensor, origin: Tensor | None, repeats: int, pairs: list[tuple[int, int]], old: int, new: int
) -> str | None:
    """Copy classifier rows; says why not when the tensors do not allow it."""
    if origin is None:
        return None
    extra = to.shape[0] // repeats - new
    if to.shape[1:] != origin.shape[1:] or origin.shape[0] != repeats * (old + extra):
        return f"shape {list(origin.shape)} does not fit {list(to.shape)} with other classes, or another loss"
    pairs = pairs + [(old + i, new + i) for i in range(extra)]
    if pairs:
        source, target = (torch.tensor(column) for column in zip(*pairs, strict=True))
        to.unflatten(0, (repeats, -1))[:, target] = origin.unflatten(0, (repeats, -1))[:, source].to(to)
    return None


def save_detector(
    folder: str | Path,
    detector: Detector,
    space: LabelSpace,
    *,
    experiment: Mapping[str, Any] | None = None,
    preprocessor: Mapping[str, Any] | None = None,
) -> None:
    """Write a detector as a folder.

    Args:
        folder: path or URI; files of the same names are replaced.
        space: the classes, in the order of the classifier's outputs.
        experiment: the resolved experiment, kept as it is.
        preprocessor: what else a user needs to prepare images (resize sides); normalisation is added here.
    """
    if len(space.classes) != detector.num_classes:
        problem = f"{len(space.classes)} classes, the detector has {detector.num_classes}"
        raise InputError(f"label space {space.name}", problem, "Save with the label space it was built for")
    state = {key: value.detach().cpu().contiguous() for key, value in detector.state_dict().items()}
    storage.write_bytes(storage.join(folder, WEIGHTS_FILE), safetensors.torch.save(state, {"format": "pt"}))
    names = [entry.name for entry in space.classes]
    kind = type(detector.config).__name__
    config = {
        "model_type": "xray_det",
        "architectures": [kind],
        "architecture": {"type": kind, **to_dict(detector.config)},
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "label_space": space.to_json(),
        "experiment": experiment,
    }
    storage.write_json(storage.join(folder, CONFIG_FILE), config)
    pixels = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(PIXEL_MEAN),
        "image_std": list(PIXEL_STD),
        "do_convert_rgb": True,
        "do_pad": True,
    }
    storage.write_json(storage.join(folder, PREPROCESSOR_FILE), {**pixels, **(preprocessor or {})})


def read_config(folder: str | Path) -> dict[str, Any]:
    """``config.json`` of a saved detector.

    Raises:
        InputError: the folder holds none, or another program's.
    """
    config = storage.read_json(storage.join(folder, CONFIG_FILE))
    if not isinstance(config, dict) or config.get("model_type") != "xray_det":
        raise InputError(storage.join(folder, CONFIG_FILE), "is not a detector of xray_det", "Give its weights folder")
    return config


def load_detector(folder: str | Path, *, decoding: Decoding | None = None) -> tuple[Detector, LabelSpace]:
    """The detector that ``save_detector`` wrote, on the CPU in evaluation mode, and its classes.

    Args:
        decoding: how detections are read off; None: as it was saved.

    Raises:
        InputError: a file is missing, or the weights do not fit the architecture.
    """
    from xray_det.models import Model  # the detectors import this module for their backbones

    config = read_config(folder)
    space = LabelSpace.from_json(config["label_space"])
    architecture: Model = from_dict(Model, config["architecture"])  # type: ignore[arg-type]
    architecture = replace(architecture, backbone=architecture.backbone.without_weights())
    if decoding is not None:
        architecture = replace(architecture, decoding=decoding)
    detector = architecture.build(len(space.classes))
    weights = storage.join(folder, WEIGHTS_FILE)
    try:
        detector.load_state_dict(read_weights(weights), strict=True)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise InputError(
            weights, f"does not fit config.json beside it ({problem})", "Save the detector anew"
        ) from error
    return detector.eval(), space


def transfer_from(detector: Detector, folder: str | Path, space: LabelSpace) -> Loaded:
    """``transfer`` from a saved detector's folder into ``detector``, whose classes are ``space``."""
    old = LabelSpace.from_json(read_config(folder)["label_space"])
    source = storage.join(folder, WEIGHTS_FILE)
    return transfer(detector, read_weights(source), source, old=old, new=space)

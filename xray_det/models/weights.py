"""Weights in and out: pretrained backbones, other detectors' parameters by name, and the folder a detector is saved as.

A folder holds ``model.safetensors``, ``config.json`` (architecture, label space, ``id2label``, the resolved experiment)
and ``preprocessor_config.json``; nothing is pickled.
"""

import io
import urllib.error
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from xray_det import storage
from xray_det.config import from_dict, to_dict
from xray_det.errors import InputError, within
from xray_det.labels.space import LabelSpace
from xray_det.models.backbones import PIXEL_MEAN, PIXEL_STD, Backbone
from xray_det.models.decoding import Decoding
from xray_det.models.keys import Loaded, copy_by_name, some
from xray_det.models.naming import backbone_keys
from xray_det.models.norm import Norm
from xray_det.models.predictions import Detector

if TYPE_CHECKING:
    from xray_det.models import Model

#: Keys of a detector below this prefix are its classification loss's: data of a training, and no parameters.
COUNTED = "classification."
#: Under which name a training's checkpoint holds the model, one within another; averaged weights before others.
WRAPPERS: Final = (
    *("model_ema", "state_dict_ema", "ema"),
    *("model", "state_dict", "model_state_dict", "model_state", "net", "module"),
)
WEIGHTS_FILE, CONFIG_FILE, PREPROCESSOR_FILE = "model.safetensors", "config.json", "preprocessor_config.json"


def read_weights(uri: str | Path) -> dict[str, Tensor]:
    """Tensors by name of a .safetensors file, or of a PyTorch file of nothing but tensors.

    Where a PyTorch file is a training's checkpoint, they are those of the model in it, the averaged ones if it has any.

    Raises:
        InputError: no such file, not such a file, or it holds more than tensors.
    """
    content = storage.read_file(uri, most_bytes=None)
    if storage.locate(uri)[1].endswith(".safetensors"):
        try:
            return dict(safetensors.torch.load(content))
        except safetensors.SafetensorError as error:
            raise InputError(uri, f"not a safetensors file ({error})", "Copy the file anew") from error
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file or a pickled object
        problem = str(error).split("\n")[0]
        remedy = "Where you trust its origin, load it with PyTorch and save its state_dict() alone"
        raise InputError(uri, f"holds more than tensors or is damaged ({problem})", remedy) from error
    for _ in WRAPPERS:  # not for ever: a pickle may hold itself
        inner = [state[name] for name in WRAPPERS if state.get(name)] if isinstance(state, Mapping) else []
        state = next((each for each in inner if isinstance(each, Mapping)), state)
    if not isinstance(state, Mapping) or not all(isinstance(k, str) and _is_plain(v) for k, v in state.items()):
        raise InputError(uri, "is no table of tensors by name", "Save a model's state_dict()")
    return dict(state)


def _is_plain(value: object) -> bool:
    """Whether it is a tensor with numbers of its own, laid out in strides."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta


def load_backbone(body: nn.Module, config: Backbone) -> Loaded | None:
    """Fill a pyramid's ``body`` as ``config.weights`` says; None when it says "none".

    A file's other tensors (a classifier's last layer, a detector's heads) are left.

    Raises:
        InputError: the file is missing or not readable, the download was refused, or, unless ``config.partial``, the
            file lacks a tensor of the network or has one that the network has no place for.
    """
    if config.weights == "none":
        return None
    if config.weights == "library":
        source, state = _download(config.name)
    else:
        source, state = config.weights, read_weights(config.weights)
    names = backbone_keys(state, body.state_dict().keys(), source)
    loaded = copy_by_name(body, {name: state[key] for name, key in names.items()}, source)
    if not loaded.taken:
        problem = f"holds no key of a {config.name}, but {len(state)} others ({some(list(state))})"
        raise InputError(source, problem, "Give weights of that network")
    if not config.partial:
        norm = config.resolved_norm()
        loaded.require_whole(f"a {config.name} with {norm} norms", _backbone_remedy(loaded, norm))
    used = set(names.values())
    others = ((key, "is no part of the backbone") for key in state if key not in used)
    return replace(loaded, left=(*((names[name], why) for name, why in loaded.left), *others))


def _backbone_remedy(loaded: Loaded, norm: Norm) -> str:
    partial = "model.backbone.partial=true to take what fits"
    statistics = ("running_mean", "running_var")
    if norm == "group" and loaded.left and all(key.endswith(statistics) for key, _ in loaded.left):
        return f"Set model.backbone.norm to frozen or sync, which take batch statistics, or {partial}"
    if norm != "group" and loaded.missing and all(key.endswith(statistics) for key in loaded.missing):
        return (
            f"Set model.backbone.norm to group, as the file's network was made without batch statistics, or {partial}"
        )
    return f"Give weights of that network, set model.backbone.name to the file's, or {partial}"


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
    detector: Detector,
    state: Mapping[str, Tensor],
    source: str,
    *,
    old: LabelSpace,
    new: LabelSpace,
    partial: bool = False,
) -> Loaded:
    """Start a detector from another's parameters: equal names and shapes whole, classifier rows by class name.

    Args:
        detector: of the classes of ``new``; changed in place.
        state: parameters of a detector of the classes of ``old``.
        partial: take what fits where not all does.

    Rows of classes that ``old`` has not keep their random start; a background row is copied to the background row. A
    classifier for a loss with another number of outputs keeps its random start whole. What the classification loss has
    counted on its training data stays where it is.

    Raises:
        InputError: anything else of either detector has no counterpart in the other, and not ``partial``.
    """
    rows = detector.class_rows()
    whole = {key: value for key, value in state.items() if key not in rows and not key.startswith(COUNTED)}
    loaded = copy_by_name(detector, whole, source)
    own = detector.state_dict()
    number = {entry.name: i for i, entry in enumerate(old.classes)}
    pairs = [(number[entry.name], i) for i, entry in enumerate(new.classes) if entry.name in number]
    partly, left, other_loss = [], list(loaded.left), []
    missing = [key for key in loaded.missing if key not in rows and not key.startswith(COUNTED)]
    for key, repeats in rows.items():
        to, origin, extra = own[key], state.get(key), own[key].shape[0] // repeats - len(new.classes)
        if origin is None:
            missing.append(key)
            continue
        alike = origin.dim() == to.dim() and origin.shape[1:] == to.shape[1:] and origin.is_floating_point()
        outputs = origin.shape[0] / repeats - len(old.classes) if alike else None
        if outputs == extra:
            background = [(len(old.classes) + i, len(new.classes) + i) for i in range(extra)]
            _copy_rows(to, origin, repeats, [*pairs, *background])
            partly.append((key, f"rows of {len(pairs)} of {len(new.classes)} classes, by name"))
        elif outputs in (0, 1):
            other_loss.append((key, f"shape {list(origin.shape)} is of another loss than {list(to.shape)}"))
        else:
            left.append((key, f"shape {list(origin.shape)} does not fit {list(to.shape)} with other classes"))
    loaded = replace(loaded, partly=tuple(partly), left=tuple(left), missing=tuple(missing))
    if not partial:
        remedy = "Give the model as config.json beside it has it, or start_partial=true to take what fits"
        loaded.require_whole(f"this {type(detector.config).__name__}", remedy)
    counted = [(key, "counted on other training data") for key in state if key.startswith(COUNTED)]
    return replace(loaded, left=(*left, *other_loss, *counted))


@torch.no_grad()
def _copy_rows(to: Tensor, origin: Tensor, repeats: int, pairs: list[tuple[int, int]]) -> None:
    """Copy classifier outputs; ``pairs`` are (from, to), the first axis is [repeats, outputs] flattened."""
    if pairs:
        source, target = (torch.tensor(column) for column in zip(*pairs, strict=True))
        to.unflatten(0, (repeats, -1))[:, target] = origin.unflatten(0, (repeats, -1))[:, source].to(to)


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
    # As it is now: with its norm by name, and without the file that its backbone was once read from.
    architecture = replace(detector.config, backbone=detector.config.backbone.without_weights())
    config = {
        "model_type": "xray_det",
        "architectures": [kind],
        "architecture": {"type": kind, **to_dict(architecture)},
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
        InputError: the folder holds none, or another program's, or what is in it is no table.
    """
    file = storage.join(folder, CONFIG_FILE)
    config = storage.read_json(file)
    if not isinstance(config, dict) or config.get("model_type") != "xray_det":
        raise InputError(file, "is not a detector of xray_det", "Give its weights folder")
    for key in ("architecture", "label_space", "experiment"):
        value = config.get(key)
        if not isinstance(value, dict) and not (key == "experiment" and value is None):
            raise InputError(f"{file}: {key}", "is missing or no table", "Save the detector anew")
    return config


def read_space(folder: str | Path) -> LabelSpace:
    """The classes of a saved detector. Raises InputError as ``read_config``, and for what is no label space."""
    config = read_config(folder)
    with within(f"{storage.join(folder, CONFIG_FILE)}: label_space"):
        return LabelSpace.from_json(config["label_space"])


def read_architecture(folder: str | Path) -> "Model":
    """How a saved detector is built. Raises InputError as ``read_config``, and for what is no architecture."""
    from xray_det.models import Model  # the detectors import this module for their backbones

    config = read_config(folder)
    with within(f"{storage.join(folder, CONFIG_FILE)}: architecture"):
        architecture: Model = from_dict(Model, config["architecture"])  # type: ignore[arg-type]
    return architecture


def load_detector(folder: str | Path, *, decoding: Decoding | None = None) -> tuple[Detector, LabelSpace]:
    """The detector that ``save_detector`` wrote, on the CPU in evaluation mode, and its classes.

    Args:
        decoding: how detections are read off; None: as it was saved.

    Raises:
        InputError: a file is missing or says what cannot be, or the weights do not fit the architecture.
    """
    space, architecture = read_space(folder), read_architecture(folder)
    architecture = replace(architecture, backbone=architecture.backbone.without_weights())
    if decoding is not None:
        architecture = replace(architecture, decoding=decoding)
    weights, config = storage.join(folder, WEIGHTS_FILE), storage.join(folder, CONFIG_FILE)
    state = read_weights(weights)
    try:
        with torch.device("meta"), within(f"{config}: architecture"):  # no memory, whatever sizes the file asks for
            detector = architecture.build(len(space.classes))
    except (RuntimeError, TypeError) as error:
        problem = f"asks for a network that cannot be ({str(error).splitlines()[0]})"
        raise InputError(f"{config}: architecture", problem, "Save the detector anew") from error
    fate = copy_by_name(detector, state, weights)
    fate.require_whole("config.json beside it", "Save the detector anew")
    filled = {
        key: state[key].to(own.dtype) if key in state else torch.zeros_like(own, device="cpu")  # a counter (keys.py)
        for key, own in detector.state_dict().items()
    }
    detector.load_state_dict(filled, assign=True)
    return detector.to(memory_format=torch.channels_last).eval(), space


def transfer_from(detector: Detector, folder: str | Path, space: LabelSpace, *, partial: bool = False) -> Loaded:
    """``transfer`` from a saved detector's folder into ``detector``, whose classes are ``space``."""
    source = storage.join(folder, WEIGHTS_FILE)
    return transfer(detector, read_weights(source), source, old=read_space(folder), new=space, partial=partial)


def starting_from(model: "Model", folder: str | Path, *, partial: bool = False) -> "Model":
    """The model to build for a start from a saved detector: norm "auto" is that detector's.

    Its weights fill the backbone, so ``backbone.weights`` are not read unless the start is ``partial``.

    Raises:
        InputError: the model names a norm that has no place for the detector's, and the start is not ``partial``.
    """
    theirs, own = read_architecture(folder).backbone.resolved_norm(), model.backbone.norm
    if own not in ("auto", theirs) and "group" in (own, theirs) and not partial:
        raise InputError(
            "model.backbone.norm",
            f"is {own}, the detector of {folder} has {theirs}: what one counted or learned means nothing to the other",
            "Give auto, or start_partial=true to take what fits",
        )
    backbone = replace(model.backbone, norm=theirs if own == "auto" else own)
    return replace(model, backbone=backbone if partial else backbone.without_weights())

"""Backbones under other libraries' names: torchvision's networks are renamed as those write them, and found again."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from xray_det.errors import InputError
from xray_det.models.backbones import Backbone, Pyramid
from xray_det.models.naming import backbone_keys, torchvision_name
from xray_det.models.weights import load_backbone

State = dict[str, torch.Tensor]
CONVOLUTIONS = {"resnet18": 2, "resnet50": 3}


def network(name: str, seed: int = 0) -> torch.nn.Module:
    """With weights and statistics of its own."""
    torch.manual_seed(seed)
    made = torchvision.models.get_model(name, weights=None).eval()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.weight.data, module.bias.data, module.running_mean):
                values.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
    return made


def renamed(state: State, *rules: tuple[str, str | Callable[[re.Match[str]], str]]) -> State:
    """Each key by the first rule that matches all of it; every key has one."""
    found = {}
    for key, value in state.items():
        to = next((m.expand(r) if isinstance(r, str) else r(m)) for p, r in rules if (m := re.fullmatch(p, key)))
        found[to] = value
    assert len(found) == len(state)
    return found


def below(place: str, state: State, **others: int) -> State:
    """A whole model: the network at a place, and other tensors elsewhere."""
    return {place + key: value for key, value in state.items()} | {key: torch.ones(n) for key, n in others.items()}


def detectron2(state: State) -> State:
    """detectron2/modeling/backbone/resnet.py: BasicStem, BasicBlock, BottleneckBlock; its norms are frozen."""
    state = {key: value for key, value in state.items() if "tracked" not in key and not key.startswith("fc.")}
    return renamed(
        state,
        (r"conv1\.weight", "stem.conv1.weight"),
        (r"bn1\.(.*)", r"stem.conv1.norm.\1"),
        (r"layer(\d)\.(\d+)\.downsample\.0\.(.*)", lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut.{m[3]}"),
        (r"layer(\d)\.(\d+)\.downsample\.1\.(.*)", lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut.norm.{m[3]}"),
        (r"layer(\d)\.(\d+)\.conv(\d)\.(.*)", lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.{m[4]}"),
        (r"layer(\d)\.(\d+)\.bn(\d)\.(.*)", lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.norm.{m[4]}"),
    )


def transformers(state: State) -> State:
    """transformers/models/resnet/modeling_resnet.py: ResNetModel."""
    stage = "encoder.stages.{}.layers.{}."
    return renamed(
        {key: value for key, value in state.items() if not key.startswith("fc.")},
        (r"conv1\.(.*)", r"embedder.embedder.convolution.\1"),
        (r"bn1\.(.*)", r"embedder.embedder.normalization.\1"),
        (
            r"layer(\d)\.(\d+)\.downsample\.([01])\.(.*)",
            lambda m: (
                stage.format(int(m[1]) - 1, m[2]) + f"shortcut.{('convolution', 'normalization')[int(m[3])]}.{m[4]}"
            ),
        ),
        (
            r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(.*)",
            lambda m: (
                stage.format(int(m[1]) - 1, m[2])
                + f"layer.{int(m[4]) - 1}.{'convolution' if m[3] == 'conv' else 'normalization'}.{m[5]}"
            ),
        ),
    )


def openmm_mobilenet(state: State, block: Callable[[int, bool], str]) -> State:
    """conv1, layer1 to layer7 and conv2 of mmdetection's and mmpretrain's MobileNetV2.

    Args:
        block: name of the n-th convolution of a block that expands, or not.
    """
    sizes = (1, 2, 3, 4, 3, 3, 1)
    places = [f"layer{layer}.{n}" for layer, size in enumerate(sizes, 1) for n in range(size)]
    found = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "classifier":
            continue
        number, rest = int(parts[1]), parts[2:]
        if number in (0, 18):
            name = f"conv{1 if number == 0 else 2}.{'conv' if rest[0] == '0' else 'bn'}"
        else:
            expands = number > 1
            if rest[1] in ("012"[: expands + 1]):  # torchvision wraps a convolution and its norm together
                name = f"{block(int(rest[1]), expands)}.{'conv' if rest[2] == '0' else 'bn'}"
            else:  # and has the last two bare
                last = expands + 1
                name = f"{block(last, expands)}.{'conv' if int(rest[1]) == last else 'bn'}"
            name = f"{places[number - 1]}.{name}"
        found[f"{name}.{parts[-1]}"] = value
    assert len(set(found)) == len([key for key in state if not key.startswith("classifier")])
    return found


def mmpretrain_block(number: int, expands: bool) -> str:
    return f"conv.{number}"


def mmdetection_block(number: int, expands: bool) -> str:
    """mmdet/models/layers/inverted_residual.py."""
    return ("expand_conv", "depthwise_conv", "linear_conv")[number + (not expands)]


FILES: dict[str, tuple[str, Callable[[State], Any]]] = {
    "torchvision": ("resnet18", lambda s: s),
    "torchvision detector": ("resnet50", lambda s: {"model": below("backbone.body.", s, **{"rpn.head.bias": 3})}),
    "torchvision averaged": (
        "resnet18",
        lambda s: {
            "model": {key: torch.zeros_like(value) for key, value in s.items()},
            "model_ema": {"n_averaged": torch.tensor(3), **below("module.", s)},
            "epoch": 3,
        },
    ),
    "distributed": ("mobilenet_v2", lambda s: {"state_dict": below("module.", s)}),
    "timm averaged": ("resnet18", lambda s: {"state_dict_ema": s, "state_dict": {"a": torch.zeros(1)}}),
    "averaged within": ("resnet18", lambda s: {"ema": {"module": below("backbone.", s), "updates": 7}, "model": {}}),
    "lightning": ("mobilenet_v3_small", lambda s: {"state_dict": below("model.backbone.", s, **{"model.head.w": 2})}),
    "mmdetection": ("resnet50", lambda s: {"meta": {}, "state_dict": below("backbone.", s, **{"neck.conv.bias": 2})}),
    "detectron2 basic": ("resnet18", lambda s: {"model": below("backbone.bottom_up.", detectron2(s))}),
    "detectron2": (
        "resnet50",
        lambda s: {"model": below("backbone.bottom_up.", detectron2(s), **{"backbone.fpn_lateral2.bias": 4})},
    ),
    "transformers": ("resnet50", lambda s: below("resnet.", transformers(s), **{"classifier.1.bias": 1000})),
    "transformers basic": ("resnet18", transformers),
    "transformers detector": ("resnet50", lambda s: below("model.backbone.conv_encoder.model.", transformers(s))),
    "transformers with timm": (
        "resnet50",
        lambda s: below("model.backbone.conv_encoder.model.", s, **{"model.encoder.layers.0.fc1.bias": 8}),
    ),
    "detr": ("resnet50", lambda s: {"model": below("backbone.0.body.", s, **{"transformer.a": 1})}),
    "student": ("resnet18", lambda s: below("student.backbone.", s)),
    "mmpretrain mobile": ("mobilenet_v2", lambda s: below("backbone.", openmm_mobilenet(s, mmpretrain_block))),
    "mmdetection mobile": ("mobilenet_v2", lambda s: below("backbone.", openmm_mobilenet(s, mmdetection_block))),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_network_under_another_librarys_names_has_its_features(kind: str, tmp_path: Path) -> None:
    name, written = FILES[kind]
    theirs = network(name)
    torch.save(written(theirs.state_dict()), tmp_path / "w.pth")
    config = Backbone(name=name, weights=str(tmp_path / "w.pth"))
    body = Pyramid(config, levels=(3, 5), channels=8, extra="conv").body.eval()
    fate = load_backbone(body, config)
    assert fate is not None
    assert not fate.missing
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if name.startswith("resnet"):
            children = [child for at, child in theirs.named_children() if at not in ("avgpool", "fc")]
            expected = torch.nn.Sequential(*children)(x)
        else:
            expected = theirs.features(x)
        found = body(x)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert found.std() > 1e-3  # a network whose signal has died would equal any other


def test_the_averaged_student_is_not_guessed(tmp_path: Path) -> None:
    state = network("resnet18").state_dict()
    torch.save(below("student.", state) | below("teacher.", state), tmp_path / "w.pth")
    config = Backbone(name="resnet18", weights=str(tmp_path / "w.pth"))
    body = Pyramid(config, levels=(3, 5), channels=8, extra="conv").body
    with pytest.raises(InputError, match=r"w\.pth: holds the network twice, below 'student\.' and 'teacher\.'"):
        load_backbone(body, config)


def test_no_rule_touches_torchvisions_own_names() -> None:
    for name in ("resnet18", "resnet101", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"):
        assert all(torchvision_name(key) == key for key in network(name).state_dict())


def test_the_place_with_most_of_the_network_is_taken() -> None:
    own = {"conv1.weight", "bn1.bias", "layer1.0.conv1.weight"}
    keys = [
        "neck.conv1.weight",
        "body.conv1.weight",
        "body.layer1.0.conv1.weight",
        "body.layer1.9.conv1.weight",
        "fc.w",
    ]
    assert backbone_keys(keys, own, "file") == {
        "conv1.weight": "body.conv1.weight",
        "layer1.0.conv1.weight": "body.layer1.0.conv1.weight",
        "layer1.9.conv1.weight": "body.layer1.9.conv1.weight",
    }
    assert backbone_keys(["a.b", "conv1", ""], own, "file") == {}

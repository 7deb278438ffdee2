"""Backbones: torchvision's stages under its names, pyramids of any levels, pixels normalised as published."""

import pytest
import torch
import torchvision
from torchvision.transforms.v2.functional import normalize

from xray_det.errors import InputError
from xray_det.models.backbones import Backbone, Pyramid

SIZES = torch.tensor([[64, 96]])


def images(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        *((name, "frozen") for name in ("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large")),
        *((name, norm) for name in ("mobilenet_v3_small",) for norm in ("frozen", "sync")),
        ("resnet18", "sync"),
    ],
)
def test_body_equals_torchvision_with_its_weights(name: str, norm: str) -> None:
    """The last stage of a body with batch norms is torchvision's network in evaluation, loaded by name."""
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    theirs = theirs.double()  # in float32 a deep network's rounding differs from processor to processor
    pyramid = Pyramid(Backbone(name=name, norm=norm), levels=(3, 5), channels=8, extra="conv").double().eval()
    own = pyramid.body.state_dict()
    state = {k: v for k, v in theirs.state_dict().items() if k in own}
    assert state.keys() == own.keys()
    pyramid.body.load_state_dict(state)

    seen: list[torch.Tensor] = []
    pyramid.body.register_forward_hook(lambda module, inputs, stages: seen.extend([inputs[0], *stages]))
    pyramid(images(), SIZES)
    x = seen[0]
    expected = normalize(images() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(x.float(), expected)
    if name.startswith("resnet"):
        stem = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        expected = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(stem))))
    else:
        expected = theirs.features(x)
    torch.testing.assert_close(seen[-1], expected)
    assert [stage.shape[2:] for stage in seen[1:]] == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize(
    ("levels", "extra", "strides"),
    [((3, 7), "conv", (8, 16, 32, 64, 128)), ((2, 6), "pool", (4, 8, 16, 32, 64)), ((3, 5), "conv", (8, 16, 32))],
)
def test_levels(levels: tuple[int, int], extra: str, strides: tuple[int, ...]) -> None:
    pyramid = Pyramid(Backbone(name="resnet18"), levels=levels, channels=16, extra=extra)
    maps = pyramid(images(), SIZES)
    assert pyramid.strides == strides
    assert [m.shape for m in maps] == [(1, 16, -(-64 // s), -(-96 // s)) for s in strides]


def test_norm_follows_weights_unless_named() -> None:
    assert Backbone().resolved_norm() == "group"
    assert Backbone(weights="library").resolved_norm() == "frozen"
    assert Backbone(weights="library").without_weights() == Backbone(norm="frozen")
    assert Backbone(weights="library", norm="sync").resolved_norm() == "sync"


def test_bad_values() -> None:
    with pytest.raises(InputError, match="levels"):
        Pyramid(Backbone(name="resnet18"), levels=(1, 5), channels=8, extra="conv")
    with pytest.raises(InputError, match="weights"):
        Backbone(weights="")

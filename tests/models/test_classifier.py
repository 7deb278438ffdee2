"""The classifier's last layer: against mmdetection's steps in loops, its rows held and copied, and in a detector."""

import dataclasses
import math

import pytest
import torch

from tests.models.scenes import CLASSES, key, scene, tiny_faster_rcnn
from xray_det import config
from xray_det.errors import InputError
from xray_det.losses import Seesaw
from xray_det.models.classifier import Cosine, Linear
from xray_det.train.freeze import freeze, learnable
from xray_det.train.optimizer import build_optimizer
from xray_det.train.phase import SGD, ClassRows, Phase

COSINE = dataclasses.replace(tiny_faster_rcnn(), classifier=Cosine(), classification=Seesaw())


@pytest.mark.parametrize("temperature", [20.0, 3.5])
def test_cosine_equals_a_loop_over_mmdetections_steps(temperature: float) -> None:
    torch.manual_seed(0)
    layer = Cosine(temperature=temperature).build(6, 4).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64) * torch.tensor([1e-3, 1.0, 100.0, 1.0, 0.0])[:, None]
    logits = layer(x)
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    for b in range(2):
        for r, row in enumerate(x[b].tolist()):
            length = math.sqrt(sum(v * v for v in row)) + 1e-6
            for k in range(4):
                own = math.sqrt(sum(v * v for v in weight[k])) + 1e-6
                dot = sum((v / length * temperature) * (w / own) for v, w in zip(row, weight[k], strict=True))
                assert logits[b, r, k].item() == pytest.approx(dot + bias[k], rel=1e-12)
    assert torch.equal(logits[:, 4], layer.bias.expand(2, -1))  # nothing has no direction
    assert torch.autograd.gradcheck(layer, (x[:, :4].clone().requires_grad_(),))


def test_cosine_in_bfloat16_is_as_good_as_the_products_of_bfloat16() -> None:
    torch.manual_seed(0)
    layer, x = Cosine().build(256, 8), torch.randn(10, 256) * 300
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(x)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), layer(x), atol=0.1, rtol=0)
    assert isinstance(Linear().build(3, 2), torch.nn.Linear)


def test_a_detector_learns_with_it_and_rows_of_other_classes_are_held() -> None:
    torch.manual_seed(0)
    detector = COSINE.build(CLASSES)
    images, sizes, truth = scene(4)
    rows = freeze(detector, ClassRows(names=("b",)), learnable(detector), tuple("abcde"))
    optimizer = build_optimizer(detector, Phase(lr=0.5, optimizer=SGD(weight_decay=0.1)))
    features = torch.randn(7, 64)
    before = detector.class_head(features)
    for _ in range(2):
        said = detector(images, sizes, truth, key(4))
        sum(detector.losses(said, truth).mean().values()).backward()
        for one in rows:
            one.mask_gradient()
        optimizer.step()
        for one in rows:
            one.restore()
        optimizer.zero_grad()
    after = detector.class_head(features)
    changed = (after != before).any(0)
    assert changed.tolist() == [False, True, False, False, False, False]


def test_it_is_chosen_by_path_and_read_back() -> None:
    model = config.replace(tiny_faster_rcnn(), "classifier", "Cosine")
    model = config.replace(model, "classifier.temperature", "10")
    assert model.classifier == Cosine(temperature=10.0)
    assert config.from_dict(type(model), config.to_dict(model)) == model
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="temperature"):
            Cosine(temperature=bad)

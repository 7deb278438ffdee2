"""Weights of loss terms: in every detector, by the names of its terms, and without an effect unless given."""

import dataclasses
import math

import pytest
import torch

from tests.models.scenes import CLASSES, key, scene, tiny_faster_rcnn, tiny_retinanet
from xray_det import config
from xray_det.errors import InputError
from xray_det.models import Model
from xray_det.models.predictions import Losses

DETECTORS = [tiny_retinanet(), tiny_faster_rcnn()]


def losses(model: Model) -> tuple[Losses, torch.Tensor]:
    """The terms of one batch, and the gradient of their sum by the features' first layer."""
    torch.manual_seed(0)
    detector = model.build(CLASSES)
    images, sizes, truth = scene(4)
    found = detector.losses(detector(images, sizes, truth, key(4)), truth)
    (slope,) = torch.autograd.grad(sum(found.mean().values()), detector.pyramid.body.conv1.weight)
    return found, slope


@pytest.mark.parametrize("model", DETECTORS, ids=lambda m: type(m).__name__)
def test_each_term_is_multiplied_and_nothing_else(model: Model) -> None:
    plain, slope = losses(model)
    ones, same = losses(dataclasses.replace(model, loss_weights=dict.fromkeys(plain.sums, 1.0)))
    assert torch.equal(slope, same)
    assert all(torch.equal(ones.sums[name], total) for name, total in plain.sums.items())
    slopes = torch.zeros_like(slope)
    for name in plain.sums:
        factors = {other: 3.0 if other == name else 0.0 for other in plain.sums}
        found, alone = losses(dataclasses.replace(model, loss_weights=factors))
        for other, total in plain.sums.items():
            assert found.sums[other].item() == pytest.approx(factors[other] * total.item())
            assert found.counts[other] == plain.counts[other]
        slopes += alone / 3
    torch.testing.assert_close(slopes, slope, rtol=1e-3, atol=1e-5 * float(slope.abs().max()))


@pytest.mark.parametrize("model", DETECTORS, ids=lambda m: type(m).__name__)
def test_names_that_are_no_terms_and_weights_that_cannot_be_are_refused(model: Model) -> None:
    with pytest.raises(InputError, match=r"no loss term 'boxes'.*classification, box"):
        dataclasses.replace(model, loss_weights={"boxes": 1.0})
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match=r"loss_weights\.box"):
            dataclasses.replace(model, loss_weights={"box": bad})


def test_they_are_set_by_path_and_read_back() -> None:
    model = config.replace(tiny_retinanet(), "loss_weights.box", "2.5")
    assert model.loss_weights == {"box": 2.5}
    assert config.from_dict(type(model), config.to_dict(model)) == model

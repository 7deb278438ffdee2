"""Every classification loss in every detector: it learns, its scores are scores, and unknown classes teach nothing."""

import dataclasses

import pytest
import torch

from tests.losses.made_statistics import statistics
from tests.models.scenes import CLASSES, key, scene, tiny_faster_rcnn, tiny_retinanet
from xray_det.losses import (
    Classification,
    ConcurrentSoftmax,
    EffectiveNumber,
    EqualizationV2,
    Federated,
    Seesaw,
    SigmoidFocal,
    Softmax,
)
from xray_det.models import Model

LOSSES: list[Classification] = [
    SigmoidFocal(alpha=None, gamma=0.0),
    Softmax(labels="one"),
    ConcurrentSoftmax(),
    EffectiveNumber(loss=SigmoidFocal()),
    Federated(classes=2),
    Seesaw(),
    EqualizationV2(),
]


@pytest.mark.parametrize("config", [tiny_retinanet(), tiny_faster_rcnn()], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda c: type(c).__name__)
def test_it_learns_and_finds(config: Model, loss: Classification) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(config, classification=loss)
    detector = config.build(CLASSES, None if loss.needs is None else statistics(CLASSES))
    images, sizes, truth = scene(4)
    truth.classes_known[:, 4] = truth.classes[:, 4] > 0
    truth.absence_known[:, 4] = False
    said = detector(images, sizes, truth, key(4))
    (slope,) = torch.autograd.grad(detector.losses(said, truth).sums["classification"], said.logits, retain_graph=True)
    assert slope.isfinite().all()
    assert slope[..., :4].any()
    assert not slope[..., 4][slope[..., 4] > 0].any()  # nobody says that a class 4 is not there
    sum(detector.losses(said, truth).mean().values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    scores = detector.classification.scores(said.logits.detach())
    assert scores.shape[-1] == CLASSES
    assert ((scores >= 0) & (scores <= 1)).all()
    detector.decode(said, sizes)


@pytest.mark.parametrize("config", [tiny_retinanet(), tiny_faster_rcnn()], ids=lambda c: type(c).__name__)
def test_the_divisor_is_the_stage_s_whatever_the_loss(config: Model) -> None:
    """Dense anchors are divided by the positive ones, sampled RoIs by all of them: otherwise another loss would be
    another learning rate."""
    images, sizes, truth = scene(4)
    counts = set()
    for loss in LOSSES:
        torch.manual_seed(0)
        detector = dataclasses.replace(config, classification=loss).build(
            CLASSES, None if loss.needs is None else statistics(CLASSES)
        )
        said = detector(images, sizes, truth, key(4))
        divisors = detector.losses(said, truth).counts
        counts.add((divisors["classification"].item(), divisors["box"].item()))
    ((classification, box),) = counts
    assert classification == box
    assert box == said.valid.sum() if said.proposals is not None else 0 < box < 0.1 * said.valid.sum()


def test_binary_cross_entropy_is_federated_loss_over_all_classes() -> None:
    images, sizes, truth = scene(4)
    losses = []
    for loss in (SigmoidFocal(alpha=None, gamma=0.0), Federated(classes=CLASSES, power=0.0)):
        torch.manual_seed(0)
        config = dataclasses.replace(tiny_faster_rcnn(), classification=loss)
        detector = config.build(CLASSES, None if loss.needs is None else statistics(CLASSES))
        losses.append(detector.losses(detector(images, sizes, truth, key(4)), truth).mean()["classification"])
    assert losses[0].item() == losses[1].item()

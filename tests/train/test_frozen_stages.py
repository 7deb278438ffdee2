"""Frozen stages of a backbone in training: no step of any phase moves them, nor a statistic of their norms."""

import dataclasses
from typing import Literal

import pytest
import torch

from tests.models.scenes import CLASSES, key, scene, tiny_retinanet
from xray_det.models.backbones import Backbone
from xray_det.models.predictions import Detector
from xray_det.train.freeze import freeze, learnable
from xray_det.train.optimizer import build_optimizer
from xray_det.train.phase import SGD, ClassRows, Everything, Head, Phase, Trainable

NAMES = tuple("abcde")


def built(frozen: int, norm: Literal["group", "sync"] = "group") -> Detector:
    torch.manual_seed(0)
    backbone = Backbone(name="resnet18", norm=norm, frozen_stages=frozen)
    return dataclasses.replace(tiny_retinanet(), backbone=backbone).build(CLASSES)


def moved(detector: Detector, *phases: Trainable) -> set[str]:
    """What differs after a step of each phase, by the first four parts of its name."""
    start = {name: value.clone() for name, value in detector.state_dict().items()}
    names = learnable(detector)
    images, sizes, truth = scene(2)
    for trainable in phases:
        rows = freeze(detector, trainable, names, NAMES)
        phase = Phase(lr=0.1, optimizer=SGD(weight_decay=0.1))  # a decay would move what has no gradient
        optimizer = build_optimizer(detector, phase)
        sum(detector.losses(detector(images, sizes, truth, key(2)), truth).mean().values()).backward()
        optimizer.step()
        for one in rows:
            one.restore()
        optimizer.zero_grad(set_to_none=True)
    after = detector.state_dict()
    return {".".join(name.split(".")[:3]) for name, value in start.items() if not torch.equal(value, after[name])}


def test_steps_move_later_stages_alone_in_every_phase() -> None:
    body = {"pyramid.body.layer3", "pyramid.body.layer4"}
    found = moved(built(2), Head(), Everything(), ClassRows(names=("b",)), Everything())
    assert {name for name in found if name.startswith("pyramid.body")} == body
    assert any(name.startswith("pyramid.fpn") for name in found)


@pytest.mark.parametrize("trainable", [Head(), ClassRows(names=("b",))])
def test_a_phase_that_trains_less_trains_no_more_with_frozen_stages(trainable: Trainable) -> None:
    assert moved(built(1), trainable) == moved(built(0), trainable)


def test_statistics_of_frozen_norms_stand_still() -> None:
    """Sync norms refuse to gather statistics on a CPU: that this trains says that none of them does."""
    detector = built(4, norm="sync")
    found = moved(detector, Everything(), Everything())
    assert found
    assert not {name for name in found if name.startswith("pyramid.body")}
    assert detector.pyramid.body.bn1.num_batches_tracked == 0

"""The gradient of a global batch is that of its parts, each divided by the global counts."""

import dataclasses

import torch

from tests.models.scenes import key, scene
from xray_det.data.batch import Targets
from xray_det.models.predictions import Detector, Losses


def part(truth: Targets, first: int, stop: int) -> Targets:
    own = (truth.box_image >= first) & (truth.box_image < stop)
    return Targets(
        boxes=truth.boxes[own],
        box_image=truth.box_image[own] - first,
        classes=truth.classes[own],
        classes_known=truth.classes_known[own],
        region=truth.region[own],
        absence_known=truth.absence_known[first:stop],
    )


def assert_split_changes_nothing(detector: Detector) -> None:
    images, sizes, truth = scene(4)
    truth.region[2] = True
    truth = dataclasses.replace(truth, regions=None)

    def losses(first: int, stop: int) -> Losses:
        own = part(truth, first, stop)
        said = detector(images[first:stop], sizes[first:stop], own, key(stop - first, first=first))
        return detector.losses(said, own)

    def gradient(parts: list[Losses]) -> dict[str, torch.Tensor]:
        detector.zero_grad()
        counts = {name: sum(p.counts[name] for p in parts).clamp(min=1) for name in parts[0].counts}
        for rank in parts:
            sum(total / counts[name] for name, total in rank.sums.items()).backward()
        return {name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None}

    whole = gradient([losses(0, 4)])
    split = gradient([losses(0, 2), losses(2, 4)])
    assert whole.keys() == dict(detector.named_parameters()).keys()
    scale = max(g.abs().max() for g in whole.values())
    for name, expected in whole.items():
        error = (split[name] - expected).abs().max()
        assert error <= 1e-5 * scale, (name, error.item(), scale.item())
    half = gradient([losses(0, 2)])  # what one rank alone would learn is far from it: the comparison can fail
    assert max((half[name] - expected).abs().max() for name, expected in whole.items()) > 0.01 * scale

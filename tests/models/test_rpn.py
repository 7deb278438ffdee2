"""What the proposals learn of background that may be an object without a label."""

from dataclasses import replace

import pytest
import torch

from tests.models.scenes import CLASSES, key, scene, tiny_faster_rcnn
from xray_det.data.batch import Targets
from xray_det.errors import InputError
from xray_det.models.matcher import match
from xray_det.models.predictions import Predictions
from xray_det.models.rpn import ProposalNetwork, Proposals


def network(**changes: float | None) -> ProposalNetwork:
    """Draws so many anchors that every candidate is drawn, unless told otherwise."""
    return ProposalNetwork(replace(tiny_faster_rcnn().proposals, **{"sampled": 100_000, **changes}), channels=32)


def said_of(truth: Targets, sizes: torch.Tensor, proposals: ProposalNetwork) -> tuple[Predictions, torch.Tensor]:
    """Predictions with random logits over all of (0, 1) in probability, and the leaf that holds them."""
    images, generator = len(truth.absence_known), torch.Generator().manual_seed(3)
    features = [torch.zeros(images, 32, 96 // stride, 128 // stride) for stride in (8, 16, 32)]
    said = proposals(features, (8, 16, 32), sizes, key(images))
    leaf = (4 * torch.randn(said.logits.shape, generator=generator)).requires_grad_()
    said.logits = leaf
    return said, leaf


def gradient(proposals: ProposalNetwork, truth: Targets, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    said, leaf = said_of(truth, sizes, proposals)
    losses = proposals.losses(said, truth)
    (losses.sums["proposal_objectness"] + losses.sums["proposal_box"]).backward()
    assert leaf.grad is not None
    return leaf.grad[..., 0], losses.counts["proposal_objectness"]


def partly_known(images: int) -> tuple[torch.Tensor, Targets]:
    """Of every other image one class may be there without a label."""
    _, sizes, truth = scene(images)
    truth.absence_known[::2, 1] = False
    return sizes, truth


def test_background_that_looks_like_an_object_teaches_nothing_where_a_class_may_be_unlabelled() -> None:
    sizes, truth = partly_known(6)
    plain, strict = network(), network(ignore_unlabelled=0.6)
    before, count = gradient(plain, truth, sizes)
    after, fewer = gradient(strict, truth, sizes)
    said, leaf = said_of(truth, sizes, strict)
    found = match(
        said.references, said.valid, truth, foreground_iou=0.7, background_iou=0.3, low_quality=True
    )  # fmt: skip
    left_out = found.background & ~found.on_region & (leaf[..., 0].sigmoid() > 0.6)
    left_out[1::2] = False
    assert 0 < left_out.sum() < left_out[::2].numel() / 2
    assert (before[left_out] > 0).all()
    assert (after[left_out] == 0).all()
    assert torch.equal(after[~left_out], before[~left_out])
    assert count - fewer == left_out.sum()


def test_another_anchor_is_drawn_instead_and_images_with_everything_known_draw_as_before() -> None:
    sizes, truth = partly_known(4)
    before, count = gradient(network(sampled=32), truth, sizes)
    after, same = gradient(network(sampled=32, ignore_unlabelled=0.6), truth, sizes)
    assert count == same == 4 * 32
    assert torch.equal(before[1::2], after[1::2])
    assert not torch.equal(before[::2] != 0, after[::2] != 0)


@pytest.mark.parametrize("threshold", [0.3, 0.999])
def test_with_all_classes_known_the_switch_changes_nothing(threshold: float) -> None:
    _, sizes, truth = scene(4)
    assert truth.absence_known.shape == (4, CLASSES)
    before, _ = gradient(network(sampled=32), truth, sizes)
    after, _ = gradient(network(sampled=32, ignore_unlabelled=threshold), truth, sizes)
    assert torch.equal(before, after)


def test_the_threshold_is_a_probability() -> None:
    for value in (0.0, 1.0, 1.5):
        with pytest.raises(InputError, match="ignore_unlabelled"):
            Proposals(ignore_unlabelled=value)

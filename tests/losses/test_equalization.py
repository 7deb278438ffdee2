"""EQL v2 against an implementation with dense tables, step after step, as its authors write it."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.losses.rows import dense, random_targets
from xray_det.errors import InputError
from xray_det.losses.equalization import EqualizationV2
from xray_det.losses.focal import SigmoidFocal

CLASSES = 5


class Dense:
    """The loss over [rows, C + 1] targets, with weights from gradients summed so far."""

    def __init__(self) -> None:
        self.positive = torch.zeros(CLASSES, dtype=torch.float64)
        self.negative = torch.zeros(CLASSES, dtype=torch.float64)
        self.started = False

    def __call__(self, z: torch.Tensor, target: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
        down = torch.ones(CLASSES + 1, dtype=torch.float64)
        if self.started:
            down[:-1] = 1 / (1 + torch.exp(-12 * (self.positive / (self.negative + 1e-10) - 0.8)))
        weight = (1 + 4 * (1 - down)) * target + down * (1 - target)
        weight = weight * taught
        slope = (torch.sigmoid(z) - target).abs().detach() * weight
        self.positive += (slope * target).sum(0)[:-1]
        self.negative += (slope * (1 - target)).sum(0)[:-1]
        self.started = True
        return (F.binary_cross_entropy_with_logits(z, target, reduction="none") * weight).sum()


def test_equals_the_dense_loss_over_several_steps() -> None:
    loss, theirs = EqualizationV2().bind(CLASSES, None), Dense()
    for step in range(4):
        targets = random_targets(2, 60, CLASSES, known=0.7, seed=step)
        z = torch.randn(2, 60, CLASSES + 1, generator=torch.Generator().manual_seed(step)).double().requires_grad_()
        values, known = dense(targets)
        listed = torch.zeros(2, 60, dtype=torch.bool)
        listed[targets.image, targets.row] = True
        rows = targets.background | listed
        target = torch.cat([values, (~values.any(2, keepdim=True)).float()], 2).double()
        taught = torch.cat([known, rows[..., None]], 2)
        expected = theirs(z.flatten(0, 1), target.flatten(0, 1), taught.flatten(0, 1))
        total = loss.loss_sum(z, targets)
        assert total.item() == pytest.approx(expected.item(), rel=1e-5)
        slope, reference = (torch.autograd.grad(value, z)[0] for value in (total, expected))
        torch.testing.assert_close(slope, reference, rtol=1e-4, atol=1e-6)
        assert (slope[..., :-1][~known] == 0).all()
        loss.absorb(lambda tensor: tensor, torch.tensor(True))
        torch.testing.assert_close(loss.positive.double(), theirs.positive, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(loss.negative.double(), theirs.negative, rtol=1e-5, atol=1e-6)


def test_the_first_step_is_plain_cross_entropy() -> None:
    targets = random_targets(2, 60, CLASSES, known=0.7)
    z = torch.randn(2, 60, CLASSES + 1, generator=torch.Generator().manual_seed(9))
    total = EqualizationV2().bind(CLASSES, None).loss_sum(z, targets)
    classes = SigmoidFocal(alpha=None, gamma=0.0).loss_sum(z[..., :-1], targets)
    holds = (targets.values > 0).any(1)
    background = F.softplus(-z[..., -1][targets.background]).sum()
    last = z[targets.image, targets.row, -1]
    background = background + F.softplus(last[holds]).sum() + F.softplus(-last[~holds]).sum()
    assert total.item() == pytest.approx((classes + background).item(), rel=1e-5)


def test_scores_start_and_bad_values() -> None:
    config = EqualizationV2(prior=0.02)
    start = config.bind(3, None).scores(config.initial_bias(3))
    assert start.tolist() == pytest.approx([0.01] * 3)
    for bad in ({"gamma": -1.0}, {"alpha": math.inf}, {"prior": 1.0}):
        with pytest.raises(InputError, match=next(iter(bad))):
            EqualizationV2(**bad)

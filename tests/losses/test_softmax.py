"""Softmax cross-entropy against torch's own, its masks, and several labels."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from tests.losses.rows import dense, random_targets
from xray_det.losses.softmax import Softmax, one_label
from xray_det.losses.targets import RowTargets


def test_equals_cross_entropy_for_one_label() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 6, (2, 30), generator=generator)  # 5 is background
    logits = torch.randn(2, 30, 6, generator=generator).requires_grad_()
    image, row = (labels < 5).nonzero(as_tuple=True)
    targets = RowTargets(
        background=labels == 5,
        background_known=torch.ones(2, 5, dtype=torch.bool),
        image=image,
        row=row,
        values=F.one_hot(labels[image, row], 6)[:, :5].float(),
        known=torch.ones(len(image), 5, dtype=torch.bool),
    )
    ours = Softmax().loss_sum(logits, targets)
    theirs = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)))


def test_masked_loss_equals_the_formula_row_by_row() -> None:
    """Unknown classes leave the denominator; a row without a class has the background as its target."""
    targets = random_targets(2, 40, 5, known=0.6)
    logits = (torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(2)) * 3).double()
    values, known = dense(targets)
    listed = set(zip(targets.image.tolist(), targets.row.tolist(), strict=True))
    expected = 0.0
    for b in range(2):
        for r in range(40):
            if not (targets.background[b, r] or (b, r) in listed):
                continue
            z, goal = logits[b, r].tolist(), values[b, r].tolist()
            mass = math.exp(z[5]) + sum(math.exp(z[c]) for c in range(5) if known[b, r, c])
            if sum(goal) == 0:
                expected -= z[5] - math.log(mass)
            else:
                expected -= sum(g / sum(goal) * (z[c] - math.log(mass)) for c, g in enumerate(goal))
    assert Softmax().loss_sum(logits, targets).item() == pytest.approx(expected, rel=1e-9)


def test_gradient_is_zero_where_nothing_is_known_and_right_elsewhere() -> None:
    targets = random_targets(2, 12, 4, known=0.5)
    logits = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(3)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: Softmax().loss_sum(z, targets), (logits,))
    (slope,) = torch.autograd.grad(Softmax().loss_sum(logits, targets), logits)
    _, known = dense(targets)
    assert (slope[..., :4][~known] == 0).all()


def test_extreme_logits_stay_finite() -> None:
    targets = random_targets(2, 30, 2, known=0.5)
    logits = torch.tensor([-1e4, 1e4, 0.0]).expand(2, 30, 3).clone().requires_grad_()
    loss = Softmax().loss_sum(logits, targets)
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert slope.isfinite().all()


def test_scores_and_start() -> None:
    bias = Softmax(background_prior=0.9).initial_bias(4)
    scores = Softmax().scores(bias)
    assert scores.shape == (4,)
    assert scores.sum().item() == pytest.approx(0.1)
    assert Softmax().num_outputs(4) == 5


@pytest.mark.parametrize("labels", ["split", "each", "one"])
def test_several_labels(labels: str) -> None:
    """A row of classes 0, 2 and 3 in each reading, and what its gradient says."""
    z = torch.tensor([[[0.3, -1.0, 2.0, 0.1, -0.5]]], dtype=torch.float64, requires_grad=True)
    targets = RowTargets(
        background=torch.zeros(1, 1, dtype=torch.bool),
        background_known=torch.ones(1, 4, dtype=torch.bool),
        image=torch.tensor([0]),
        row=torch.tensor([0]),
        values=torch.tensor([[1.0, 0, 1, 1]]),
        known=torch.ones(1, 4, dtype=torch.bool),
        draw=lambda count, purpose: torch.full((1, count), 0.5),  # the second of three
    )
    total = Softmax(labels=labels).loss_sum(z, targets)  # type: ignore[arg-type]
    (slope,) = torch.autograd.grad(total, z)
    shares = z.detach().softmax(-1)[0, 0]
    target = torch.tensor([1.0, 0, 1, 1, 0], dtype=torch.float64)
    if labels == "one":
        target = torch.tensor([0.0, 0, 1, 0, 0], dtype=torch.float64)
    if labels == "split":
        target /= 3
    assert total.item() == pytest.approx(-(target * shares.log()).sum().item())
    torch.testing.assert_close(slope[0, 0], target.sum() * shares - target)  # eq. 2: m sigma - 1, m sigma


def test_the_drawn_label_is_each_equally_often_and_bound_to_the_key() -> None:
    targets = random_targets(1, 3000, 5)
    targets.draw = lambda count, purpose: torch.rand(1, count, generator=torch.Generator().manual_seed(7))
    drawn = one_label(targets).values
    assert torch.equal(drawn, one_label(targets).values)
    labels = targets.values > 0
    assert (drawn.sum(1) == labels.any(1)).all()
    assert not (drawn > targets.values).any()
    several = labels.sum(1) == 2
    first = (drawn[several].argmax(1) == labels[several].to(torch.uint8).argmax(1)).float().mean()
    assert 0.42 < first < 0.58  # about 800 rows
    targets.draw = None
    with pytest.raises(ValueError, match="key"):
        Softmax(labels="one").loss_sum(torch.zeros(1, 3000, 6), targets)


def test_rows_have_weights() -> None:
    targets = random_targets(2, 40, 5, known=0.7)
    z = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(4)).double().requires_grad_()
    twice = dataclasses.replace(targets, weight=torch.full((len(targets.row),), 2.0))
    none = dataclasses.replace(targets, weight=torch.zeros(len(targets.row)))
    once, doubled, without = (Softmax().loss_sum(z, t) for t in (targets, twice, none))
    assert (doubled - once).item() == pytest.approx((once - without).item())
    (slope,) = torch.autograd.grad(without, z)
    assert (slope[targets.image, targets.row] == 0).all()
    assert (slope[targets.background] != 0).any(-1).all()

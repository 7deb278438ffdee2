"""The focal loss against torchvision's, its masks, and its hand-made gradient."""

import dataclasses

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from tests.losses.rows import dense, random_targets
from xray_det.errors import InputError
from xray_det.losses.focal import SigmoidFocal
from xray_det.losses.targets import RowTargets


def test_equals_torchvision_when_all_is_known() -> None:
    targets = random_targets(3, 50, 7)
    logits = (torch.randn(3, 50, 7, generator=torch.Generator().manual_seed(1)) * 4).requires_grad_()
    ours = SigmoidFocal().loss_sum(logits, targets)
    (slope,) = torch.autograd.grad(ours, logits)

    values, known = dense(targets)
    theirs = (sigmoid_focal_loss(logits, values) * known.any(2, keepdim=True)).sum()
    (reference,) = torch.autograd.grad(theirs, logits)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    torch.testing.assert_close(slope, reference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (None, 0.0), (0.7, 1.5), (None, 2.0)])
def test_masked_loss_equals_the_formula_element_by_element(alpha: float | None, gamma: float) -> None:
    targets = random_targets(2, 40, 5, known=0.6, soft=True)
    logits = torch.randn(2, 40, 5, generator=torch.Generator().manual_seed(2)).double()
    values, known = dense(targets)
    expected = 0.0
    for b, r, c in known.nonzero().tolist():
        p, t = torch.sigmoid(logits[b, r, c]).item(), values[b, r, c].item()
        entropy = -(t * torch.log(torch.tensor(p)).item() + (1 - t) * torch.log(torch.tensor(1 - p)).item())
        weight = 1.0 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
        expected += weight * (p + t - 2 * p * t) ** gamma * entropy
    assert SigmoidFocal(alpha=alpha, gamma=gamma).loss_sum(logits, targets).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.0])
def test_gradient_against_finite_differences(gamma: float) -> None:
    targets = random_targets(2, 12, 4, known=0.7, soft=True)
    logits = (torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(3)) * 2).double().requires_grad_()
    loss = SigmoidFocal(gamma=gamma)
    assert torch.autograd.gradcheck(lambda z: loss.loss_sum(z, targets), (logits,))


def test_unknown_absence_teaches_exactly_nothing_and_all_known_changes_no_bit() -> None:
    partly = random_targets(3, 60, 6, known=0.5)
    logits = (torch.randn(3, 60, 6, generator=torch.Generator().manual_seed(4)) * 3).requires_grad_()
    (slope,) = torch.autograd.grad(SigmoidFocal().loss_sum(logits, partly), logits)
    _, known = dense(partly)
    assert (slope[~known] == 0).all()
    assert (slope[known] != 0).all()

    fully = dataclasses.replace(
        partly, background_known=torch.ones(3, 6, dtype=torch.bool), known=torch.ones_like(partly.known)
    )
    (complete,) = torch.autograd.grad(SigmoidFocal().loss_sum(logits, fully), logits)
    assert torch.equal(slope[known], complete[known])  # a mask takes away and alters nothing


def test_a_positive_row_teaches_other_datasets_classes_only_where_its_mask_says_so() -> None:
    """Both positions of eq. 3's switch: a box of class 0; classes 2 and 3 belong to another dataset."""
    logits = torch.zeros(1, 2, 4, requires_grad=True)
    for switch in (True, False):
        known = torch.tensor([[True, True, switch, switch]])
        targets = RowTargets(
            background=torch.tensor([[False, True]]),
            background_known=torch.tensor([[True, True, False, False]]),
            image=torch.tensor([0]),
            row=torch.tensor([0]),
            values=torch.tensor([[1.0, 0, 0, 0]]),
            known=known,
        )
        (slope,) = torch.autograd.grad(SigmoidFocal().loss_sum(logits, targets), logits)
        assert ((slope[0, 0] > 0) == torch.tensor([False, True, switch, switch])).all()
        assert slope[0, 0, 0] < 0
        assert (slope[0, 0, 2:] == 0).all() == (not switch)
        assert (slope[0, 1, :2] > 0).all()
        assert (slope[0, 1, 2:] == 0).all()


def test_extreme_logits_and_bfloat16_stay_finite() -> None:
    targets = random_targets(2, 30, 5)
    logits = torch.tensor([-1e4, 1e4, 0.0, -50.0, 50.0]).expand(2, 30, 5)
    for z in (logits, logits.bfloat16()):
        z = z.clone().requires_grad_()
        loss = SigmoidFocal().loss_sum(z, targets)
        (slope,) = torch.autograd.grad(loss, z)
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert slope.isfinite().all()
        assert slope.dtype == z.dtype


def test_chunks_do_not_change_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = random_targets(2, 500, 3, known=0.8)
    logits = torch.randn(2, 500, 3, generator=torch.Generator().manual_seed(5)).requires_grad_()
    whole = SigmoidFocal().loss_sum(logits, targets)
    (slope,) = torch.autograd.grad(whole, logits)
    monkeypatch.setattr("xray_det.losses.focal._CHUNK_CPU", 42)
    parts = SigmoidFocal().loss_sum(logits, targets)
    (slope_of_parts,) = torch.autograd.grad(parts, logits)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-6)
    torch.testing.assert_close(slope_of_parts, slope)  # the last elements of a chunk take another code path


def test_no_rows_listed_and_no_rows_at_all() -> None:
    for rows in (0, 4):
        targets = random_targets(2, rows, 3)
        keep = torch.zeros(0, dtype=torch.int64)
        empty = dataclasses.replace(targets, image=keep, row=keep, values=targets.values[:0], known=targets.known[:0])
        logits = torch.zeros(2, rows, 3, requires_grad=True)
        loss = SigmoidFocal().loss_sum(logits, empty)
        loss.backward()
        assert loss.isfinite()


def test_start_and_bad_values() -> None:
    assert torch.sigmoid(SigmoidFocal(prior=0.02).initial_bias(3)).tolist() == pytest.approx([0.02] * 3)
    for bad in ({"alpha": 1.5}, {"gamma": -1.0}, {"prior": 0.0}):
        with pytest.raises(InputError, match=next(iter(bad))):
            SigmoidFocal(**bad)

"""Seesaw loss against its paper's formulas in loops, and the counts it keeps."""

import math

import pytest
import torch

from tests.losses.rows import dense, random_targets
from xray_det.errors import InputError
from xray_det.losses.seesaw import Seesaw

CLASSES = 5
MET = [5000.0, 40.0, 300.0, 0.0, 2.0]


@pytest.mark.parametrize(("p", "q"), [(0.0, 0.0), (0.8, 0.0), (0.0, 2.0), (0.8, 2.0)])
def test_equals_the_formula_row_by_row(p: float, q: float) -> None:
    loss = Seesaw(p=p, q=q).bind(CLASSES, None)
    loss.met.copy_(torch.tensor(MET))
    targets = random_targets(2, 40, CLASSES, known=0.6)
    z = (torch.randn(2, 40, CLASSES + 1, generator=torch.Generator().manual_seed(1)) * 2).double().requires_grad_()
    values, known = dense(targets)
    listed = set(zip(targets.image.tolist(), targets.row.tolist(), strict=True))
    met = [max(n, 1) for n in MET]
    expected = 0.0
    for b in range(2):
        for r in range(40):
            if not (targets.background[b, r] or (b, r) in listed):
                continue
            x, labels = z[b, r].tolist(), values[b, r].nonzero().flatten().tolist()
            chance = 1 / (1 + math.exp(x[-1]))
            expected -= math.log(chance if labels else 1 - chance)
            share = [math.exp(v) / sum(map(math.exp, x[:-1])) for v in x[:-1]]
            for i in labels:
                mass = math.exp(x[i])
                for j in range(CLASSES):
                    if known[b, r, j] and j not in labels:
                        mitigation = 1 if met[i] <= met[j] else (met[j] / met[i]) ** p
                        compensation = 1 if share[j] <= share[i] else (share[j] / share[i]) ** q
                        mass += mitigation * compensation * math.exp(x[j])
                expected -= x[i] - math.log(mass)
    total = loss.loss_sum(z, targets)
    (slope,) = torch.autograd.grad(total, z)
    assert total.item() == pytest.approx(expected, rel=1e-6)
    assert (slope[..., :-1][~known] == 0).all()
    assert (slope[..., :-1][targets.background] == 0).all()


def test_labels_are_counted_when_a_step_was_made() -> None:
    loss = Seesaw().bind(CLASSES, None)
    targets = random_targets(2, 40, CLASSES)
    z = torch.zeros(2, 40, CLASSES + 1)
    first = loss.loss_sum(z, targets)
    assert loss.loss_sum(z, targets) == first
    assert not loss.met.any()
    loss.absorb(lambda tensor: 2 * tensor, torch.tensor(True))  # two ranks that saw alike; the last call counts
    assert torch.equal(loss.met, 2 * targets.values.sum(0))
    assert loss.loss_sum(z, targets) < first
    loss.absorb(lambda tensor: tensor, torch.tensor(False))
    assert torch.equal(loss.met, 2 * targets.values.sum(0))


def test_scores_extremes_and_bad_values() -> None:
    loss = Seesaw().bind(2, None)
    targets = random_targets(2, 30, 2, known=0.5)
    for precision in (torch.float32, torch.bfloat16):
        z = torch.tensor([-1e4, 1e4, 30.0]).expand(2, 30, 3).to(precision).clone().requires_grad_()
        total = loss.loss_sum(z, targets)
        (slope,) = torch.autograd.grad(total, z)
        assert total.isfinite()
        assert slope.isfinite().all()
    scores = loss.scores(torch.tensor([1.0, 0.0, -1.0]))
    expected = torch.tensor([1.0, 0.0]).softmax(0) / (1 + math.exp(-1))
    torch.testing.assert_close(scores, expected)
    for bad in ({"p": -1.0}, {"q": math.inf}):
        with pytest.raises(InputError, match=next(iter(bad))):
            Seesaw(**bad)

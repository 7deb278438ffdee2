"""Class-balanced weights against the authors' formula, and what they do to a softmax and to sigmoids."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.losses.made_statistics import statistics
from tests.losses.rows import dense, random_targets
from xray_det.errors import InputError
from xray_det.losses.effective_number import EffectiveNumber
from xray_det.losses.focal import SigmoidFocal, focal_loss
from xray_det.losses.softmax import Softmax

CLASSES = 5


def authors_weights(counts: np.ndarray, beta: float) -> np.ndarray:
    effective_num = 1.0 - np.power(beta, counts)
    weights = (1.0 - beta) / effective_num
    return weights / np.sum(weights) * len(counts)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.9999])
def test_weights_equal_the_authors(beta: float) -> None:
    counts = np.array([100_000, 1000, 30, 2, 1])
    found = EffectiveNumber(beta=beta).weights(counts)
    np.testing.assert_allclose(found, authors_weights(counts, beta))
    assert found.sum() == pytest.approx(5)
    with_nothing = EffectiveNumber(beta=beta).weights(np.array([1000, 0, 30]))
    np.testing.assert_allclose(with_nothing[[0, 2]], authors_weights(np.array([1000, 30]), beta))
    assert with_nothing[1] == 1


def row_weights(values: torch.Tensor, weight: np.ndarray) -> list[float]:
    return [float(np.mean(weight[row.nonzero().flatten()])) if row.any() else 1.0 for row in values]


@pytest.mark.parametrize("base", [Softmax(), SigmoidFocal(), SigmoidFocal(alpha=None, gamma=0.0)])
def test_a_row_is_weighted_by_its_labels(base: Softmax | SigmoidFocal) -> None:
    know = statistics(CLASSES)
    loss = EffectiveNumber(loss=base, beta=0.99).bind(CLASSES, know)
    targets = random_targets(2, 30, CLASSES, known=0.6)
    outputs = base.num_outputs(CLASSES)
    z = torch.randn(2, 30, outputs, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    counts = know.instance_counts.copy()
    counts[0] += counts[1]  # class 1 is a kind of class 0
    weights = row_weights(targets.values, authors_weights(counts, 0.99))
    values, known = dense(targets)
    expected = 0.0
    for b, r in targets.background.nonzero().tolist() + list(zip(targets.image, targets.row, strict=True)):
        row = (targets.image == b) & (targets.row == r)
        weight = weights[int(row.nonzero())] if row.any() else 1.0
        if isinstance(base, Softmax):
            one = dataclasses.replace(
                targets,
                background=torch.zeros_like(targets.background) | (~row.any() & _place(targets.background, b, r)),
                image=targets.image[row],
                row=targets.row[row],
                values=targets.values[row],
                known=targets.known[row],
            )
            expected += weight * base.loss_sum(z, one).item()
        else:
            own = known[b, r]
            each = focal_loss(z[b, r], values[b, r].double(), base.alpha, base.gamma)
            expected += weight * each[own].sum().item()
    total = loss.loss_sum(z, targets)
    assert total.item() == pytest.approx(expected, rel=1e-6)
    (slope,) = torch.autograd.grad(total, z)
    assert (slope[..., :CLASSES][~known] == 0).all()
    assert torch.equal(loss.scores(z), base.scores(z))


def _place(like: torch.Tensor, b: int, r: int) -> torch.Tensor:
    out = torch.zeros_like(like)
    out[b, r] = True
    return out


def test_bad_values_and_statistics() -> None:
    for beta in (-0.1, 1.0, 1.5):
        with pytest.raises(InputError, match="beta"):
            EffectiveNumber(beta=beta)
    with pytest.raises(InputError, match="5 classes, the detector has 4"):
        EffectiveNumber().bind(4, statistics(CLASSES))
    with pytest.raises(InputError, match="built without"):
        EffectiveNumber().bind(4, None).require_statistics()

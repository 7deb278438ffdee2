"""Concurrent softmax against the paper's formulas taken in loops, its gradient, its extremes, what it is bound to."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.losses.made_statistics import statistics
from tests.losses.rows import dense, random_targets
from xray_det.errors import InputError
from xray_det.labels.statistics import ClassStatistics
from xray_det.losses.concurrent import ConcurrentLoss, ConcurrentSoftmax
from xray_det.losses.softmax import Softmax
from xray_det.losses.targets import RowTargets

CLASSES = 6


def logits(seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(2, 40, CLASSES + 1, generator=torch.Generator().manual_seed(seed)).double() * scale


def rates_of(loss: ConcurrentLoss, hierarchy_rate: float, know: ClassStatistics) -> list[list[float]]:
    """r with a row and a column of the background, from the statistics."""
    assert know.concurrence is not None
    r = np.zeros((CLASSES + 1, CLASSES + 1))
    r[:-1, :-1] = know.concurrence.dense()
    related = know.ancestors | know.ancestors.T
    r[:-1, :-1][related] = hierarchy_rate
    return r.tolist()


def brute(z: list[float], labels: list[int], known: list[bool], r: list[list[float]]) -> tuple[float, list[float]]:
    """Eq. 3 of one row and its gradient as methods state it; ``labels`` may be the background's, [C]."""
    y = [float(c in labels) for c in range(len(z))]
    share = [float(k) for k in [*known, True]]
    loss, slope = 0.0, [0.0] * len(z)
    for i in labels:
        others = sum(share[j] * (1 - y[j]) * (1 - r[i][j]) * math.exp(z[j]) for j in range(len(z)))
        mass = others + math.exp(z[i])
        loss -= math.log(math.exp(z[i]) / mass)
        slope[i] += math.exp(z[i]) / mass - 1
        for j in range(len(z)):
            if j not in labels:
                slope[j] += share[j] * (1 - r[i][j]) * math.exp(z[j]) / mass
    return loss, slope


@pytest.mark.parametrize("train", ["rates", "labels"])
@pytest.mark.parametrize("hierarchy_rate", [0.0, 0.3, 1.0])
def test_loss_and_gradient_equal_eq_3_row_by_row(train: str, hierarchy_rate: float) -> None:
    know = statistics(CLASSES)
    loss = ConcurrentSoftmax(train=train, hierarchy_rate_train=hierarchy_rate).bind(CLASSES, know)  # type: ignore[arg-type]
    targets = random_targets(2, 40, CLASSES, known=0.6)
    z = logits().requires_grad_()
    r = rates_of(loss, hierarchy_rate, know)
    if train == "labels":
        r = [[0.0] * len(r)] * len(r)
    values, known = dense(targets)
    listed = set(zip(targets.image.tolist(), targets.row.tolist(), strict=True))
    expected, slopes = 0.0, torch.zeros_like(z)
    for b in range(2):
        for row in range(40):
            if targets.background[b, row] or (b, row) in listed:
                labels = values[b, row].nonzero().flatten().tolist() or [CLASSES]
                own, slope = brute(z[b, row].tolist(), labels, known[b, row].tolist(), r)
                expected += own
                slopes[b, row] = torch.tensor(slope)
    total = loss.loss_sum(z, targets)
    (slope,) = torch.autograd.grad(total, z)
    assert total.item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(slope, slopes, rtol=1e-5, atol=1e-7)  # rates are held in float32
    assert (slope[..., :-1][~known] == 0).all()


def test_gradcheck() -> None:
    loss = ConcurrentSoftmax().bind(CLASSES, statistics(CLASSES))
    targets = random_targets(2, 12, CLASSES, known=0.7)
    z = logits()[:, :12].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss.loss_sum(x, targets), (z,))


def test_one_label_and_no_rate_is_cross_entropy_and_softmax() -> None:
    nothing = statistics(CLASSES, rates=np.zeros((CLASSES, CLASSES)))
    loss = ConcurrentSoftmax().bind(CLASSES, nothing)
    targets = random_targets(2, 40, CLASSES, known=0.7)
    first = F.one_hot(targets.values.argmax(1), CLASSES) * targets.values
    targets = replace(targets, values=first)
    z = logits(1).float().requires_grad_()
    pair = [each.loss_sum(z, targets) for each in (loss, Softmax())]
    assert torch.equal(pair[0], pair[1])
    assert torch.equal(*(torch.autograd.grad(total, z)[0] for total in pair))
    everything = replace(
        targets, background_known=torch.ones_like(targets.background_known), known=torch.ones_like(targets.known)
    )
    goal = torch.full((2, 40), -100)
    goal[targets.background] = CLASSES
    goal[targets.image, targets.row] = torch.where(first.any(1), first.argmax(1), CLASSES)
    theirs = F.cross_entropy(z.flatten(0, 1), goal.flatten(), reduction="sum")
    assert loss.loss_sum(z, everything).item() == pytest.approx(theirs.item(), rel=1e-6)


def brute_scores(z: torch.Tensor, r: list[list[float]]) -> torch.Tensor:
    """Eq. 5 of [..., K] for all classes at once, in logarithms."""
    log_kept = (1 - torch.tensor(r, dtype=torch.float64)).log()[:-1]
    return (z[..., :-1] - (z[..., None, :] + log_kept).logsumexp(-1)).exp()


@pytest.mark.parametrize("hierarchy_rate", [0.0, 0.5, 1.0])
def test_scores_equal_eq_5(hierarchy_rate: float) -> None:
    know = statistics(CLASSES)
    loss = ConcurrentSoftmax(hierarchy_rate_test=hierarchy_rate).bind(CLASSES, know)
    r = rates_of(loss, hierarchy_rate, know)
    z = logits(2)
    expected = torch.zeros(2, 40, CLASSES, dtype=torch.float64)
    for b in range(2):
        for row in range(40):
            for i in range(CLASSES):
                mass = sum((1 - r[i][j]) * math.exp(z[b, row, j]) for j in range(CLASSES + 1))
                expected[b, row, i] = math.exp(z[b, row, i]) / mass
    torch.testing.assert_close(loss.scores(z), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(brute_scores(z, r), expected, rtol=1e-6, atol=1e-9)  # the next test's oracle


def test_extreme_logits_keep_loss_gradient_and_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Class 0 is a kind of class 1 (r = 1): of one row both are labels, of the next one of them, and z reaches 1e4."""
    know = statistics(CLASSES)
    loss = ConcurrentSoftmax(hierarchy_rate_train=1.0).bind(CLASSES, know)
    row = torch.tensor([1e4, 9.9e3, -1e4, 0.0, 50.0, -50.0, 30.0])
    z = torch.stack([row, row, row.roll(2), row.flip(0), -row]).expand(2, 5, 7).clone()
    values = torch.zeros(10, CLASSES)
    values[torch.arange(10), torch.arange(10) % CLASSES] = 1
    values[::2, 1] = 1
    targets = RowTargets(
        background=torch.zeros(2, 5, dtype=torch.bool),
        background_known=torch.ones(2, CLASSES, dtype=torch.bool),
        image=torch.arange(2).repeat_interleave(5),
        row=torch.arange(5).repeat(2),
        values=values,
        known=torch.ones(10, CLASSES, dtype=torch.bool),
    )
    for precision in (torch.float32, torch.bfloat16):
        x = z.to(precision).requires_grad_()
        total = loss.loss_sum(x, targets)
        (slope,) = torch.autograd.grad(total, x)
        wide = x.detach().double().requires_grad_()
        exact = loss.loss_sum(wide, targets)
        (exact_slope,) = torch.autograd.grad(exact, wide)
        assert total.item() == pytest.approx(exact.item(), rel=1e-6)
        assert exact_slope.abs().sum() > 5  # far from the goal, it still learns
        torch.testing.assert_close(slope.double(), exact_slope, rtol=0, atol=1e-2)
    monkeypatch.setattr("xray_det.losses.concurrent._CHUNK", 21)  # several chunks of the pairs that are taken anew
    scores = loss.scores(z)
    assert scores.dtype == torch.float32
    expected = brute_scores(z.double(), rates_of(loss, 1.0, know)).float()
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-12)
    assert scores[0, 0, 1] > 0.99  # class 0's logit is 100 above, and does not count


def test_switches() -> None:
    know, targets, z = statistics(CLASSES), random_targets(2, 40, CLASSES), logits(3)
    plain, both = Softmax(labels="each"), ConcurrentSoftmax().bind(CLASSES, know)
    off = ConcurrentSoftmax(train="plain", test="plain")
    assert off.needs is None
    unbound = off.bind(CLASSES, None)
    unbound.require_statistics()
    assert torch.equal(unbound.loss_sum(z, targets), plain.loss_sum(z, targets))
    assert torch.equal(unbound.scores(z), plain.scores(z))
    test = ConcurrentSoftmax(train="plain").bind(CLASSES, know)
    assert torch.equal(test.loss_sum(z, targets), plain.loss_sum(z, targets))
    assert torch.equal(test.scores(z), both.scores(z))
    train = ConcurrentSoftmax(test="plain").bind(CLASSES, know)
    assert torch.equal(train.loss_sum(z, targets), both.loss_sum(z, targets))
    assert torch.equal(train.scores(z), plain.scores(z))
    assert both.loss_sum(z, targets) < plain.loss_sum(z, targets)
    assert (both.scores(z) >= plain.scores(z)).all()


def test_chunks_do_not_change_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, targets = ConcurrentSoftmax().bind(CLASSES, statistics(CLASSES)), random_targets(2, 40, CLASSES, known=0.8)
    z = logits(4).requires_grad_()
    whole = loss.loss_sum(z, targets)
    monkeypatch.setattr("xray_det.losses.softmax._CHUNK_CPU", 9 * (CLASSES + 1))
    parts = loss.loss_sum(z, targets)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(total, z)[0] for total in (parts, whole)))


def test_what_it_is_bound_to() -> None:
    know = statistics(CLASSES)
    config = ConcurrentSoftmax(iou=0.8)
    assert config.needs is not None
    assert config.needs.concurrence_iou == 0.8
    empty = config.bind(CLASSES, None)
    with pytest.raises(InputError, match="built without"):
        empty.require_statistics()
    bound = config.bind(CLASSES, know)
    bound.require_statistics()
    empty.load_state_dict(bound.state_dict())
    assert torch.equal(empty.scores(logits()), bound.scores(logits()))
    assert not list(bound.parameters())
    with pytest.raises(InputError, match="6 classes, the detector has 7"):
        config.bind(CLASSES + 1, know)
    with pytest.raises(InputError, match="no concurrent rates"):
        config.bind(CLASSES, replace(know, concurrence=None))
    with pytest.raises(InputError, match=r"outside \(0, 1\]"):
        statistics(CLASSES, rates=np.full((CLASSES, CLASSES), 1.5))
    with pytest.raises(InputError, match=r"outside \(0, 1\]"):
        statistics(CLASSES, rates=np.full((CLASSES, CLASSES), -0.5))
    for bad in ({"iou": 0.0}, {"hierarchy_rate_train": -0.1}, {"hierarchy_rate_test": 1.1}, {"background_prior": 1.0}):
        with pytest.raises(InputError, match=next(iter(bad))):
            ConcurrentSoftmax(**bad)  # type: ignore[arg-type]

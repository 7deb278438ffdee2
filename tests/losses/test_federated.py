"""Federated loss: which classes an image's subset holds, how they are drawn, and what is learned of them."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from tests.losses.made_statistics import statistics
from tests.losses.rows import dense, random_targets
from xray_det.errors import InputError
from xray_det.losses.federated import Federated
from xray_det.losses.targets import RowTargets

CLASSES = 8


def uniform(seed: int, images: int) -> Callable[[int, str], torch.Tensor]:
    return lambda count, purpose: torch.rand(images, count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("classes", [1, 4, 8, 50])
def test_the_subset_holds_what_is_shown_and_known_classes_to_its_size(classes: int) -> None:
    targets = random_targets(20, 6, CLASSES, known=0.7)
    targets.draw = uniform(0, 20)
    loss = Federated(classes=classes).bind(CLASSES, statistics(CLASSES))
    chosen = loss.chosen(targets)
    assert torch.equal(chosen, loss.chosen(targets))
    for b in range(20):
        shown = {int(c) for row in targets.values[targets.image == b] for c in row.nonzero()}
        known = set(targets.background_known[b].nonzero().flatten().tolist())
        own = set(chosen[b].nonzero().flatten().tolist())
        assert shown <= own <= shown | known
        assert len(own) == max(len(shown), min(classes, len(shown | known)))


def test_it_is_cross_entropy_over_the_subset() -> None:
    targets = random_targets(3, 30, CLASSES, known=0.7)
    targets.draw = uniform(1, 3)
    loss = Federated(classes=3).bind(CLASSES, statistics(CLASSES))
    z = torch.randn(3, 30, CLASSES, generator=torch.Generator().manual_seed(2)).double().requires_grad_()
    values, known = dense(targets)
    known &= loss.chosen(targets)[:, None]
    total = loss.loss_sum(z, targets)
    (slope,) = torch.autograd.grad(total, z)
    each = F.binary_cross_entropy_with_logits(z, values.double(), reduction="none")
    assert total.item() == pytest.approx(each[known].sum().item(), rel=1e-6)
    assert (slope[~known] == 0).all()
    assert (slope[known] != 0).all()


def test_classes_are_drawn_by_the_square_root_of_their_images() -> None:
    """The first of a draw without replacement follows the weights; the second those that are left."""
    images = 20_000
    nothing = torch.zeros(0, dtype=torch.int64)
    targets = RowTargets(
        background=torch.zeros(images, 1, dtype=torch.bool),
        background_known=torch.ones(images, 4, dtype=torch.bool),
        image=nothing,
        row=nothing,
        values=torch.zeros(0, 4),
        known=torch.zeros(0, 4, dtype=torch.bool),
        draw=uniform(3, images),
    )
    know = dataclasses.replace(statistics(4))
    counts = torch.from_numpy(know.with_descendants(know.image_counts)).double()
    chance = counts.sqrt() / counts.sqrt().sum()
    one = Federated(classes=1).bind(4, know).chosen(targets).double().mean(0)
    two = Federated(classes=2).bind(4, know).chosen(targets).double().mean(0)
    later = torch.stack([sum(chance[i] * chance[j] / (1 - chance[i]) for i in range(4) if i != j) for j in range(4)])
    torch.testing.assert_close(one, chance, rtol=0, atol=0.015)
    torch.testing.assert_close(two, chance + later, rtol=0, atol=0.015)
    even = Federated(classes=1, power=0.0).bind(4, know).chosen(targets).double().mean(0)
    torch.testing.assert_close(even, torch.full((4,), 0.25).double(), rtol=0, atol=0.015)


def test_a_class_without_images_is_never_drawn_and_bad_values_are_refused() -> None:
    know = statistics(4)
    know.image_counts[3] = 0
    targets = random_targets(10, 3, 4)
    targets.values.zero_()
    targets.draw = uniform(0, 10)
    assert not Federated(classes=4).bind(4, know).chosen(targets)[:, 3].any()
    for bad in ({"classes": 0}, {"power": -1.0}, {"prior": 0.0}):
        with pytest.raises(InputError, match=next(iter(bad))):
            Federated(**bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="4 classes, the detector has 5"):
        Federated().bind(5, know)

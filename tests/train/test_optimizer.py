"""Groups, and the schedule against torch's own and against the closed form."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR, MultiStepLR, SequentialLR

from xray_det.train.optimizer import build_optimizer, build_schedule, lr_factor, parameter_groups, warmup_length
from xray_det.train.phase import SGD, AdamW, Phase


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 2), nn.LayerNorm(2))


def rates(phase: Phase, *, steps_per_epoch: int, start: int = 0) -> list[float]:
    """lr of each step of the phase from ``start`` on, as an optimizer sees it."""
    optimizer = build_optimizer(model(), phase)
    schedule = build_schedule(optimizer, phase, steps_per_epoch=steps_per_epoch, step=start)
    seen = []
    for _ in range(start, phase.epochs * steps_per_epoch):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_schedule_equals_torchs_own_linear_and_multi_step() -> None:
    phase = Phase(epochs=4, lr=0.04, warmup_steps=7, warmup_factor=0.1, drops=(2, 3), drop_factor=0.2)
    reference = torch.optim.SGD(model().parameters(), lr=0.04)
    oracle = SequentialLR(
        reference,
        [
            LinearLR(reference, start_factor=0.1, total_iters=7),
            MultiStepLR(reference, milestones=[20 - 7, 30 - 7], gamma=0.2),
        ],
        milestones=[7],
    )
    expected = []
    for _ in range(40):
        expected.append(reference.param_groups[0]["lr"])
        reference.step()
        oracle.step()
    assert rates(phase, steps_per_epoch=10) == pytest.approx(expected, rel=1e-9)


def test_the_papers_schedule_by_hand() -> None:
    """Paper 000: 2 warm-up epochs, 0.04, a tenth at 10 and 15 of 20 epochs."""
    phase = Phase(epochs=20, lr=0.04, warmup_epochs=2, warmup_factor=0.0, drops=(10, 15))
    seen = rates(phase, steps_per_epoch=4)
    assert seen[0] == 0
    assert seen[4] == pytest.approx(0.02)  # half of the warm-up
    assert seen[8:40] == pytest.approx([0.04] * 32)
    assert seen[40:60] == pytest.approx([0.004] * 20)
    assert seen[60:] == pytest.approx([0.0004] * 20)


def test_schedule_resumed_at_any_step_is_the_unbroken_one() -> None:
    phase = Phase(epochs=3, lr=0.3, warmup_epochs=0.5, drops=(1.5, 2.5))
    whole = rates(phase, steps_per_epoch=6)
    assert len(set(whole)) > 4
    for start in range(18):
        assert rates(phase, steps_per_epoch=6, start=start) == whole[start:]


def test_a_drop_may_fall_within_the_warm_up() -> None:
    phase = Phase(epochs=2, lr=1.0, warmup_steps=10, warmup_factor=0.5, drops=(1,), drop_factor=0.1)
    assert lr_factor(phase, 4, 5) == pytest.approx(0.5 + 0.5 * 4 / 10)
    assert lr_factor(phase, 5, 5) == pytest.approx(0.1 * (0.5 + 0.5 * 5 / 10))


def test_a_phase_that_says_nothing_warms_up_for_500_steps_but_no_more_than_a_tenth_of_it() -> None:
    assert [warmup_length(Phase(epochs=epochs), 100) for epochs in (1, 12, 50, 100)] == [10, 120, 500, 500]
    assert warmup_length(Phase(epochs=50, keep_optimizer=True), 100) == 0
    assert warmup_length(Phase(epochs=50, warmup_steps=0), 100) == 0
    seen = rates(Phase(epochs=10, lr=0.1), steps_per_epoch=10)
    assert seen[:10] == pytest.approx([0.1 * (0.001 + 0.999 * step / 10) for step in range(10)])
    assert seen[10:] == [0.1] * 90


@pytest.mark.parametrize("decay_norms", [True, False])
def test_norms_and_biases_escape_decay_when_asked(decay_norms: bool) -> None:
    groups = parameter_groups(model(), weight_decay=0.1, decay_norms=decay_norms)
    decay = {name: group["weight_decay"] for group in groups for name, _ in group["params"]}
    assert set(decay) == {f"{i}.{part}" for i in range(4) for part in ("weight", "bias")}
    spared = {"0.bias", "1.weight", "1.bias", "2.bias", "3.weight", "3.bias"}
    assert {name for name, value in decay.items() if value == 0} == (set() if decay_norms else spared)


def test_frozen_parameters_are_in_no_group() -> None:
    network = model()
    network[0].requires_grad_(False)
    names = {n for g in parameter_groups(network, weight_decay=0.1, decay_norms=False) for n, _ in g["params"]}
    assert names == {f"{i}.{part}" for i in (1, 2, 3) for part in ("weight", "bias")}


def test_optimizers_get_their_settings() -> None:
    sgd = build_optimizer(model(), Phase(lr=0.3, optimizer=SGD(momentum=0.8, nesterov=True, weight_decay=0.01)))
    group = sgd.param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.3, 0.8, True, 0.01)
    adam = build_optimizer(model(), Phase(lr=0.1, optimizer=AdamW(beta1=0.8, beta2=0.95)))
    assert isinstance(adam, torch.optim.AdamW)
    assert adam.param_groups[0]["betas"] == (0.8, 0.95)

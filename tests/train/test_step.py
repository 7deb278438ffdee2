"""One step: where a number that is not finite is noticed late, and what the step's random draws depend on."""

from pathlib import Path

import pytest
import torch
from toy_training import ToyData, ToyDetector

from xray_det.models.sampling import SampleKey
from xray_det.train.optimizer import build_optimizer, build_schedule
from xray_det.train.phase import SGD, AdamW, Phase
from xray_det.train.step import NonFinite, StepKey, Stepper, compute_terms, native_precision, summed


def key(batch: int) -> StepKey:
    return StepKey(seed=0, phase=0, epoch=0, batch=batch)


@pytest.mark.parametrize("config", [SGD(), AdamW()])
def test_a_late_look_finds_the_weights_before_the_broken_step(config: SGD | AdamW) -> None:
    """As on CUDA: finiteness is read a step later, and the device itself skips every update since."""
    detector = ToyDetector()
    phase = Phase(lr=0.05, optimizer=config)
    optimizer = build_optimizer(detector, phase)
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False
    stepper = Stepper(
        model=detector,
        detector=detector,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, phase, steps_per_epoch=5, step=0),
        ema=None,
        rows=[],
        clip=1.0,
        precision="fp32",
        rank=0,
        world=1,
        lag=1,
    )
    data = ToyData()
    data.poisoned = (0, 0, 2)
    states = []
    batches = list(data.batches(0, 0, 0, 5))
    for number in range(3):
        states.append({name: value.clone() for name, value in detector.state_dict().items()})
        stepper(batches[number], key(number))  # step 2 is broken, and not noticed yet
    with pytest.raises(NonFinite) as caught:
        stepper(batches[3], key(3))
    assert caught.value.made.key == key(2)
    assert caught.value.made.batch is batches[2]
    assert not torch.equal(states[1]["boxes.weight"], states[2]["boxes.weight"])  # sound steps did move it
    assert all(torch.equal(states[2][name], value) for name, value in detector.state_dict().items())


def test_a_chunks_last_step_is_looked_at_before_the_checkpoint() -> None:
    detector = ToyDetector()
    optimizer = build_optimizer(detector, Phase())
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False
    schedule = build_schedule(optimizer, Phase(), steps_per_epoch=5, step=0)
    stepper = Stepper(
        model=detector, detector=detector, optimizer=optimizer, schedule=schedule, ema=None, rows=[], clip=None,
        precision="fp32", rank=0, world=1, lag=1,
    )  # fmt: skip
    data = ToyData()
    data.poisoned = (0, 0, 0)
    stepper(next(data.batches(0, 0, 0, 1)), key(0))
    with pytest.raises(NonFinite):
        stepper.settle()


def test_dropout_is_a_function_of_the_step_and_the_rank() -> None:
    detector = ToyDetector(dropout=0.5)
    batch = next(ToyData().batches(0, 0, 0, 1))

    def losses(step: StepKey, rank: int) -> list[float]:
        torch.rand(7)  # whatever was drawn before
        terms = compute_terms(detector, detector, batch, step, precision="fp32", rank=rank, divisors=summed(1))
        return terms.values.tolist()

    first = losses(key(0), 0)
    assert losses(key(0), 0) == first
    others = [losses(key(1), 0), losses(key(0), 1), losses(StepKey(seed=1, phase=0, epoch=0, batch=0), 0)]
    assert all(other != first for other in others)


def test_bf16_runs_the_network_under_autocast_and_keeps_losses_in_float32() -> None:
    detector = ToyDetector()
    batch = next(ToyData().batches(0, 0, 0, 1))
    full, half = (
        compute_terms(detector, detector, batch, key(0), precision=precision, rank=0, divisors=summed(1))
        for precision in ("fp32", "bf16")
    )
    assert half.values.dtype == torch.float32
    assert not torch.equal(full.values, half.values)
    torch.testing.assert_close(full.values, half.values, rtol=0.02, atol=0)


def test_throw_away_passes_leave_no_trace(tmp_path: Path) -> None:
    detector = ToyDetector()
    detector.pyramid[1] = torch.nn.BatchNorm2d(8)  # its statistics move with every forward pass
    optimizer = build_optimizer(detector, Phase())
    schedule = build_schedule(optimizer, Phase(), steps_per_epoch=5, step=0)
    stepper = Stepper(
        model=detector, detector=detector, optimizer=optimizer, schedule=schedule, ema=None, rows=[], clip=None,
        precision="fp32", rank=0, world=1, lag=0,
    )  # fmt: skip
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    batch = next(ToyData().batches(0, 0, 0, 1))
    detector(batch.images, batch.sizes, None, SampleKey(seed=0, phase=0, epoch=0, positions=batch.positions))
    assert not torch.equal(before["pyramid.1.running_mean"], detector.state_dict()["pyramid.1.running_mean"])
    detector.load_state_dict(before)
    stepper.rehearse(batch, key(0), times=2)
    assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items())
    assert all(parameter.grad is None for parameter in detector.parameters())


def test_bf16_is_native_where_the_library_that_convolves_says_so() -> None:
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert native_precision("cpu") == ("bf16" if supported else "fp32")

"""What a phase refuses, and that it is plain data."""

from typing import Any

import pytest

from xray_det.config import from_dict, replace, to_dict
from xray_det.data.sampling import Natural, SoftBalance
from xray_det.errors import InputError
from xray_det.train.phase import SGD, AdamW, ClassRows, Head, Phase


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"epochs": 0}, "epochs"),
        ({"lr": 0.0}, "lr"),
        ({"lr": -1.0}, "lr"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"warmup_steps": 5, "warmup_epochs": 0.5}, "warmup"),
        ({"epochs": 2, "warmup_epochs": 3.0}, "warmup_epochs"),
        ({"warmup_factor": 1.5}, "warmup_factor"),
        ({"epochs": 3, "drops": (2, 1)}, "drops"),
        ({"epochs": 3, "drops": (1, 1)}, "drops"),
        ({"epochs": 3, "drops": (3,)}, "drops"),
        ({"epochs": 3, "drops": (0,)}, "drops"),
        ({"clip": 0.0}, "clip"),
        ({"ratio": (0.0, 0.0)}, "ratio"),
        ({"ratio": (1.0, -1.0)}, "ratio"),
        ({"epochs": 1, "sampling": SoftBalance(lam=(0.0, 1.0))}, "sampling.lam"),
        ({"epochs": 0.7, "sampling": SoftBalance(lam=(0.0, 1.0))}, "sampling.lam"),
        ({"sampling": SoftBalance(lam=(0.0, 1.0))}, "sampling.lam"),
        ({"epochs": -0.5}, "epochs"),
        ({"epochs": float("nan")}, "epochs"),
        ({"epochs": float("inf")}, "epochs"),
        ({"iterations": 0}, "iterations"),
        ({"epochs": 1, "iterations": 10}, "iterations"),
        ({"epochs": 0.5, "warmup_epochs": 0.6}, "warmup_epochs"),
        ({"iterations": 100, "warmup_steps": 101}, "warmup_steps"),
        ({"epochs": 0.5, "drops": (0.5,)}, "drops"),
        ({"iterations": 100, "drops": (50, 100)}, "drops"),
        ({"drops": (1,)}, "drops"),
    ],
)
def test_impossible_values_are_refused_by_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        Phase(**changes)
    assert caught.value.where == field


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: SGD(momentum=1.0), "momentum"),
        (lambda: SGD(momentum=0.0, nesterov=True), "nesterov"),
        (lambda: SGD(weight_decay=-0.1), "weight_decay"),
        (lambda: AdamW(beta2=1.0), "beta2"),
        (lambda: ClassRows(names=()), "trainable.names"),
    ],
)
def test_impossible_parts_are_refused_by_name(build: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        build()
    assert caught.value.where == field


def test_a_phase_survives_its_json_form() -> None:
    phase = Phase(epochs=3, trainable=ClassRows(names=("cat",)), optimizer=AdamW(), drops=(1.5,), ratio=(1.0, 2.0))
    assert from_dict(Phase, to_dict(phase)) == phase
    assert replace(phase, "trainable", "Head").trainable == Head()


def test_lambda_moves_through_the_epochs_of_a_phase() -> None:
    phase = Phase(epochs=5, sampling=SoftBalance(lam=(0.2, 1.0)))
    rules = [phase.sampling_at(epoch, 10) for epoch in range(5)]
    assert [rule.lam for rule in rules if isinstance(rule, SoftBalance)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert Phase(epochs=5, sampling=SoftBalance(lam=0.7)).sampling_at(3, 10) == SoftBalance(lam=0.7)
    assert Phase(epochs=5).sampling_at(3, 10) == Natural()


@pytest.mark.parametrize("length", [{"epochs": 2.4}, {"epochs": 3}, {"iterations": 21}, {"iterations": 30}])
def test_lambda_moves_to_the_last_epoch_that_is_begun(length: dict[str, Any]) -> None:
    phase = Phase(sampling=SoftBalance(lam=(0.0, 1.0)), **length)
    rules = [phase.sampling_at(epoch, 10) for epoch in range(3)]
    assert [rule.lam for rule in rules if isinstance(rule, SoftBalance)] == [0.0, 0.5, 1.0]


def test_lambda_cannot_move_where_iterations_make_one_epoch() -> None:
    for iterations in (7, 10):
        with pytest.raises(InputError, match=r"sampling\.lam"):
            Phase(iterations=iterations, sampling=SoftBalance(lam=(0.0, 1.0))).sampling_at(0, 10)


@pytest.mark.parametrize(
    ("length", "steps"),
    [({}, 10), ({"epochs": 3}, 30), ({"epochs": 0.5}, 5), ({"epochs": 7.3}, 73), ({"epochs": 0.001}, 1),
     ({"epochs": 1.26}, 13), ({"iterations": 1}, 1), ({"iterations": 999}, 999)],
)  # fmt: skip
def test_a_phase_has_so_many_steps(length: dict[str, Any], steps: int) -> None:
    assert Phase(**length).steps(10) == steps


def test_a_length_is_set_by_path() -> None:
    assert replace(Phase(), "iterations", "500").length == 500
    assert replace(Phase(epochs=2), "epochs", "7.3").length == 7.3
    phase = replace(replace(Phase(epochs=12), "epochs", "none"), "iterations", "500")
    assert (phase.length, phase.unit) == (500, "iterations")
    assert from_dict(Phase, to_dict(phase)) == phase
    whole = to_dict(replace(Phase(), "epochs", "12"))["epochs"]
    assert (whole, type(whole)) == (12, int)


def test_lambda_is_one_number_or_two_in_json_and_by_path() -> None:
    phase = Phase(epochs=2, sampling=SoftBalance(lam=(0.0, 1.0)))
    assert to_dict(phase)["sampling"] == {"type": "SoftBalance", "lam": [0.0, 1.0]}
    assert from_dict(Phase, to_dict(phase)) == phase
    one = replace(phase, "sampling.lam", "0.3")
    assert to_dict(one)["sampling"] == {"type": "SoftBalance", "lam": 0.3}
    for text in ("0,1", "[0, 1]", [0, 1]):
        assert replace(one, "sampling.lam", text) == phase
    for wrong in ("-1", "1,-1", "1,2,3", "high"):
        with pytest.raises(InputError, match=r"lam"):
            replace(phase, "sampling.lam", wrong)

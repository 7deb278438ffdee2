"""Search spaces: what is refused, what an arm's experiment is, and that a short schedule is a whole one."""

from pathlib import Path
from typing import Any

import pytest
from made_dataset import experiment
from ray import tune

from xray_det.data.sampling import SoftBalance
from xray_det.errors import InputError
from xray_det.orchestrate import search
from xray_det.orchestrate.experiment import Experiment
from xray_det.train.phase import Phase

LAM = "phases.1.sampling.lam"


def made(*phases: Phase) -> Experiment:
    return experiment("squares", Path("out"), **({"phases": phases} if phases else {}))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "space: is empty"),
        ({"phases.1.sampling.lambda": [0.1]}, "SoftBalance has no field 'lambda'"),
        ({"phases.0.sampling.lam": [0.1]}, "SoftBalance"),
        ({"phases.2.lr": [0.1]}, "no item '2' among 2"),
        ({LAM: []}, "has no values"),
        ({LAM: [0.1, -1.0]}, "-1.0"),
        ({LAM: 0.7}, "is no search space"),
        ({"seed": tune.uniform(0.2, 0.3)}, "Give int"),
    ],
)
def test_what_cannot_be_searched_is_named(space: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        search.check(made(), space)


def test_lists_are_a_grid_and_domains_stay() -> None:
    space = {LAM: [0.0, 0.7], "phases.1.lr": tune.loguniform(1e-4, 1e-2), "seed": tune.grid_search([1, 2, 3])}
    search.check(made(), space)
    given = search.to_tune(space)
    assert given[LAM] == {"grid_search": [0.0, 0.7]}
    assert given["phases.1.lr"] is space["phases.1.lr"]
    assert search.described(space) == {LAM: [0.0, 0.7], "phases.1.lr": "LogUniform (0.0001, 0.01)", "seed": [1, 2, 3]}


def test_an_arm_is_the_experiment_with_its_values() -> None:
    arm = search.chosen(made(), {LAM: 0.3, "phases.1.lr": 0.5, "seed": 4})
    assert isinstance(arm.phases[1].sampling, SoftBalance)
    assert (arm.phases[1].sampling.lam, arm.phases[1].lr, arm.seed) == (0.3, 0.5, 4)
    assert search.label({LAM: 0.3, "phases.1.lr": 0.012345678}) == "lam=0.3 lr=0.01235"
    assert search.label({LAM: 0.3, "phases.0.sampling.lam": 0.1}) == f"{LAM}=0.3 phases.0.sampling.lam=0.1"
    assert "/" not in search.label({"start_from": "s3://a/b"})


@pytest.mark.parametrize(
    ("paths", "first"),
    [([LAM], 1), ([LAM, "phases.1.lr"], 1), ([LAM, "phases.0.lr"], 0), ([LAM, "seed"], 0), (["phases.1"], 0)],
)
def test_phases_before_the_first_that_differs_are_shared(paths: list[str], first: int) -> None:
    assert search.first_searched(made(), dict.fromkeys(paths)) == first


def test_a_short_schedule_is_a_whole_one() -> None:
    phase = Phase(epochs=12, warmup_epochs=0.5, drops=(8, 11), lr=0.1)
    natural = Phase(epochs=10, warmup_steps=100)
    short = search.shortened(made(natural, phase), 0.25, first=1)
    assert short.phases[0] == natural
    assert short.phases[1].epochs == 3
    assert short.phases[1].drops == (2.0, 2.75)
    assert short.phases[1].warmup_epochs == 0.125
    assert search.shortened(made(natural, phase), 0.1, first=0).phases[0].warmup_steps == 10
    assert search.shortened(made(natural, phase), 0.01, first=0).phases[0].epochs == 1
    assert search.shortened(made(natural, phase), 1.0, first=0).phases == (natural, phase)


def test_a_short_schedule_of_iterations_or_of_fractions_is_a_whole_one() -> None:
    counted = Phase(iterations=1000, warmup_steps=100, drops=(600, 900))
    part = Phase(epochs=0.5, warmup_epochs=0.1, drops=(0.4,))
    short = search.shortened(made(counted, part), 0.25, first=0)
    assert short.phases[0] == Phase(iterations=250, warmup_steps=25, drops=(150, 225))
    assert short.phases[1] == Phase(epochs=0.125, warmup_epochs=0.025, drops=(0.1,))
    assert search.shortened(made(counted, part), 0.0001, first=0).phases[0].iterations == 1

"""Population-based training: the schedule that comes out is an experiment, and weights really change hands."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_dataset import experiment, write_dataset
from ray import tune
from safetensors.torch import load_file

from xray_det.data.annotations import Selection
from xray_det.errors import InputError
from xray_det.evaluation.measured import Measured
from xray_det.models.weights import read_config
from xray_det.orchestrate.population import Population
from xray_det.orchestrate.sweep import sweep
from xray_det.orchestrate.trainer import train
from xray_det.orchestrate.validation import Validate
from xray_det.tracking.journal import Journal
from xray_det.train.phase import Phase

LR, LAM = "phases.1.lr", "phases.1.sampling.lam"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data") / "squares")


def population(dataset: str, out: Path, **changes: Any) -> Population:
    base = experiment(dataset, out, workers=1, name="bred")
    phases = (Phase(lr=0.005), replace(base.phases[1], epochs=1, warmup_steps=2))
    base = replace(base, phases=phases, data=replace(base.data, val=(Selection(folder=dataset),)))
    defaults = {"space": {LAM: [0.0, 0.7]}, "members": 2, "generations": 2, "exploited": 0.5}
    return Population(**{"experiment": base, **defaults, **changes})


def likes_the_first_member() -> Validate:
    def validate(weights: str, detections: str, journal: Journal) -> Measured:
        return Measured(metrics={"val/AP": 0.5 if "member-00000" in weights else 0.1})

    return validate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"phases.0.lr": [0.1]}}, "does not lie in the last phase"),
        ({"space": {"phases.1.lamda": [0.1]}}, "no field 'lamda'"),
        ({"members": 1}, "members: 1 is less than 2"),
        ({"generations": 1}, "generations: 1 is less than 2"),
        ({"exploited": 0.6}, "exploited: 0.6"),
    ],
)
def test_what_cannot_be_is_refused(dataset: str, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        population(dataset, tmp_path, **changes)


def test_a_history_is_an_experiment_of_a_phase_a_generation(dataset: str, tmp_path: Path) -> None:
    plan = population(dataset, tmp_path, space={LAM: [0.0, 0.7], LR: tune.loguniform(1e-4, 1e-2)})
    made = plan.training([{LAM: 0.7, LR: 0.001}, {LAM: 0.0, LR: 0.002}], "member-1")
    assert [phase.lr for phase in made.phases] == [0.005, 0.001, 0.002]
    assert [getattr(phase.sampling, "lam", None) for phase in made.phases] == [None, 0.7, 0.0]
    assert [phase.keep_optimizer for phase in made.phases] == [False, False, True]
    assert [phase.warmup_steps for phase in made.phases] == [None, 2, 0]
    assert plan.trunk() is not None


@pytest.mark.medium
@pytest.mark.usefixtures("ray_cluster")
def test_the_worse_member_goes_on_from_the_better_one(dataset: str, tmp_path: Path) -> None:
    found = sweep(population(dataset, tmp_path), validate=likes_the_first_member(), tracking="off")
    rows = {(row.arm, row.rung): row for row in found.rows}
    assert len(rows) == 4
    assert found.best.arm == "member-00000"
    first, second = (rows["member-00000", 0], rows["member-00001", 1])
    # the second member's last training began with the first member's weights, not its own
    phases = read_config(second.weights)["experiment"]["phases"]
    assert phases[1]["sampling"]["lam"] == first.values[LAM]
    assert phases[2]["sampling"]["lam"] == second.values[LAM]
    # and the schedule it ended with gives the same weights when it is trained by itself
    whole = population(dataset, tmp_path).training([first.values, second.values], "alone")
    alone = train(replace(whole, data=replace(whole.data, val=())), tracker=None)
    ours, theirs = (load_file(f"{weights}/model.safetensors") for weights in (second.weights, alone.weights))
    assert all(ours[name].equal(value) for name, value in theirs.items())

"""A sweep: what it trains, what it shares, what it stops, what it leaves, and that it is not repeated."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import ray
from hypothesis import given, settings, strategies
from made_dataset import experiment, write_dataset
from safetensors.torch import load_file

from xray_det import storage
from xray_det.data.annotations import Selection
from xray_det.errors import InputError
from xray_det.evaluation.measured import Measured
from xray_det.models.weights import read_config
from xray_det.orchestrate import sweep as module
from xray_det.orchestrate.arms import Arms
from xray_det.orchestrate.experiment import Experiment
from xray_det.orchestrate.rank import Ladder, halving
from xray_det.orchestrate.results import ENDED, Row, results_table
from xray_det.orchestrate.sweep import sweep
from xray_det.orchestrate.sweep_figures import by_value
from xray_det.orchestrate.trainer import train
from xray_det.orchestrate.validation import Validate
from xray_det.tracking.journal import Journal

LAM = "phases.1.sampling.lam"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data") / "squares")


def made(dataset: str, out: Path, **changes: Any) -> Experiment:
    base = experiment(dataset, out, workers=1, name="lambdas", **changes)
    return replace(base, data=replace(base.data, val=(Selection(folder=dataset),)))


def seven_tenths() -> Validate:
    """As if lambda 0.7 were best, whatever was learnt. An inner function travels to processes without this module."""

    def validate(weights: str, detections: str, journal: Journal) -> Measured:
        phases = read_config(weights)["experiment"]["phases"]
        score = 0.9 - abs(phases[1]["sampling"]["lam"] - 0.7) if len(phases) > 1 else 0.1
        return Measured(metrics={"val/AP": score, "val/AP_tail": score / 2})

    return validate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rungs": (0.5,)}, "do not rise to 1"),
        ({"rungs": (0.6, 0.5, 1.0)}, "do not rise to 1"),
        ({"rungs": (0.9, 1.0)}, "the same epochs"),
        ({"reduction": 1}, "reduction: 1 is less than 2"),
        ({"samples": 0}, "samples: 0 is less than 1"),
        ({"samples": 2}, "Sweep the seed too"),
        ({"space": {"phases.1.sampling.lamda": [1.0]}}, "no field 'lamda'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    dataset: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Arms(**{"experiment": made(dataset, tmp_path), "space": {LAM: [0.0]}, **changes})
    with pytest.raises(InputError, match="Give validation images"):
        Arms(experiment=experiment(dataset, tmp_path), space={LAM: [0.0]})


def row(arm: str, rung: int, share: float, score: float) -> Row:
    return Row(
        arm=arm, values={}, rung=rung, share=share, score=score, metrics={}, reason="", cost={}, folder="", weights=""
    )


@settings(max_examples=50, deadline=None)
@given(data=strategies.data())
def test_the_arms_that_climb_are_those_of_successive_halving(dataset: str, data: strategies.DataObject) -> None:
    """Against the rule as the study of rungs replays it (rank.halving), which knows all scores from the start."""
    arms = data.draw(strategies.integers(1, 12))
    shares = data.draw(strategies.sampled_from([(1.0,), (0.5, 1.0), (0.25, 0.5, 1.0)]))
    reduction = data.draw(strategies.integers(2, 4))
    order = [data.draw(strategies.permutations(range(arms))) for _ in shares]
    made_of = made(dataset, Path("below"))
    made_of = replace(made_of, phases=(made_of.phases[0], replace(made_of.phases[1], epochs=8)))
    plan = Arms(experiment=made_of, space={LAM: [float(a) for a in range(arms)]}, rungs=shares, reduction=reduction)
    rows: list[Row] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Arms, "rows", lambda _: tuple(sorted(rows, key=lambda row: (-row.rung, -row.score, row.arm))))
        for rung, one in enumerate(plan.rounds(2)):
            (listed,) = one.drawn_from.values()
            for value in listed["grid_search"]:
                arm = value if rung else f"{value}"
                score = float(order[rung][int(float(arm))])
                rows.append(row(arm, rung, shares[rung], score))
    kept = halving(np.array(order), Ladder(shares=shares, reduction=reduction))
    assert max((r for r in rows if r.share == 1), key=lambda r: r.score).arm == f"{float(kept.arm)}"
    assert sum(row.share for row in rows) == pytest.approx(kept.cost)


@pytest.mark.medium
@pytest.mark.usefixtures("ray_cluster")
def test_a_sweep_shares_stops_tracks_and_is_not_repeated(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Arms(experiment=made(dataset, tmp_path), space={LAM: [0.7, 0.0]}, rungs=(0.5, 1.0))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    before = ray.available_resources().get("CPU")
    found = sweep(plan, validate=seven_tenths(), tracking=uri, max_concurrent=1)
    # the best alone got the whole schedule; every training's numbers are there
    assert [(row.values[LAM], row.share) for row in found.rows] == [(0.7, 1.0), (0.7, 0.5), (0.0, 0.5)]
    assert [row.score for row in found.rows] == pytest.approx([0.9, 0.9, 0.2])
    assert found.best.metrics["val/AP_tail"] == pytest.approx(0.45)
    # the shared phase was trained once, and going on from it changes no bit
    alone = train(
        replace(plan.training({LAM: 0.7}, "alone", 1), out=str(tmp_path), name="alone"), validate=seven_tenths()
    )
    ours, theirs = (load_file(f"{weights}/model.safetensors") for weights in (found.best.weights, alone.weights))
    assert all(ours[name].equal(value) for name, value in theirs.items())
    assert not (Path(found.best.folder) / "phases" / "0").exists()
    # MLflow: a run with a child a training
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("sweep").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1 == 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parent.data.metrics["val/AP"] == pytest.approx(0.9)
    assert sorted(run.data.params.get(f"experiment.{LAM}", "") for run in children) == ["", "0.0", "0.7", "0.7"]
    assert {path.path for path in client.list_artifacts(parent.info.run_id, "figures")} == {f"figures/by_{LAM}.png"}
    # its resources are back
    until = time.monotonic() + 60
    while ray.available_resources().get("CPU") != before and time.monotonic() < until:
        time.sleep(0.5)
    assert ray.available_resources().get("CPU") == before
    # again: nothing is run
    monkeypatch.setattr(module, "connect", None)
    assert sweep(plan, validate=seven_tenths(), tracking=uri) == found
    with pytest.raises(InputError, match=r"space\.phases\.1\.sampling\.lam: \[0\.7, 0\.0\] -> \[0\.7\]"):
        sweep(replace(plan, space={LAM: [0.7]}), tracking=uri)


@pytest.mark.medium
@pytest.mark.usefixtures("ray_cluster")
def test_an_arm_that_diverges_is_the_worst_and_the_others_go_on(dataset: str, tmp_path: Path) -> None:
    plan = Arms(experiment=made(dataset, tmp_path, ema=None), space={"phases.1.lr": [1e9, 0.001]})
    found = sweep(plan, validate=seven_tenths(), tracking="off")
    assert [row.score for row in found.rows] == [pytest.approx(0.9), -math.inf]
    assert "not finite" in found.rows[1].reason
    assert "replay" in storage.read_json(storage.join(found.rows[1].folder, ENDED))["reason"]
    assert by_value(found.rows, "phases.1.lr", "val/AP") is None  # one finite point is no line
    assert results_table(found.rows, "title").row_count == 2

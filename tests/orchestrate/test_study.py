"""A study: what is trained once, what is not trained again, what a changed arm is, and the table that comes of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from made_dataset import experiment, write_dataset
from rich.console import Console

from xray_det import storage
from xray_det.data.annotations import Selection
from xray_det.data.sampling import Natural, SoftBalance
from xray_det.errors import InputError
from xray_det.evaluation.over_seeds import OverSeeds
from xray_det.orchestrate import study as module
from xray_det.orchestrate.experiment import Experiment, Validation
from xray_det.orchestrate.run_folder import Result, RunFolder
from xray_det.orchestrate.study import Study, Training, Work, run_study, seeded
from xray_det.orchestrate.study_record import Identity, Outcome, read_known, write_record
from xray_det.train.phase import Phase

METRICS = {"AP": "val/AP", "tail": "val/AP_tail"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture(scope="module")
def made(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Two phases, natural and lambda 0.7."""
    base = experiment(dataset, tmp_path_factory.mktemp("unused"), workers=1, ema=None)
    return replace(base, data=replace(base.data, val=(Selection(folder=dataset),)))


def arms(made: Experiment) -> dict[str, Callable[[int], Experiment]]:
    """A natural phase, and it with three different second ones."""
    natural, balanced = made.phases
    seconds = {"lambda 0.7": balanced, "lambda 1": replace(balanced, sampling=SoftBalance(lam=1.0))}
    seconds["more natural"] = replace(balanced, sampling=Natural())
    longer = {name: seeded(replace(made, phases=(natural, second))) for name, second in seconds.items()}
    return {"natural": seeded(replace(made, phases=(natural,))), **longer}


def study(made: Experiment, **changes: Any) -> Study:
    return Study(**{"name": "tried", "arms": arms(made), "seeds": 2, "metrics": METRICS, "epoch_s": 60.0, **changes})


def outcome(ap: float, minutes: float = 2.0) -> Outcome:
    return Outcome(metrics={"val/AP": ap, "val/AP_tail": float("nan"), "val/AR100": 1}, minutes=minutes, commit="abc")


def work(of: Study, out: Path) -> Work:
    trainings = {
        title: [Training.of(f"{title}, seed {seed}", arm(seed), str(out / "runs")) for seed in range(of.seeds)]
        for title, arm in of.arms.items()
    }
    known = read_known(str(out / "results"))
    return Work(study=of, arms=trainings, known=known, results=str(out / "results"), command="x", console=Console())


def test_a_beginning_that_arms_share_is_trained_once(made: Experiment, tmp_path: Path) -> None:
    found = work(study(made), tmp_path)
    titles = [training.title for training in found.missing()]
    assert titles == [f"{arm}, seed {seed}" for arm in arms(made) for seed in (0, 1)]  # no beginning besides
    natural, balanced = found.arms["natural"][1], found.arms["lambda 0.7"][1]
    assert balanced.begin is not None
    assert balanced.begin.key == natural.key
    assert balanced.begin.experiment == natural.experiment
    assert natural.experiment.folder == str(tmp_path / "runs" / natural.key)
    # without the arm, it is trained as what the others begin with
    alone = work(study(made, arms={"lambda 0.7": arms(made)["lambda 0.7"]}, seeds=1), tmp_path)
    assert [t.title for t in alone.missing()] == ["lambda 0.7, seed 0, the first 1 of its phases", "lambda 0.7, seed 0"]


def test_a_key_is_what_numbers_depend_on(made: Experiment, dataset: str, tmp_path: Path) -> None:
    key = Identity.of(made).key
    same = {"name": "other", "out": "/elsewhere", "device": "cuda"}
    assert Identity.of(replace(made, **same)).key == key  # type: ignore[arg-type]
    elsewhere = write_dataset(tmp_path / "squares")
    moved = replace(made.data, train=(Selection(folder=elsewhere),), val=(Selection(folder=elsewhere),))
    assert Identity.of(replace(made, data=moved)).key == key  # the same content in another place
    other = write_dataset(tmp_path / "others", seed=1)
    changed = replace(made.data, train=(Selection(folder=other),), val=(Selection(folder=other),))
    apart = [replace(made, seed=5), replace(made, batch=8), replace(made, data=changed), replace(made, ema=0.9)]
    assert len({key, *(Identity.of(one).key for one in apart)}) == 5
    # weights are known by what they are
    for folder, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        storage.write_bytes(tmp_path / folder / "model.safetensors", content)
    a, b, c = (Identity.of(replace(made, start_from=str(tmp_path / name))).key for name in "abc")
    assert a == b != c
    with pytest.raises(InputError, match="start_from: no weights at"):
        Identity.of(replace(made, start_from=str(tmp_path / "d")))

    def filled(name: str) -> Experiment:
        backbone = replace(made.model.backbone, weights=str(tmp_path / name / "model.safetensors"))
        return replace(made, model=replace(made.model, backbone=backbone))

    a, b, c = (Identity.of(filled(name)).key for name in "abc")
    assert a == b != c
    with pytest.raises(InputError, match=r"model\.backbone\.weights: no weights at"):
        Identity.of(filled("d"))


def test_what_is_committed_is_not_trained_again(made: Experiment, tmp_path: Path) -> None:
    first = work(study(made), tmp_path)
    for number, training in enumerate(first.arms["lambda 0.7"]):
        first.known[training.key] = outcome(0.1 * number)
    first.write()
    # another study, without the folders of the runs, finds them; the beginning is needed for the others alone
    again = work(study(made, name="other"), tmp_path / "elsewhere")
    assert len(again.missing()) == 8
    again = replace(again, known=read_known(str(tmp_path / "results")))
    assert [t.title for t in again.missing() if t.title.startswith("lambda 0.7")] == []
    assert len(again.missing()) == 6
    only = replace(again, arms={"lambda 0.7": again.arms["lambda 0.7"]})
    assert only.missing() == []
    assert only.found().values[0, :, 0].tolist() == [0.0, 0.1]
    # a changed arm is another training
    natural, balanced = made.phases
    changed = replace(made, phases=(natural, replace(balanced, lr=balanced.lr * 2)))
    assert len(work(study(made, arms={"lambda 0.7": seeded(changed)}), tmp_path).missing()) == 4


def test_the_record_is_small_and_outlives_new_fields(made: Experiment, tmp_path: Path) -> None:
    identities = [Identity.of(replace(made, seed=seed)) for seed in (0, 1)]
    known = {identity.key: outcome(0.25) for identity in identities}
    write_record(str(tmp_path), "tried", {"arm": identities}, known, command="run it")
    record = json.loads((tmp_path / "tried.json").read_text())
    assert record["command"] == "run it"
    (one, two) = record["arms"]["arm"]["trainings"]
    assert (one["seed"], two["seed"], one["commit"]) == (0, 1, "abc")
    assert one["metrics"] == {"val/AP": 0.25, "val/AP_tail": None}
    read = read_known(str(tmp_path))
    assert set(read) == set(known)
    assert read[identities[0].key].metrics["val/AP"] == 0.25
    assert "curve" not in one
    assert read[identities[0].key].curve == ()
    known[identities[1].key] = replace(outcome(0.5), curve=({"val/AP": 0.25, "val/AR100": 1.0}, {}))
    write_record(str(tmp_path), "tried", {"arm": identities}, known, command="run it")
    assert read_known(str(tmp_path))[identities[1].key].curve == ({"val/AP": 0.25}, {})
    # written before a field was there: its default was meant
    del record["arms"]["arm"]["experiment"]["phases"][0]["clip"]
    del record["arms"]["arm"]["experiment"]["min_workers"]
    storage.write_json(tmp_path / "tried.json", record)
    plain = Identity.of(replace(made, phases=(replace(made.phases[0], clip=Phase().clip), made.phases[1])))
    assert plain.key in read_known(str(tmp_path))
    # a field that is gone: another experiment
    record["arms"]["arm"]["experiment"]["gone"] = 1
    storage.write_json(tmp_path / "tried.json", record)
    assert read_known(str(tmp_path)) == {}
    storage.write_json(tmp_path / "tried.json", {"arms": {"arm": {}}})
    with pytest.raises(InputError, match="is no study's record"):
        read_known(str(tmp_path))
    with pytest.raises(ValueError, match="differ in more than the seed"):
        write_record(str(tmp_path), "x", {"arm": [identities[0], plain]}, known)


def test_a_finished_folder_counts_and_time_is_told_by_what_was_measured(
    made: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = work(study(made, seeds=1), tmp_path)
    found.announce(found.missing(), 2)
    # 4 trainings of 2 epochs of a minute and half a minute to start
    assert "4 trainings, 4 to be made x 2.5 minutes, 2 side by side: 10 minutes" in capsys.readouterr().out
    unknown = work(study(made, seeds=1, epoch_s=None), tmp_path)
    unknown.announce(unknown.missing(), None)
    assert capsys.readouterr().out.strip().endswith("4 to be made, as many as there is room for side by side")
    (natural,) = found.arms["natural"]
    folder = RunFolder.open(natural.experiment.folder, {})
    weights = folder.weights(0, averaged=False)
    result = Result(folder=folder.uri, weights=weights, phases=(weights,), steps=1, metrics={})
    folder.finish(replace(result, validations=({"val/AP": 0.5},), seconds={"total": 300.0}))
    missing = found.missing()
    assert [t.title for t in missing] == ["lambda 0.7, seed 0", "lambda 1, seed 0", "more natural, seed 0"]
    assert found.known[natural.key].metrics == {"val/AP": 0.5}
    found.announce(missing, None)
    assert "3 to be made x 5.0 minutes, as many as there is room for side by side: 15 min" in capsys.readouterr().out


def test_a_study_of_known_arms_needs_no_ray(made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = work(study(made), tmp_path)
    for number, training in enumerate(one for arm in first.arms.values() for one in arm):
        first.known[training.key] = outcome(0.1 * number)
    first.write()
    monkeypatch.setattr(module, "connect", None)

    def verdicts(found: OverSeeds) -> list[str]:
        return [f"best: {found.best('AP')}"]

    found = run_study(
        study(made, verdicts=verdicts), out=str(tmp_path / "runs"), results=str(tmp_path / "results"), command="again"
    )
    assert found.means[:, 0].tolist() == pytest.approx([0.05, 0.25, 0.45, 0.65])
    table = (tmp_path / "results" / "tried.md").read_text()
    assert "| lambda 1 | 45.0 (+40.0 ± 0.0) | - |" in table
    assert "2 seeds; `again`; trained at commit abc" in table
    assert table.endswith("best: more natural\n")


@pytest.mark.parametrize(
    ("changes", "message"), [({"seeds": 0}, "seeds: 0 is less than one"), ({"arms": {}}, "arms: there are none")]
)
def test_what_cannot_be(made: Experiment, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        study(made, **changes)


def test_an_arm_that_is_not_measured_is_refused(made: Experiment, tmp_path: Path) -> None:
    blind = replace(made, data=replace(made.data, val=()))
    with pytest.raises(InputError, match="Give validation images"):
        Training.of("blind", blind, str(tmp_path))


@pytest.mark.medium
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_cluster")
def test_a_study_trains_shares_records_and_goes_on(
    made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    natural, balanced = (replace(phase, epochs=1) for phase in made.phases)
    tried = {
        "natural": seeded(replace(made, phases=(natural,))),
        "balanced": seeded(replace(made, phases=(natural, balanced), validation=Validation(every=1))),
        "wild": seeded(replace(made, phases=(replace(natural, lr=1e9, clip=None), balanced))),
    }
    told: dict[str, Any] = {"out": str(tmp_path / "runs"), "results": str(tmp_path / "results"), "command": "run"}
    told |= {"tracking": f"sqlite:///{tmp_path}/mlflow.db", "console": Console(), "max_concurrent": 2}
    first = run_study(study(made, arms=tried, seeds=1), **told)
    said = capsys.readouterr().out
    assert "tried: 3 trainings, 4 to be made x" in said
    assert "wild, seed 0, the first 1 of its phases has no result: " in said
    assert "wild, seed 0 has no result: its first phases have none" in said
    assert np.isfinite(first.means[:2, 0]).all()
    assert np.isnan(first.means[2]).all()
    record = json.loads((tmp_path / "results" / "tried.json").read_text())
    assert {name: len(arm["trainings"]) for name, arm in record["arms"].items()} == {
        "natural": 1,
        "balanced": 1,
        "wild": 0,
    }
    # the second phase went on from the arm that is the first: it has no first phase of its own
    (one,) = record["arms"]["balanced"]["trainings"]
    key = Training.of("balanced", tried["balanced"](0), told["out"]).key
    assert not (tmp_path / "runs" / key / "phases" / "0").exists()
    assert (tmp_path / "runs" / key / "phases" / "1").exists()
    assert one["minutes"] > 0
    # it was measured on its way, and the first phase needed no more than what the first arm is measured at
    assert one["curve"] == [one["metrics"]]
    assert list(first.curves) == ["balanced"]
    # MLflow: a run with a child a training
    client = mlflow.MlflowClient(told["tracking"])
    runs = client.search_runs([client.get_experiment_by_name("studies").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs if run is not parent} == {parent.info.run_id}
    assert {"tried.json", "tables", "figures"} == {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert (tmp_path / "results" / "tried.png").read_bytes().startswith(b"\x89PNG")
    # on another machine the record is enough for what is finished, and the rest says again why it is not
    elsewhere = told | {"out": str(tmp_path / "other")}
    del tried["wild"]
    monkeypatch.setattr(module, "connect", None)
    again = run_study(study(made, arms=tried, seeds=1), **elsewhere)
    np.testing.assert_allclose(again.values, first.values[:2], atol=1e-6)
    assert not (tmp_path / "other").exists()

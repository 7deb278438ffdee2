"""Experts from the command line: each band's own training, combined, beside the controls; then nothing again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from rich.console import Console
from scripts import load

from xray_det import config, storage
from xray_det.data.annotations import Selection
from xray_det.errors import InputError
from xray_det.orchestrate.experiment import Data
from xray_det.orchestrate.experts import Scores

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "orchestrate"))
from made_dataset import NAMES, experiment, write_dataset  # noqa: E402


def general(dataset: str, val: str, folder: Path) -> str:
    """Weights of a detector that finds something everywhere: its class scores begin around a half."""
    from xray_det.models.weights import save_detector
    from xray_det.orchestrate.experiment import prepare

    data = Data(train=(Selection(folder=dataset),), val=(Selection(folder=val),))
    made = experiment(dataset, folder, data=data, workers=1, ema=None)
    prepared = prepare(config.replace(made, "model.decoding.max_detections", 1000))  # no combination is cut
    torch.manual_seed(0)
    detector = prepared.experiment.model.build(3)
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if name == "class_head.last.bias":
                parameter.zero_()
            elif "last.weight" in name:
                parameter.mul_(10)
    save_detector(folder, detector, prepared.space, experiment=prepared.document["experiment"])
    return str(folder)


def run(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    return subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "experts.py"), *arguments],
        env={**environment, "XRAY_DET_HOME": str(home), "COLUMNS": "140"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def reported(stdout: str) -> str:
    """The last table and what follows, without what Ray's daemon says meanwhile."""
    lines = stdout[stdout.index("t/coco") :].splitlines()
    return "\n".join(line for line in lines if "(raylet)" not in line)


def result(general: float, expert: float, longer: float) -> dict[str, Any]:
    """Three classes: of no band, of 2-2, of 3-3. The expert of 3-3 is as good as the general detector."""
    ap = {
        "general": (0.5, general, 0.1),
        "experts 2-2": (None, expert, None),
        "experts 3-3": (None, None, 0.1),
        "longer": (0.5, longer, 0.2),
        "own": (0.5, expert, 0.1),
        "union": (0.5, general, 0.1),
        "wbf": (0.5, 0.0, 0.1),
    }
    bands = {"3-3": (2,), "others": (0,), "2-2": (1,)}
    scores = Scores(key="t/coco", names=("a", "b", "c"), counts=(9, 5, 1), bands=bands, ap=ap)
    return {"chosen": "own", "scores": {"val": [json.loads(json.dumps(scores.to_json()))]}}


def test_several_general_detectors_are_told_together() -> None:
    script = load("experts")
    text = script.over_seeds([result(0.2, 0.5, 0.3), result(0.3, 0.6, 0.4)])
    lines = text.splitlines()
    assert "t/coco, all val images" in lines
    assert "| arm | AP | others | 2-2 | 3-3 |" in lines
    assert "| general | 28.3 | 50.0 | 25.0 | 10.0 |" in lines
    assert "| experts 2-2 | - | - | 55.0 (+30.0 ± 0.0) | - |" in lines
    # five detectors gain 0.1 with the second seed, wbf nothing: sqrt(2 / 5 * (10 / 120**2 + 2 / 24**2))
    said = "Expert 2-2 raises its band: holds. It is +30.0 above general, +20.0 above longer; the spread is +4.1."
    assert said in text
    assert "Expert 3-3 raises its band: does not hold here. It is +0.0 above general, -10.0 above longer" in text
    assert "own +10.0, union +0.0, wbf -8.3" in text
    assert "Classes, of 3: general 0 and 0 at 0; longer 2 and 2 rose, 0 and 0 fell, 0 and 0 at 0; own 1 and 1" in text
    assert "wbf 0 and 0 rose, 1 and 1 fell, 1 and 1 at 0." in text
    assert "2 general detectors; combinations chosen: own, own (on these images, which flatters them); `exper" in text


def test_images_to_report_on_are_not_those_to_choose_on(tmp_path: Path) -> None:
    script = load("experts")
    val = write_dataset(tmp_path / "v", name="v", images=4)
    moved, test = shutil.copytree(val, tmp_path / "moved"), write_dataset(tmp_path / "t", name="t", images=4, seed=1)
    made = experiment(val, tmp_path / "run", data=Data(train=(Selection(folder=val),), val=(Selection(folder=val),)))
    assert [one.folder for one in script.reported_on((test,), made)] == [test]
    for same in (val, str(moved)):
        with pytest.raises(InputError, match="those that the combination is chosen on"):
            script.reported_on((test, same), made)


@pytest.mark.medium
def test_without_a_general_detector_the_claims_natural_trainings_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renders and ingests the small miniature, in seconds."""
    from xray_det.orchestrate import claims, study

    script, natural = load("experts"), claims.experiment(smoke=True)
    asked: list[study.Study] = []
    monkeypatch.setattr(claims, "experiment", lambda *, smoke: natural)
    monkeypatch.setattr(study, "run_study", lambda study, **_: asked.append(study))
    args = script.of_the_claims(script.Args(out=str(tmp_path), seeds=2, set=("phases.0.epochs=1",)), Console())
    (made,) = asked
    expected = [study.Training.of("", made.arms["natural"](seed), str(tmp_path / "studies")) for seed in (0, 1)]
    assert list(args.general) == [training.experiment.folder for training in expected]
    assert [training.experiment.seed for training in expected] == [0, 1]
    assert args.set == ("phases.0.lr=0.0005", "phases.0.epochs=1")
    assert args.results.endswith("experiments/results")


@pytest.mark.medium
@pytest.mark.timeout(1200)
def test_experts_and_their_combinations(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "squares", images=24)
    val, test = (write_dataset(tmp_path / name, name=name, images=16, seed=seed) for seed, name in ((1, "v"), (2, "t")))
    weights = general(dataset, val, tmp_path / "weights")
    told = [weights, "--run", "e", "--test", test, "--longer", "--set", "phases.0.epochs=1"]
    done = run(tmp_path, *told)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]

    result = json.loads((tmp_path / "runs" / "e" / "experts.json").read_text())
    detectors = ["general", "experts 2-2", "experts 3-3", "longer", "own", "union", "wbf"]
    assert set(result["weights"]) == set(detectors[:4])
    for name, rank in (("experts 2-2", 1), ("experts 3-3", 2)):
        labels = storage.read_json(storage.join(result["weights"][name], "config.json"))["id2label"]
        counts = storage.read_json(storage.join(dataset, "manifest.json"))["instance_counts"][""]
        assert labels == {"0": NAMES[np.argsort(counts)[::-1][rank]]}
    for kind, key in (("val", "v/coco"), ("test", "t/coco")):
        (scores,) = result["scores"][kind]
        assert scores["key"] == key
        assert set(scores["ap"]) == set(detectors)
        ap = {name: np.array(values, float) for name, values in scores["ap"].items()}
        assert np.nanmax(ap["general"]) > 0
        # a class of `own` is its expert's, and the others are the general detector's
        for band in ("2-2", "3-3"):
            (row,) = scores["bands"][band]
            assert ap["own"][row] == pytest.approx(ap[f"experts {band}"][row], abs=1e-9)
            assert np.isnan(np.delete(ap[f"experts {band}"], row)).all()
        (other,) = scores["bands"]["others"]
        assert ap["own"][other] == pytest.approx(ap["general"][other], abs=1e-9)
        assert (tmp_path / "runs" / "e" / "detections" / kind / "wbf" / "part-00000.parquet").exists()
    means = {name: np.nanmean(np.array(result["scores"]["val"][0]["ap"][name], float)) for name in detectors[-3:]}
    assert means[result["chosen"]] == max(means.values())
    table = reported(done.stdout)
    assert f"{result['chosen']} (chosen)" in table
    assert all(name in table for name in detectors)

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("experts").experiment_id])
    (parent,) = [found for found in runs if found.data.tags.get("chosen")]
    assert parent.data.metrics["test/t/coco/own/AP"] == pytest.approx(np.nanmean(ap["own"]))
    assert len([found for found in runs if found.data.tags.get("mlflow.parentRunId") == parent.info.run_id]) == 2

    again = run(tmp_path, *told)
    assert again.returncode == 0
    assert reported(again.stdout) == table
    refused = run(tmp_path, *told, "--bands", "1-2", "2-3")
    assert refused.returncode == 1
    assert "1-2 and 2-3 overlap" in refused.stderr

"""predict.py and evaluate.py as a user calls them, on a detector with random weights."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from xray_det.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "inference"))


def script(name: str) -> ModuleType:
    """A script of experiments/ as a module, so that its calls share this process's imports."""
    spec = importlib.util.spec_from_file_location(f"experiment_{name}", ROOT / "experiments" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.medium
def test_predict_and_evaluate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from inference_made import dataset, weights
    from mlflow.tracking import MlflowClient
    from PIL import Image

    from xray_det.data.annotations import Selection
    from xray_det.data.augmentation import Augmentation
    from xray_det.data.manifest import Manifest
    from xray_det.inference.predict import predict
    from xray_det.tracking.journal import read_points
    from xray_det.tracking.tracker import Tracker

    # The truth is what the detector itself finds, a pixel aside, for two of three images: an AP between 0 and 1.
    first = dataset(tmp_path / "first")
    made = weights(tmp_path / "weights", Manifest.load(first).space, Augmentation(short_side=(64,), max_side=160))
    found = predict(made, [Selection(folder=first)], str(tmp_path / "found"), progress=False).table().to_pylist()
    boxes = {
        k: [(label, [x1 + 1, y1, x2 - x1 + 1, y2 - y1]) for label, (x1, y1, x2, y2) in pairs]
        for k, row in enumerate(found)
        if k % 3 and (pairs := list(zip(row["labels"], row["boxes"], strict=True))[:4])
    }
    folder = dataset(tmp_path / "second", boxes=boxes)

    out, predicting, evaluating, scoring = tmp_path / "out", script("predict"), script("evaluate"), script("score")
    predicting.main(predicting.Args(weights=made, data=(folder,), out=str(out), pictures=3, score=0.6))
    rows = json.loads((out / "made.coco.json").read_text())
    assert {row["category_id"] for row in rows} <= {10, 11, 12}  # the published ids
    assert {row["image_id"] for row in rows} == set(range(23))
    assert np.array(Image.open(out / "made.png")).std() > 10

    run, uri, scores = tmp_path / "run", f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "scores.json"
    Tracker(run, experiment="e", name="n", uri=uri, system_metrics_s=0).finish()
    args = evaluating.Args(weights=made, data=(folder,), out=str(out), run=str(run), json=scores)
    evaluating.main(args)
    said = capsys.readouterr()
    assert "every image" in said.out
    assert "the training data are not there" in said.err
    assert "also trained on" not in said.err
    table = json.loads(scores.read_text())["made"]
    assert set(table) == {"coco", "open_images", "voc"}
    assert len(list((out / "figures").iterdir())) == 6
    lines = list(csv.DictReader((out / "classes.csv").open()))
    assert [(line["protocol"], line["rank"]) for line in lines] == [(p, r) for p in table for r in "123"]
    published_boxes = sum(map(len, boxes.values()))
    for protocol, scored in table.items():
        own = {line["class"]: line for line in lines if line["protocol"] == protocol}
        assert sum(int(line["boxes"]) for line in own.values()) == published_boxes
        key = "id" if protocol == "open_images" else "class"
        assert {line[key]: float(line["AP"] or "nan") for line in own.values()} == pytest.approx(
            {name: np.nan if ap is None else ap for name, ap in scored["per_class"].items()}, nan_ok=True
        )

    # The scores are those that score.py gives the file that predict.py wrote, against the published annotations.
    published = tmp_path / "second" / "published" / "annotations" / "instances_train.json"
    files = {"truth": (published,), "detections": out / "made.coco.json"}
    for protocol, kind in (("coco", scoring.Coco), ("voc", scoring.Voc)):
        result, _ = scoring.score(kind(**files))
        for name, value in result.metrics.items():
            assert table[protocol][name] == pytest.approx(value, abs=1e-6), name
        assert 0.1 < table[protocol]["mAP" if protocol == "voc" else "AP"] < 0.99

    # The numbers are in the training's MLflow run, a step for each evaluation.
    key = "evaluate/made/coco/AP"
    assert read_points(run)[key] == {0: pytest.approx(table["coco"]["AP"])}
    monkeypatch.setattr(evaluating, "trained_on", lambda weights: [(Manifest.load(folder), None)])
    evaluating.main(evaluating.Args(**{**vars(args), "protocols": ("coco",)}))
    assert f"made ({folder}): 23 of 23 validation images are also trained on" in capsys.readouterr().err
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert [point.step for point in client.get_metric_history(tracked.info.run_id, key)] == [0, 1]
    assert tracked.info.status == "FINISHED"
    assert len(client.list_artifacts(tracked.info.run_id, "evaluation/0")) == 6

    # Another size is another folder.
    evaluating.main(evaluating.Args(weights=made, data=(folder,), protocols=("coco",), short_side=32))
    (smaller,) = (tmp_path / "weights" / "evaluation").iterdir()
    assert smaller.name == "made-all-short32"
    assert json.loads((smaller / "prediction.json").read_text())["augmentation"]["short_side"] == [32]


def test_tables_fit_a_terminal_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from xray_det.evaluation import coco
    from xray_det.evaluation.result import Result
    from xray_det.labels.space import Class, LabelSpace

    monkeypatch.setenv("COLUMNS", "80")
    evaluating = script("evaluate")
    name = "a class whose name is longer than the terminal of eighty columns that it is printed to is wide"
    space = LabelSpace(name="s", classes=tuple(Class(name=n, source_id=n) for n in ("cup", name)))
    metrics = {**dict.fromkeys(coco.METRICS, 0.123), "AP": 0.456}
    assert len(metrics) == 12
    datasets = ("objects365_validation_2019", "open_images_v7_challenge", "lvis_v1_minival")
    scored = [
        evaluating.Scored(
            dataset=dataset,
            protocol=protocol,
            result=Result(
                protocol=protocol,
                metrics=metrics,
                space=space,
                ap=np.array([0.789, 0.012]),
                boxes=np.array([4, 123456]),
            ),
            bands={"AP_head": 0.5, "AP_middle": np.nan, "AP_tail": 0.25},
            counts=np.array([1234567, 3]),
        )
        for dataset in datasets
        for protocol in ("coco", "lvis", "open_images", "voc")
    ]
    evaluating.show(scored)
    said = capsys.readouterr().out
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= 80
    for text in (
        *metrics,
        "AP_head",
        "AP_middle",
        "AP_tail",
        "0.123",
        "0.456",
        "0.789",
        "123456",
        "1234567",
        *datasets,
    ):
        assert text in said, text
    cells = [line.split("│")[2] for line in said.splitlines() if "│" in line]
    assert name.replace(" ", "") in "".join(cells).replace(" ", "")


@pytest.mark.medium
@pytest.mark.parametrize("name", ["predict.py", "evaluate.py"])
def test_what_a_user_can_mend_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "weights").mkdir()
    command = [sys.executable, ROOT / "experiments" / name, tmp_path / "weights", "--data", tmp_path / "nothing"]
    answer = subprocess.run([*command, "--out", tmp_path / "out"], capture_output=True, text=True)
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"{name}: ")
    assert "ingest.py" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("data", [[], {"train": 3}, {"train": ["a"]}, {"train": [{"folder": "a"}]}, "squares"])
def test_what_a_detector_says_it_was_trained_on_is_checked(tmp_path: Path, data: object) -> None:
    said = {"architecture": {}, "label_space": {}, "model_type": "xray_det", "experiment": {"data": data}}
    (tmp_path / "config.json").write_text(json.dumps(said))
    trained_on = script("evaluate").trained_on
    if data == []:  # nothing is said
        assert trained_on(str(tmp_path)) is None
    else:
        with pytest.raises(InputError, match=r"config\.json: experiment\.data\.train: is no list"):
            trained_on(str(tmp_path))

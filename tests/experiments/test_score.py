"""The script as users run it, on real annotations and detections in several layouts."""

import contextlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scripts import load

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "experiments/score.py"


def run(*args: object) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own."""
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, args)], cwd=ROOT, capture_output=True, text=True)


def scored(tmp_path: Path, *args: object) -> dict[str, Any]:
    """What the script writes, run in this process: starting one costs seconds."""
    script = load("score")
    args = (*args, "--json", tmp_path / "scores.json")
    script.main(tyro.cli(script.Protocol, args=[str(a) for a in args]))
    return json.loads((tmp_path / "scores.json").read_text())


def refusal(tmp_path: Path, *args: object) -> str:
    """What the script says when it cannot score, on one line."""
    with pytest.raises(SystemExit) as stopped:
        scored(tmp_path, *args)
    assert stopped.value.code not in (0, None)
    return " ".join(str(stopped.value.code).split())


def test_coco_has_pycocotools_names_and_values(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "metric_refs/coco_val2014_100"
    files = ("--truth", folder / "gts.json", "--detections", folder / "dets.json")
    done = run("coco", *files, "--json", tmp_path / "out/scores.json")
    assert done.returncode == 0, done.stderr
    assert "0.503647" in done.stdout
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    expected = json.loads((folder / "expected.json").read_text())["pycocotools"]
    short = {name.replace("small", "s").replace("medium", "m").replace("large", "l"): v for name, v in expected.items()}
    assert scores == short  # to the last bit, and no other name


def test_coco_tiny_with_crowds_and_segment_areas_equals_pycocotools(tmp_path: Path, shared_data: Path) -> None:
    """Two splits at once: detections made from the boxes, some of them on crowds, scores with ties."""
    files = [shared_data / f"coco_tiny/annotations/instances_{split}2017.json" for split in ("train", "val")]
    rng = np.random.default_rng(0)
    both: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    for file in files:
        document = json.loads(file.read_text())
        both["images"] += document["images"]
        both["annotations"] += document["annotations"]
        both["categories"] = document["categories"]
    assert sum(a["iscrowd"] for a in both["annotations"]) == 5
    detections = []
    for a in both["annotations"]:
        for _ in range(rng.integers(1, 4)):
            x, y, w, h = np.array(a["bbox"]) + rng.normal(0, 4, 4).round(2)
            w, h = max(float(w), 0.5), max(float(h), 0.5)
            row = {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": [float(x), float(y), w, h]}
            detections.append(row | {"score": round(float(rng.random()), 2)})
    (tmp_path / "dets.json").write_text(json.dumps(detections))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = both
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "dets.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    scores = scored(tmp_path, "coco", "--truth", *files, "--detections", tmp_path / "dets.json")
    assert list(scores.values()) == evaluation.stats.tolist()


@pytest.fixture
def federated(tmp_path: Path) -> tuple[Path, Path]:
    """LVIS JSON of three images, and detections: a rare class is found, then not seen, a frequent one mistaken."""
    images = [
        {
            "id": n,
            "neg_category_ids": absent,
            "not_exhaustive_category_ids": [],
            "coco_url": f"http://x/val2017/{n}.jpg",
        }
        for n, absent in ((1, []), (2, [9]), (3, []))
    ]
    box = {"bbox": [10, 10, 90, 90], "area": 8000}
    truth = {
        "images": images,
        "annotations": [{"id": n, "image_id": n, "category_id": c} | box for n, c in ((1, 4), (2, 4), (3, 9))],
        "categories": [{"id": 4, "name": "cup", "frequency": "r"}, {"id": 9, "name": "bowl", "frequency": "f"}],
    }
    found = [(1, 4, 0.9), (2, 9, 0.8), (1, 9, 0.8), (3, 9, 0.7)]  # no one looked for a bowl in the first image
    detections = [{"image_id": i, "category_id": c, "score": v} | box for i, c, v in found]
    for name, value in (("truth", truth), ("found", detections)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    return tmp_path / "truth.json", tmp_path / "found.json"


def test_lvis_has_lvis_apis_names_and_values(tmp_path: Path, federated: tuple[Path, Path]) -> None:
    truth, found = federated
    scores = scored(tmp_path, "lvis", "--truth", truth, "--detections", found)
    rare = 51 / 101  # half of the cups are found, with the first detection: recall 0 to 0.5 at precision 1
    mean = (rare + 0.5) / 2
    assert scores == pytest.approx(
        {"AP": mean, "AP50": mean, "AP75": mean, "APs": -1, "APm": mean, "APl": -1}
        | {"APr": rare, "APc": -1, "APf": 0.5, "AR@300": 0.75, "ARs@300": -1, "ARm@300": 0.75, "ARl@300": -1}
    )
    plain = scored(tmp_path, "coco", "--truth", truth, "--detections", found)
    assert plain["AP"] < mean  # by COCO's rules the bowl in the first image is wrong


def test_what_lvis_cannot_score_is_named(tmp_path: Path, shared_data: Path, federated: tuple[Path, Path]) -> None:
    truth, found = federated
    row = json.loads(found.read_text())[0]
    found.write_text(json.dumps([row | {"image_id": 77}]))
    assert re.search(
        "images are not in the truth.*77", refusal(tmp_path, "lvis", "--truth", truth, "--detections", found)
    )
    folder = shared_data / "metric_refs/coco_val2014_100"
    files = ("--truth", folder / "gts.json", "--detections", folder / "dets.json")
    assert re.search("classes have no frequency", refusal(tmp_path, "lvis", *files))
    folder = shared_data / "field_cases/lvis_custom_no_lists"
    files = ("--truth", folder / "gt.json", "--detections", folder / "dt.json")
    assert re.search("no image has neg_category_ids", refusal(tmp_path, "lvis", *files))


@pytest.fixture(scope="module")
def voc(shared_data: Path) -> Path:
    return shared_data / "voc2012_100"


@pytest.fixture(scope="module")
def plain_truth(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The annotations with difficult boxes as ordinary ones: so the expected values were computed."""
    folder = tmp_path_factory.mktemp("plain")
    for file in (voc / "Annotations").glob("*.xml"):
        text = file.read_text()
        (folder / file.name).write_text(text.replace("<difficult>1</difficult>", "<difficult>0</difficult>"))
    return folder


@pytest.mark.parametrize("layout", ["voc", "coco_format_v1/instances_default.json", "coco_format_v2/instances_v2.json"])
@pytest.mark.parametrize(("iou", "kind"), [("0.5", "EVERY"), ("0.3", "ELEVEN")])
def test_voc_in_three_layouts(tmp_path: Path, voc: Path, plain_truth: Path, layout: str, iou: str, kind: str) -> None:
    """The three layouts and the detections number images and classes in four different ways."""
    truth = plain_truth if layout == "voc" else voc / "other_formats" / layout
    options = ["--iou", iou, *(["--eleven-point"] if kind == "ELEVEN" else [])]
    detections = voc / "detections/coco_format/coco_dets.json"
    scores = scored(tmp_path, "voc", "--truth", truth, "--detections", detections, *options)
    expected = json.loads((voc / "expected_metrics.json").read_text())[f"{kind}_POINT_INTERPOLATION iou={iou}"]
    assert scores["mAP"] == pytest.approx(expected["mAP"], abs=1e-12)
    assert scores["per_class"] == pytest.approx({c: v["AP"] for c, v in expected["per_class"].items()}, abs=1e-12)


def test_coco_numbers_of_voc_files(tmp_path: Path, voc: Path, plain_truth: Path) -> None:
    detections = voc / "detections/coco_format/coco_dets.json"
    scores = scored(tmp_path, "coco", "--truth", plain_truth, "--detections", detections)
    expected = json.loads((voc / "expected_metrics.json").read_text())["pycocotools bbox summary"]
    assert scores == pytest.approx(expected, abs=1e-12)


def test_difficult_boxes_are_ignored(tmp_path: Path, voc: Path, plain_truth: Path) -> None:
    detections = voc / "detections/coco_format/coco_dets.json"
    flagged = scored(tmp_path, "voc", "--truth", voc / "Annotations", "--detections", detections)
    ordinary = scored(tmp_path, "voc", "--truth", plain_truth, "--detections", detections)
    assert flagged["mAP"] != ordinary["mAP"]


def test_open_images_csv_of_names_and_pixels_against_voc_files(tmp_path: Path, voc: Path, plain_truth: Path) -> None:
    """The same detections with class names and corners: xmax = x + w, to which the protocol adds its pixel."""
    document = json.loads((voc / "detections/coco_format/coco_dets.json").read_text())
    images = {i["id"]: Path(i["file_name"]).stem for i in document["images"]}
    names = {c["id"]: c["name"] for c in document["categories"]}
    lines = ["ImageID,LabelName,Score,XMin,XMax,YMin,YMax"]
    for a in document["annotations"]:
        x, y, w, h = a["bbox"]
        row = [images[a["image_id"]], names[a["category_id"]], repr(a["score"]), x, x + w, y, y + h]
        lines.append(",".join(map(str, row)))
    (tmp_path / "dets.csv").write_text("\n".join(lines) + "\n")
    scores = scored(tmp_path, "voc", "--truth", plain_truth, "--detections", tmp_path / "dets.csv")
    expected = json.loads((voc / "expected_metrics.json").read_text())["EVERY_POINT_INTERPOLATION iou=0.5"]
    assert scores["mAP"] == pytest.approx(expected["mAP"], abs=1e-12)


@pytest.fixture(scope="module")
def challenge(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Boxes, image labels, and detections that find every second box exactly, with one miss beside each."""
    folder = shared_data / "open_images/challenge_sample"
    boxes, labels = (
        folder / "annotations-bbox_expanded.csv",
        folder / "annotations-human-imagelabels_expanded.csv",
    )
    lines = ["ImageID,LabelName,Score,XMin,XMax,YMin,YMax"]
    for n, line in enumerate(boxes.read_text().splitlines()[1:]):
        image, label, *corners, _ = line.split(",")
        if n % 2:
            lines.append(f"{image},{label},{0.9 - n * 1e-5},{','.join(corners)}")
        lines.append(f"{image},{label},{0.4 - n * 1e-5},1.1,1.2,1.1,1.2")
    path = tmp_path_factory.mktemp("challenge") / "dets.csv"
    path.write_text("\n".join(lines) + "\n")
    return boxes, labels, path


def test_open_images_with_every_option(tmp_path: Path, shared_data: Path, challenge: tuple[Path, Path, Path]) -> None:
    boxes, labels, detections = challenge
    hierarchy = shared_data / "open_images/challenge-2019-label500-hierarchy.json"
    base = ("open_images", "--truth", boxes, "--detections", detections)
    alone = scored(tmp_path, *base)
    verified = scored(tmp_path, *base, "--image-labels", labels)
    ignored = scored(tmp_path, *base, "--image-labels", labels, "--group-of-weight", 0)
    expanded = scored(tmp_path, *base, "--image-labels", labels, "--hierarchy", hierarchy)
    # every class has boxes that are found first and others that never are: AP is the share that is found
    assert set(alone) == {"mAP", "per_class"}
    assert 0.3 < alone["mAP"] < 0.6
    assert len(verified["per_class"]) > len(alone["per_class"])  # labels name classes without a box
    assert None in verified["per_class"].values()
    assert ignored["mAP"] != verified["mAP"]
    assert set(expanded["per_class"]) >= set(verified["per_class"])
    assert all(key.startswith("/m/") for key in alone["per_class"])


@pytest.mark.parametrize(
    ("detections", "message"),
    [
        (
            [{"image_id": 999999, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}],
            "images are not in the truth.*999999",
        ),
        ([{"image_id": 42, "category_id": 0, "bbox": [0, 0, 1, 1], "score": 1}], "classes are not in the truth.*'0'"),
        ([{"image_id": 42, "category_id": 1, "bbox": [0, 0, 1, 1]}], "score"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, shared_data: Path, detections: Any, message: str) -> None:
    (tmp_path / "dets.json").write_text(json.dumps(detections))
    truth = shared_data / "metric_refs/coco_val2014_100/gts.json"
    assert re.search(message, refusal(tmp_path, "coco", "--truth", truth, "--detections", tmp_path / "dets.json"))


def test_numbers_that_are_ids_of_some_images_and_names_of_others(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "field_cases/score_ids_and_stems_mixed"
    for found in ("dt.json", "dt_by_id.json"):
        scores = scored(tmp_path, "coco", "--truth", folder / "gt.json", "--detections", folder / found)
        assert scores["AP"] == pytest.approx(1)


def test_a_refusal_is_one_message(tmp_path: Path, voc: Path) -> None:
    done = run("voc", "--truth", tmp_path / "no", "--detections", voc / "detections/coco_format/coco_dets.json")
    assert done.returncode == 1
    assert "no such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_impossible_settings_are_named(tmp_path: Path, voc: Path) -> None:
    files = ("--truth", voc / "Annotations", "--detections", voc / "detections/coco_format/coco_dets.json")
    assert "7.0" in refusal(tmp_path, "voc", *files, "--iou", "7")
    missing = tmp_path / "labels.csv"
    assert "image-level labels" in refusal(tmp_path, "open_images", *files, "--image-labels", missing)
    assert "-2.0" in refusal(tmp_path, "open_images", *files, "--group-of-weight", "-2")


def test_help_is_there_at_once() -> None:
    code = (
        "import runpy, sys; sys.argv = ['score.py', 'open_images', '--help']\n"
        "try: runpy.run_path('experiments/score.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pyarrow', 'hotcoco'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--group-of-weight" in done.stdout


def test_scoring_imports_neither_ray_nor_mlflow_nor_torch(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "metric_refs/coco_val2014_100"
    code = (
        "import runpy, sys; sys.argv = ['score.py', *sys.argv[1:]]\n"
        "runpy.run_path('experiments/score.py', run_name='__main__')\n"
        "heavy = {'torch', 'ray', 'mlflow', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    args = ["coco", "--truth", str(folder / "gts.json"), "--detections", str(folder / "dets.json")]
    done = subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

"""Combined detections against plain loops over images, classes and boxes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import Table, array, parquet

from xray_det.errors import InputError
from xray_det.inference.combine import Combination, Fusion, Own, Union, combine
from xray_det.inference.detect import detection_schema
from xray_det.inference.fusion import fuse
from xray_det.inference.predict import Prediction, open_prediction
from xray_det.labels.space import Class, LabelSpace

NAMES = ("cup", "plate", "fork", "spoon", "knife")
IMAGES, PART = 23, 10


def iou(a: Any, b: Any) -> float:
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return float(shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))


def fused(found: list[tuple[Any, float]], models: int, threshold: float) -> list[tuple[Any, float]]:
    """The paper's steps 1 to 6 for one class of one image: lists of clusters, and of their fused boxes."""
    clusters: list[list[tuple[Any, float]]] = []
    means: list[Any] = []
    for box, score in sorted(found, key=lambda pair: -pair[1]):
        overlaps = [iou(mean, box) for mean in means]
        if overlaps and max(overlaps) > threshold:
            at = overlaps.index(max(overlaps))
            clusters[at].append((box, score))
            total = sum(s for _, s in clusters[at])
            means[at] = [sum(s * b[k] for b, s in clusters[at]) / total for k in range(4)]
        else:
            clusters.append([(box, score)])
            means.append(list(box))
    return [
        (mean, sum(s for _, s in cluster) / len(cluster) * min(len(cluster), models) / models)
        for mean, cluster in zip(means, clusters, strict=True)
    ]


def suppressed(found: list[tuple[Any, float]], threshold: float) -> list[tuple[Any, float]]:
    kept: list[tuple[Any, float]] = []
    for box, score in sorted(found, key=lambda pair: -pair[1]):
        if all(iou(box, other) <= threshold for other, _ in kept):
            kept.append((box, score))
    return kept


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Around a few centres, so that many overlap."""
    centre = rng.choice([20.0, 40.0, 70.0], (count, 2)) + rng.normal(0, 3, (count, 2))
    half = rng.uniform(8, 16, (count, 2))
    return np.concatenate([centre - half, centre + half], axis=1)


def predicted(folder: Path, names: tuple[str, ...], seed: int, part_images: int = PART, most: int = 100) -> Prediction:
    """A prediction of made detections: up to a dozen an image, of an image now and then none."""
    space = LabelSpace(name="made", classes=tuple(Class(name=n, source_id=f"id of {n}") for n in names))
    rng = np.random.default_rng(seed)
    folder.mkdir()
    said = {"weights": str(seed), "data": {"made": ["f", None]}, "images": {"made": IMAGES}, "part_images": part_images}
    limits = {"score_threshold": 0.05, "candidates": 1000, "max_detections": most}
    said |= {"own": {**limits, "max_detections": 4}, "limits": limits}
    (folder / "prediction.json").write_text(json.dumps(said))
    rows = []
    for number in range(IMAGES):
        count = int(rng.integers(1, 13)) if number % 7 else 0
        rows.append(
            {
                "image_id": str(number),
                "dataset": "made",
                "boxes": random_boxes(rng, count).astype(np.float32).tolist(),
                "scores": np.sort(rng.uniform(0.1, 1, count).astype(np.float32))[::-1].tolist(),
                "labels": rng.integers(0, len(names), count).tolist(),
            }
        )
    schema = detection_schema(space)
    for part, start in enumerate(range(0, IMAGES, part_images)):
        table = Table.from_pylist(rows[start : start + part_images], schema=schema)
        parquet.write_table(table, folder / f"part-{part:05d}.parquet")
    return open_prediction(str(folder))


def triples(prediction: Prediction) -> dict[str, list[tuple[str, tuple[float, ...], float]]]:
    """Image -> class name, box, score of its detections."""
    return {
        row["image_id"]: [
            (prediction.space.names[label], tuple(box), score)
            for box, score, label in zip(row["boxes"], row["scores"], row["labels"], strict=True)
        ]
        for row in prediction.table().to_pylist()
    }


def plainly(
    predictions: list[Prediction], how: Combination, most: int
) -> dict[str, list[tuple[str, tuple[float, ...], float]]]:
    detections = [triples(prediction) for prediction in predictions]
    expected = {}
    for image in detections[0]:
        rows: list[tuple[str, tuple[float, ...], float]] = []
        for name in NAMES:
            having = [n for n, prediction in enumerate(predictions) if name in prediction.space.names]
            asked = having[-1:] if isinstance(how, Own) else having
            kept = [(box, score) for n in asked for c, box, score in detections[n][image] if c == name]
            if isinstance(how, Union):
                kept = suppressed(kept, how.iou)
            elif isinstance(how, Fusion):
                kept = fused(kept, len(having), how.iou)
            rows += [(name, tuple(box), score) for box, score in kept]
        expected[image] = sorted(rows, key=lambda row: -row[2])[:most]
    return expected


@pytest.fixture
def predictions(tmp_path: Path) -> list[Prediction]:
    """A general detector and two experts, whose tables are shorter and in another order."""
    subsets = (NAMES, ("fork", "plate"), ("knife",))
    return [predicted(tmp_path / str(n), names, seed=n) for n, names in enumerate(subsets)]


@pytest.mark.parametrize("how", [Own(), Union(), Union(iou=0.3), Fusion(), Fusion(iou=0.3)])
@pytest.mark.parametrize("most", [5, 100])
def test_a_combination_is_that_of_plain_loops(
    tmp_path: Path, predictions: list[Prediction], how: Combination, most: int
) -> None:
    predictions = [replace(p, limits=replace(p.limits, max_detections=most)) for p in predictions]
    result = combine(predictions, str(tmp_path / "out"), how)
    found, expected = triples(open_prediction(result.folder)), plainly(predictions, how, most)
    assert list(found) == [str(number) for number in range(IMAGES)]
    assert result.space == predictions[0].space
    assert sum(map(len, expected.values())) > 50
    for image, rows in expected.items():
        assert [row[2] for row in found[image]] == pytest.approx([row[2] for row in rows], rel=1e-6)
        assert [row[0] for row in found[image]] == [row[0] for row in rows]
        for (_, box, _), (_, other, _) in zip(found[image], rows, strict=True):
            assert box == pytest.approx(other, abs=1e-4)


def test_a_class_that_one_detector_has_is_fused_with_nothing(tmp_path: Path, predictions: list[Prediction]) -> None:
    """Nobody else could have found it: its score is not halved."""
    apart = tmp_path / "apart"
    general = predicted(apart, NAMES, seed=9)
    only = [row for rows in triples(general).values() for row in rows if row[0] in ("cup", "spoon")]
    fused_too = triples(combine([general, *predictions[1:]], str(tmp_path / "out"), Fusion(iou=0.999)))
    found = [row for rows in fused_too.values() for row in rows if row[0] in ("cup", "spoon")]
    assert found == only


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("models", [1, 2, 3])
def test_fusion_of_many_groups_at_once_is_that_of_each_alone(seed: int, models: int) -> None:
    rng = np.random.default_rng(seed)
    group = np.sort(rng.integers(0, 6, 60)) * 3  # with gaps
    boxes, scores = random_boxes(rng, 60), rng.uniform(0, 1, 60)
    order = rng.permutation(60)
    found = fuse(boxes[order], scores[order], group[order], np.full(60, models), 0.55)
    assert found[2].tolist() == sorted(found[2].tolist())
    for own in np.unique(group):
        pairs = [
            (box.tolist(), float(score)) for box, score in zip(boxes[group == own], scores[group == own], strict=True)
        ]
        expected = sorted(fused(pairs, models, 0.55), key=lambda pair: -pair[1])
        mine = found[2] == own
        best = np.argsort(-found[1][mine], kind="stable")
        assert found[1][mine][best] == pytest.approx([score for _, score in expected], rel=1e-12)
        np.testing.assert_allclose(found[0][mine][best], [box for box, _ in expected], rtol=1e-12)


@pytest.mark.parametrize("case", range(5))
def test_fusion_is_that_of_its_authors(case: int) -> None:
    """What their package made of drawn boxes; the package itself would bring a compiler with it."""
    made = json.loads((Path(__file__).parent / "fusion_of_its_authors.json").read_text())["cases"][case]
    models, expected = made["models"], {name: np.array(values) for name, values in made["fused"].items()}
    flat = [np.concatenate([np.array(model[name]) for model in models]) for name in ("boxes", "scores", "labels")]
    assert len(expected["scores"]) < len(flat[1]) / 2, "most were fused"
    found = fuse(*flat, np.full(len(flat[1]), len(models)), 0.55)
    order, other = np.argsort(-found[1]), np.argsort(-expected["scores"])
    assert found[2][order].tolist() == expected["labels"][other].tolist()
    np.testing.assert_allclose(found[1][order], expected["scores"][other], rtol=1e-5)  # theirs are float32
    np.testing.assert_allclose(found[0][order], expected["boxes"][other], atol=1e-5)


def test_nothing_found_is_nothing_combined() -> None:
    nothing = fuse(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), 0.5)
    assert [len(part) for part in nothing] == [0, 0, 0]


def test_a_combination_goes_on_where_it_stopped_and_refuses_another(
    tmp_path: Path, predictions: list[Prediction]
) -> None:
    out = tmp_path / "out"
    before = triples(combine(predictions, str(out), Fusion()))
    parts = sorted(out.glob("*.parquet"))
    parts[1].unlink()
    marks = {part: part.stat().st_mtime_ns for part in (parts[0], parts[2])}
    assert triples(combine(predictions, str(out), Fusion())) == before
    assert {part: part.stat().st_mtime_ns for part in marks} == marks
    with pytest.raises(InputError, match=r"how\.iou: 0\.55 -> 0\.6"):
        combine(predictions, str(out), Fusion(iou=0.6))
    with pytest.raises(InputError, match="combined"):
        combine(predictions[:2], str(out), Fusion())


def test_what_cannot_be_combined_is_refused(tmp_path: Path, predictions: list[Prediction]) -> None:
    general, out = predictions[0], str(tmp_path / "out")
    with pytest.raises(InputError, match="learned 'cup', which is no class of the general"):
        combine([predictions[1], general], out, Union())
    with pytest.raises(InputError, match=r"1 and .*1 both learned 'plate'"):
        combine([general, predictions[1], predictions[1]], out, Own())
    with pytest.raises(InputError, match="5 parts, not 3"):
        combine([general, predicted(tmp_path / "parts", ("cup",), 5, part_images=5)], out, Own())
    other = predicted(tmp_path / "other", ("cup",), 5)
    table = parquet.read_table(other.uris[1])
    renamed = table.set_column(0, table.schema.field(0), array([f"x{n}" for n in range(table.num_rows)]))
    parquet.write_table(renamed, tmp_path / "other" / "part-00001.parquet")
    with pytest.raises(InputError, match=r"other images than .*part 1 has other values of image_id"):
        combine([general, other], out, Own())
    for kind in (Union, Fusion):
        with pytest.raises(InputError, match=r"1\.5 is no overlap"):
            kind(iou=1.5)

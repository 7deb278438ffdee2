"""A subset keeps each class and its share, is chosen by its seed alone, and is a dataset like any other."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_source import MadeSource

from xray_det.data import ingest as ingest_module
from xray_det.data.annotations import Annotations, Selection
from xray_det.data.ingest import ingest
from xray_det.data.manifest import Manifest
from xray_det.data.narrow import narrowed
from xray_det.data.schema import SHARD
from xray_det.data.stratify import BoxLabels, choose
from xray_det.data.subset import subset
from xray_det.errors import InputError
from xray_det.labels.hierarchy import Hierarchy


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "_WORTH_RAY", 10**9)
    monkeypatch.setattr(ingest_module, "_ray_is_up", lambda: False)


def made_boxes(images: int, classes: int, seed: int) -> BoxLabels:
    """Skewed classes, several boxes of one in an image, some images without."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, classes + 1) ** 1.5
    kinds = [rng.choice(classes, rng.integers(0, 4), p=share / share.sum()) for _ in range(images)]
    held = [np.repeat(one, rng.integers(1, 5, len(one))) for one in kinds]
    offsets = np.cumsum([0, *map(len, held)])
    return BoxLabels(labels=np.concatenate(held).astype(np.int32), offsets=offsets)


def counted(boxes: BoxLabels, rows: np.ndarray, classes: int) -> np.ndarray:
    parts = [boxes.labels[boxes.offsets[row] : boxes.offsets[row + 1]] for row in rows]
    return np.bincount(np.concatenate(parts), minlength=classes)


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_kept_far_better_than_by_chance_and_no_class_is_lost(seed: int) -> None:
    boxes, classes, count = made_boxes(3000, 60, seed), 60, 300
    total = np.bincount(boxes.labels, minlength=classes)
    rows = choose(boxes, count, seed=seed)
    assert len(rows) == count
    assert (np.diff(rows) > 0).all()
    kept = counted(boxes, rows, classes)
    assert (kept[total > 0] > 0).all()
    target = total / 10
    by_chance = counted(boxes, np.random.default_rng(seed).choice(3000, count, replace=False), classes)
    frequent = target >= 10
    off, chance = (np.abs(one - target)[frequent] / target[frequent] for one in (kept, by_chance))
    # an image brings its boxes together, four and more of a class: so much a share can be off
    assert (np.abs(kept - target)[frequent] <= np.maximum(0.1 * target[frequent], 4)).all()
    assert off.mean() < chance.mean() / 5


def test_the_choice_is_a_function_of_its_seed() -> None:
    boxes = made_boxes(500, 20, 0)
    np.testing.assert_array_equal(choose(boxes, 60, seed=1), choose(boxes, 60, seed=1))
    assert set(choose(boxes, 60, seed=1)) != set(choose(boxes, 60, seed=2))
    np.testing.assert_array_equal(choose(boxes, 500, seed=1), np.arange(500))


def test_too_few_or_too_many_images_are_refused() -> None:
    one_each = BoxLabels(labels=np.arange(5, dtype=np.int32), offsets=np.arange(6))
    assert choose(one_each, 5, seed=0).tolist() == [0, 1, 2, 3, 4]
    for count, said in ((4, "5 were found"), (0, "1 to 5"), (6, "1 to 5")):
        with pytest.raises(InputError, match=said):
            choose(one_each, count, seed=0)


def test_a_subset_is_a_dataset(tmp_path: Path) -> None:
    whole = ingest(MadeSource(tmp_path / "published"), str(tmp_path / "whole"), rows=4, progress=False)
    made = subset(whole.folder, str(tmp_path / "mini"), 10, split="train", seed=3)
    assert (made.name, made.images, dict(made.splits)) == ("mini", 10, {"train": 10})
    assert not made.images_of()[whole.images_of() == 0].any()
    mine, all_ = (Annotations.open([Selection(folder=m.folder)]).batch.to_pylist() for m in (made, whole))
    by_id = {row["image_id"]: row for row in all_}
    assert [by_id[row["image_id"]] for row in mine] == mine
    again = subset(whole.folder, str(tmp_path / "mini"), 10, split="train", seed=3)
    assert again == made
    other = subset(whole.folder, str(tmp_path / "twin"), 10, split="train", seed=3)
    assert other.fingerprint == made.fingerprint != whole.fingerprint
    everything = subset(whole.folder, str(tmp_path / "everything"), whole.images)
    assert everything.fingerprint == whole.fingerprint, "the same images are the same data"
    with pytest.raises(InputError, match="another subset"):
        subset(whole.folder, str(tmp_path / "mini"), 11, split="train", seed=3)
    with pytest.raises(InputError, match="no subset"):
        subset(whole.folder, whole.folder, 10)
    with pytest.raises(InputError, match="none of"):
        subset(whole.folder, str(tmp_path / "none"), 5, split="test")


def test_a_subset_of_some_classes(tmp_path: Path) -> None:
    whole = ingest(MadeSource(tmp_path / "published"), str(tmp_path / "whole"), rows=4, progress=False)
    assert whole.instances_of("train").tolist() == [7, 10, 0]
    made = subset(whole.folder, str(tmp_path / "tiny"), ranks=(2, 2), split="train")
    assert made.space.names == ("cup",)
    assert made.instances_of().tolist() == [7]
    both = (Annotations.open([Selection(folder=m.folder, split="train")]) for m in (made, whole))
    mine, all_ = (one.batch.to_pylist() for one in both)
    by_id = {row["image_id"]: row for row in all_}
    held = [image for image, row in by_id.items() if any(0 in labels for labels in row["labels"])]
    assert [row["image_id"] for row in mine] == held
    for row in mine:
        old = by_id[row["image_id"]]
        kept = [n for n, labels in enumerate(old["labels"]) if 0 in labels]
        for name in ("boxes", "area", "flags"):
            assert row[name] == [old[name][n] for n in kept]
        assert row["labels"] == [[0]] * len(kept)
    two = subset(whole.folder, str(tmp_path / "two"), 6, ranks=(1, 2), split="train")
    assert (two.images, two.space.names) == (6, ("cup", "plate"))
    val = subset(whole.folder, str(tmp_path / "val"), ranks=(2, 2), split="val")
    assert val.space == made.space, "ranks are those of the training images"
    with pytest.raises(InputError, match="another subset"):
        subset(whole.folder, str(tmp_path / "tiny"), ranks=(1, 1), split="train")
    with pytest.raises(InputError, match="no range of the 2 classes"):
        subset(whole.folder, str(tmp_path / "none"), ranks=(2, 3))
    for kind in ("parents", "parts"):
        edges = {"parents": (), "parts": (), kind: (("cup", "plate"),)}
        replace(whole, hierarchy=Hierarchy(**edges)).save(whole.folder)
        with pytest.raises(InputError, match="'cup' would stay and 'plate' go, and one is a kind or a part of the"):
            subset(whole.folder, str(tmp_path / "torn"), ranks=(2, 2))
    replace(whole, hierarchy=Hierarchy(parents=(("cup", "unused"),), parts=())).save(whole.folder)
    assert subset(whole.folder, str(tmp_path / "kept"), ranks=(2, 2)).space.names == ("cup",), "a parent without a box"


def test_rows_are_narrowed_as_a_plain_loop_would() -> None:
    """Boxes of one or several labels, images without visible boxes, image-level labels, and a slice of a table."""
    rng = np.random.default_rng(0)
    table = np.array([-1, 1, -1, 0, 2], np.int32)
    rows = []
    for number in range(60):
        count = int(rng.integers(0, 5))
        boxes = rng.uniform(0, 9, (count, 4)).astype(np.float32).tolist()
        classes = [[int(c) for c in rng.permutation(5)[:3]] for _ in range(3)]
        rows.append(
            {
                "image_id": str(number), "dataset": "d", "image": {"bytes": None, "path": "x"}, "width": 9, "height": 9,
                "boxes": boxes, "area": rng.uniform(1, 9, count).astype(np.float32).tolist(),
                "visible_boxes": boxes if number % 3 else None, "flags": rng.integers(0, 9, count).tolist(),
                "labels": [sorted(int(c) for c in rng.permutation(5)[: rng.integers(1, 4)]) for _ in range(count)],
                "verified_positive": classes[0], "verified_negative": classes[1], "not_exhaustive": classes[2],
            }
        )  # fmt: skip
    images = pa.Table.from_pylist(rows, schema=SHARD)
    for part in (images, images.slice(7, 20), pa.concat_tables([images.slice(0, 5), images.slice(30)])):
        found = narrowed(part, table)
        assert found.schema == SHARD
        found.validate(full=True)
        for row, old in zip(found.to_pylist(), part.to_pylist(), strict=True):
            kept = [n for n, labels in enumerate(old["labels"]) if any(table[c] >= 0 for c in labels)]
            for name in ("boxes", "area", "visible_boxes", "flags"):
                assert row[name] == (None if old[name] is None else [old[name][n] for n in kept])
            assert row["labels"] == [[table[c] for c in old["labels"][n] if table[c] >= 0] for n in kept]
            for name in ("verified_positive", "verified_negative", "not_exhaustive"):
                assert row[name] == [table[c] for c in old[name] if table[c] >= 0]


def test_the_script_prints_and_writes_the_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(__file__).resolve().parents[2] / "experiments/subset.py"
    spec = importlib.util.spec_from_file_location("subset_script", file)
    assert spec is not None
    assert spec.loader is not None
    script = sys.modules["subset_script"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    whole = ingest(MadeSource(tmp_path / "published"), str(tmp_path / "whole"), rows=4, progress=False)
    script.main(script.Args(folder=whole.folder, out=str(tmp_path / "mini"), images=12, json=tmp_path / "shares.json"))
    assert "12 of 21 images" in " ".join(capsys.readouterr().out.split())
    script.main(script.Args(folder=whole.folder, out=str(tmp_path / "tiny"), ranks="2-2", split="train"))
    assert "of 14 images" in " ".join(capsys.readouterr().out.split())
    for wrong, said in (({}, "nothing says how small"), ({"ranks": "2"}, "is no band")):
        with pytest.raises(InputError, match=said):
            script.main(script.Args(folder=whole.folder, out=str(tmp_path / "no"), **wrong))
    stored = json.loads((tmp_path / "shares.json").read_text())
    made = Manifest.load(str(tmp_path / "mini"))
    assert stored["after"] == pytest.approx(made.instances_of() / made.instances_of().sum())
    assert sum(stored["before"]) == pytest.approx(1)

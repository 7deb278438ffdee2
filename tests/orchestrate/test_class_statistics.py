"""What a loss must know is found once for a training: counts from manifests, rates counted and cached."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_dataset import experiment, write_dataset

from xray_det import storage
from xray_det.data import concurrence
from xray_det.data.annotations import Selection
from xray_det.data.counting import Statistics, count_splits, counted
from xray_det.data.manifest import Manifest
from xray_det.labels.concurrence import PairCounts
from xray_det.losses.concurrent import ConcurrentSoftmax
from xray_det.models.retinanet import RetinaNet
from xray_det.orchestrate.class_statistics import class_statistics
from xray_det.orchestrate.experiment import Data, Experiment, prepare


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Two datasets of the same three classes, trained with concurrent softmax."""
    monkeypatch.setenv("XRAY_DET_HOME", str(tmp_path / "home"))
    folders = [write_dataset(tmp_path / name, name=name, images=12, seed=seed) for seed, name in enumerate("ab")]
    base = experiment(folders[0], tmp_path)
    model = RetinaNet(backbone=base.model.backbone, classification=ConcurrentSoftmax())
    return replace(base, model=model, data=Data(train=tuple(Selection(folder=folder) for folder in folders)))


def test_a_loss_that_needs_nothing_costs_nothing(made: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrence, "count", None)
    assert class_statistics(prepare(replace(made, model=RetinaNet()))) is None


def test_counts_add_up_and_rates_are_counted_once(made: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    counted = PairCounts(
        objects=np.array([4, 2, 1]),
        first=np.array([0, 1], np.int32),
        second=np.array([1, 0], np.int32),
        count=np.array([1, 2]),
    )

    def count(selections: Any, maps: Any, ancestors: Any, *, iou: float) -> PairCounts:
        asked.append(iou)
        assert len(selections) == len(maps) == 2
        assert ancestors.shape == (3, 3)
        assert not ancestors.any()
        return counted

    monkeypatch.setattr(concurrence, "count", count)
    manifests = [Manifest.load(selection.folder) for selection in made.data.train]
    for _ in range(2):
        found = class_statistics(prepare(made))
        assert found is not None
        assert found.image_counts.tolist() == np.sum([m.images_of() for m in manifests], axis=0).tolist()
        assert found.instance_counts.tolist() == np.sum([m.instances_of() for m in manifests], axis=0).tolist()
        assert found.concurrence is not None
        assert found.concurrence.dense().tolist() == [[0, 0.25, 0], [1, 0, 0], [0, 0, 0]]
    assert asked == [0.9]
    other = replace(made, model=RetinaNet(classification=ConcurrentSoftmax(iou=0.5)))
    class_statistics(prepare(other))
    class_statistics(prepare(replace(made, data=Data(train=made.data.train[::-1]))))
    assert asked == [0.9, 0.5, 0.9]


def test_a_split_is_counted_without_the_others(made: Experiment) -> None:
    """Half of dataset a is a split."""
    folder = made.data.train[0].folder
    shard = storage.join(folder, "shards/0.parquet")
    table = pq.read_table(shard)
    half = ["train"] * 6 + ["val"] * 6
    position = table.column_names.index("split")
    pq.write_table(table.set_column(position, table.schema.field("split"), [half]), shard)
    found = dict[str, Statistics]()
    count_splits(pq.read_table(shard), 3, found)
    replace(Manifest.load(folder), **counted(found)).save(folder)
    first = table.slice(0, 6).column("labels").to_pylist()
    expected = [sum(labels.count([c]) for labels in first) for c in range(3)]
    split = replace(made, data=Data(train=(Selection(folder=folder, split="train"),)))
    known = class_statistics(prepare(split))
    assert known is not None
    assert known.instance_counts.tolist() == expected
    assert known.image_counts.tolist() == [sum([c] in labels for labels in first) for c in range(3)]
    assert known.concurrence is not None  # single squares that hardly overlap
    assert not known.concurrence.rate.size

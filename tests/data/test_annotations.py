"""One mapped file of annotations: the shards' rows, whoever opens it and however many build it at once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_shards import made_dataset

from xray_det.data.annotations import Annotations, Selection, box_labels, ragged
from xray_det.data.schema import BoxFlag
from xray_det.errors import InputError


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRAY_DET_HOME", str(tmp_path / "home"))


def test_rows_are_those_of_the_shards_in_order(tmp_path: Path) -> None:
    first, second = made_dataset(tmp_path / "a", "a", 20), made_dataset(tmp_path / "b", "b", 11, seed=1)
    selections = [Selection(folder=str(tmp_path / "a"), split="val"), Selection(folder=str(tmp_path / "b"))]
    annotations = Annotations.open(selections)
    expected = [row for row in first if row["split"] == "val"] + second
    assert len(annotations) == len(expected) == 6 + 11
    assert annotations.image_ids.to_pylist() == [row["image_id"] for row in expected]
    assert annotations.starts.tolist() == [0, 6, 17]
    rows = np.array([16, 0, 3, 3, 8])
    for row, found in zip(rows, annotations.take(rows).to_pylist(), strict=True):
        assert found["dataset"] == int(row >= 6)
        assert found["path"] == expected[row]["image"]["path"]
        verified = ("verified_positive", "verified_negative", "not_exhaustive")
        for name in ("width", "height", "boxes", "area", "flags", "labels", *verified):
            assert found[name] == expected[row][name], name


@pytest.mark.parametrize("start", [0, 3])
def test_slices_are_read_by_their_offsets(tmp_path: Path, start: int) -> None:
    rows = made_dataset(tmp_path / "a", "a", 12)[start:10]
    part = Annotations.open([Selection(folder=str(tmp_path / "a"))]).batch.slice(start, 10 - start)
    boxes, offsets = ragged(part.column("boxes"))
    assert boxes.tolist() == [box for row in rows for box in row["boxes"]]
    assert offsets.tolist() == np.cumsum([0, *(len(row["boxes"]) for row in rows)]).tolist()
    labels, box = box_labels(part.column("labels"))
    several = [labels for row in rows for labels in row["labels"]]
    assert labels.tolist() == [label for labels in several for label in labels]
    assert box.tolist() == [number for number, labels in enumerate(several) for _ in labels]


def test_image_classes_are_the_unified_classes_of_taught_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xray_det.data.annotations._CHUNK", 4)  # several passes
    datasets = {name: made_dataset(tmp_path / name, name, 30, seed=seed) for seed, name in enumerate("ab")}
    annotations = Annotations.open([Selection(folder=str(tmp_path / name)) for name in datasets])
    maps = [np.array([5, 0, 2, 5], np.int32), np.array([1, 2, 3, 4], np.int32)]  # two classes of a are one
    untaught = BoxFlag.REPEAT | BoxFlag.NO_AREA | BoxFlag.CROWD
    for rows, table, found in zip(datasets.values(), maps, annotations.image_classes(maps), strict=True):
        assert len(found) == len(rows)
        for number, row in enumerate(rows):
            expected = {
                int(table[label])
                for flags, labels in zip(row["flags"], row["labels"], strict=True)
                for label in labels
                if not flags & untaught
            }
            assert found.classes[found.offsets[number] : found.offsets[number + 1]].tolist() == sorted(expected)
    with pytest.raises(InputError, match="1 for 2 selections"):
        annotations.image_classes(maps[:1])


def test_the_file_is_built_once_and_found_by_what_it_was_built_from(tmp_path: Path) -> None:
    made_dataset(tmp_path / "a", "a", 12)
    whole = Annotations.open([Selection(folder=str(tmp_path / "a"))])
    built = whole.path.stat().st_mtime_ns
    again = Annotations.open([Selection(folder=str(tmp_path / "a"))])
    assert (again.path, again.path.stat().st_mtime_ns) == (whole.path, built)
    assert Annotations.open([Selection(folder=str(tmp_path / "a"), split="train")]).path != whole.path
    assert not list(whole.path.parent.glob("*.partial"))


def test_opening_maps_and_does_not_read(tmp_path: Path) -> None:
    made_dataset(tmp_path / "a", "a", 12)
    selection = [Selection(folder=str(tmp_path / "a"))]
    Annotations.open(selection)
    before = pa.total_allocated_bytes()
    annotations = Annotations.open(selection)
    assert annotations.batch.nbytes > 500
    assert pa.total_allocated_bytes() == before


@pytest.mark.medium
def test_processes_that_build_at_once_do_no_harm(tmp_path: Path) -> None:
    made_dataset(tmp_path / "a", "a", 60)
    code = (
        "import sys; from xray_det.data.annotations import Annotations, Selection\n"
        "a = Annotations.open([Selection(folder=sys.argv[1])]); print(len(a), a.path)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(4)]
    said = {process.communicate(timeout=120)[0] for process in started}
    assert [process.returncode for process in started] == [0] * 4
    assert len(said) == 1
    assert said.pop().startswith("60 ")
    assert [path.suffix for path in sorted((tmp_path / "home" / "cache").iterdir())] == [".arrow", ".lock"]


@pytest.mark.parametrize("change", ["cut", "page", "column", "null"])
def test_a_damaged_shard_is_named(tmp_path: Path, change: str) -> None:
    made_dataset(tmp_path / "a", "a", 5)
    (shard,) = (tmp_path / "a/shards").iterdir()
    data, table = shard.read_bytes(), pq.read_table(shard)
    if change == "cut":
        shard.write_bytes(data[:-9])
    elif change == "page":
        shard.write_bytes(data[:4] + b"\xff" * 40 + data[44:])
    elif change == "column":
        pq.write_table(table.drop_columns(["flags"]), shard)
    else:
        widths = pa.array([None] * len(table), pa.int32())
        pq.write_table(table.drop_columns(["width"]).append_column("width", widths), shard)
    with pytest.raises(InputError, match=r"shards/00000\.parquet"):
        Annotations.open([Selection(folder=str(tmp_path / "a"))])


def test_what_cannot_be_selected_is_named(tmp_path: Path) -> None:
    made_dataset(tmp_path / "a", "a", 12)
    with pytest.raises(InputError, match=r"split 'test'.*train, val"):
        Annotations.open([Selection(folder=str(tmp_path / "a"), split="test")])
    with pytest.raises(InputError, match="no ingested dataset lies here"):
        Annotations.open([Selection(folder=str(tmp_path / "nowhere"))])
    with pytest.raises(InputError, match="no dataset is selected"):
        Annotations.open([])

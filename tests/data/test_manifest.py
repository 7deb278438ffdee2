"""The manifest comes back as it was saved, and a folder without a fitting one is refused."""

import json
from pathlib import Path

import pytest

from xray_det.data.manifest import Manifest, Shard
from xray_det.errors import InputError
from xray_det.labels.space import Class, LabelSpace


def made() -> Manifest:
    space = LabelSpace(
        name="cups", classes=(Class(name="cup", source_id="3", aliases=("mug",)), Class(name="plate", source_id="/m/9"))
    )
    return Manifest(
        name="cups",
        format="coco",
        fingerprint="0123456789abcdef",
        space=space,
        hierarchy=None,
        exhaustive=True,
        images=3,
        boxes=7,
        splits={"train": 2, "": 1},
        image_counts={"train": (2, 0), "": (1, 0)},
        instance_counts={"train": (5, 0), "": (1, 0)},
        repaired={"repeat": 1},
        quarantined={},
        shards=(Shard(file="shards/00000.parquet", rows=2), Shard(file="shards/00001.parquet", rows=1)),
    )


def test_load_gives_back_what_was_saved(tmp_path: Path) -> None:
    manifest = made()
    manifest.save(str(tmp_path))
    loaded = Manifest.load(str(tmp_path))
    assert loaded == manifest
    assert loaded.folder == str(tmp_path)
    assert loaded.shard_uris == (f"{tmp_path}/shards/00000.parquet", f"{tmp_path}/shards/00001.parquet")
    assert loaded.images_of().tolist() == [3, 0]
    assert (loaded.images_of("train").tolist(), loaded.instances_of("").tolist()) == ([2, 0], [1, 0])
    with pytest.raises(InputError, match="'val' is none of"):
        loaded.images_of("val")
    assert loaded.unused_classes == ("plate",)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ingest\.py"):
        Manifest.load(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"surprise": 1}, "surprise"),
        ({"image_counts": {"train": [1, 0], "": [1]}}, "1 numbers"),
        ({"image_counts": {"train": [1, 0]}}, "not given for each split"),
        ({"instance_counts": [1, 0]}, "not given for each split"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    made().save(str(tmp_path))
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=message):
        Manifest.load(str(tmp_path))

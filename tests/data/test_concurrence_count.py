"""What stands on one object, against loops over objects; the same from shards on Ray; and on Open Images' own boxes."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from gt_sample import gt_sample
from hypothesis import given
from hypothesis import strategies as st
from made_shards import made_dataset
from object_loops import ABOVE, ANCESTORS, IMAGES, C, Images, ious, labels_at, table

from xray_det.data import concurrence
from xray_det.data.annotations import Selection
from xray_det.data.concurrence import Survey, count, survey
from xray_det.data.manifest import Manifest
from xray_det.data.objects import Places
from xray_det.data.schema import SHARD
from xray_det.data.shards import read_table, write_shard
from xray_det.errors import InputError
from xray_det.labels.concurrence import Concurrence

THRESHOLDS = ("0.5", "0.75", "0.9", "1")
IDENTITY = np.arange(C, dtype=np.int32)


def by_loops(images: Images, least: Fraction, kinds: bool) -> dict[str, Any]:
    places = labels_at(images, kinds)
    labels = list(places.values())
    near: list[set[int]] = [{place} for place in range(len(labels))]  # the places that show the same object
    overlaps = 0
    for (p, q), value in ious(list(places)).items():
        if value >= least:
            overlaps += 1
            near[p].add(q)
            near[q].add(p)
    found: dict[str, Any] = {"overlaps": overlaps, "objects": [0] * C, "boxes": [0] * C, "lacking": [0] * C}
    found["table"] = np.zeros((C, C), int)
    for place, own in enumerate(labels):
        carried = set().union(*(labels[other] for other in near[place]))
        expanded = own.union(*(ABOVE[label] for label in own)) if kinds else own
        for i in range(C):
            found["objects"][i] += i in own
            for j in range(C):
                found["table"][i, j] += i != j and i in own and j in carried
            below = {c for c in range(C) if kinds and i in ABOVE[c]}
            found["boxes"][i] += i in expanded
            found["lacking"][i] += i in expanded and not below & carried
    return found


def check(found: Survey, images: Images, kinds: bool = True) -> None:
    for number, threshold in enumerate(THRESHOLDS):
        expected = by_loops(images, Fraction(threshold), kinds)
        pairs = found.pairs[number]
        dense = np.zeros((C, C), int)
        dense[pairs.first, pairs.second] = pairs.count
        np.testing.assert_array_equal(dense, expected["table"])
        assert pairs.objects.tolist() == expected["objects"]
        assert found.overlaps[number] == expected["overlaps"]
        assert found.boxes.tolist() == expected["boxes"]
        assert found.lacking[number].tolist() == expected["lacking"]


@given(IMAGES, st.booleans(), st.integers(0, 4))
def test_equal_loops_over_objects_and_add_up(images: Images, kinds: bool, cut: int) -> None:
    def of(part: Images) -> Survey:
        return Survey.of(Places.of(table(part), IDENTITY), tuple(map(float, THRESHOLDS)), ANCESTORS & kinds)

    check(of(images), images, kinds)
    check(of(images[:cut]) + of(images[cut:]), images, kinds)


@given(IMAGES)
def test_counts_are_the_same_whether_labels_were_published_expanded_or_not(images: Images) -> None:
    expanded = [
        [(box, flag, sorted(set(labels).union(*(ABOVE[c] for c in labels)))) for box, flag, labels in image]
        for image in images
    ]
    found = [Survey.of(Places.of(table(each), IDENTITY), (0.75,), ANCESTORS) for each in (images, expanded)]
    for name in ("boxes", "lacking"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))
    pairs = [each.pairs[0] for each in found]
    for name in ("objects", "first", "second", "count"):
        np.testing.assert_array_equal(getattr(pairs[0], name), getattr(pairs[1], name))


def overlapping(folder: Path, name: str, seed: int) -> list[dict[str, Any]]:
    """An ingested dataset of 23 images in four shards and two splits, its boxes drawn again so that many overlap."""
    rows = made_dataset(folder, name, 23, classes=C, seed=seed)
    rng = np.random.default_rng(seed)
    for row in rows:
        corner = rng.integers(0, 3, (len(row["boxes"]), 2))
        row["boxes"] = np.concatenate([corner, corner + rng.integers(8, 11, corner.shape)], 1).tolist()
    for number, start in enumerate(range(0, 23, 7)):
        write_shard(
            pa.Table.from_pylist(rows[start : start + 7], schema=SHARD), Manifest.load(str(folder)).shard_uris[number]
        )
    return rows


@pytest.mark.medium
@pytest.mark.parametrize("split", [None, "val"])
def test_datasets_are_counted_on_ray_in_unified_rows(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str | None
) -> None:
    monkeypatch.setattr(concurrence, "_JOB", 7)  # a job a shard
    maps = [np.array([4, 3, 2, 1, 0], np.int32), IDENTITY]
    images: Images = []
    for number, name in enumerate("ab"):
        for row in overlapping(tmp_path / name, name, number):
            if split in (None, row["split"]):
                labels = [maps[number][own].tolist() for own in row["labels"]]
                images.append(list(zip(row["boxes"], row["flags"], labels, strict=True)))
    selections = [Selection(folder=str(tmp_path / name), split=split) for name in "ab"]
    check(survey(selections, maps, ANCESTORS, thresholds=tuple(map(float, THRESHOLDS))), images)
    for kinds in (False, True):
        found = count(selections, maps, ANCESTORS & kinds, iou=0.75)
        dense = np.zeros((C, C), int)
        dense[found.first, found.second] = found.count
        expected = by_loops(images, Fraction("0.75"), kinds)
        np.testing.assert_array_equal(dense, expected["table"])
        assert found.objects.tolist() == expected["objects"]


def test_gt_sample_of_open_images(shared_data: Path, tmp_path: Path) -> None:
    manifest = gt_sample(shared_data, tmp_path)
    row, ancestors = manifest.space.row_of_name, manifest.hierarchy.ancestors(manifest.space)
    whole = pa.concat_tables([read_table(uri) for uri in manifest.shard_uris])
    places = Places.of(whole, np.arange(len(manifest.space)))
    specific = places.most_specific(ancestors)
    assert (len(places), len(places.label)) == (23_508, 35_961)
    labels_of = [np.diff(p.starts) for p in (places, specific)]
    assert [(sizes > 1).sum() for sizes in labels_of] == [9_345, 116]

    one_box, distinct = 1.0, 0.9
    selection, rows = Selection(folder=str(tmp_path)), np.arange(len(manifest.space))
    found = survey([selection], [rows], ancestors, thresholds=(distinct, one_box))
    assert found.overlaps.tolist() == [2_379, 0]

    def objects(first: str, second: str, at: int) -> int:
        pairs = found.pairs[at]
        return int(pairs.count[(pairs.first == row[first]) & (pairs.second == row[second])].sum())

    for first, second, number in (("Girl", "Woman", 143), ("Man", "Sports uniform", 29), ("Bagel", "Doughnut", 27)):
        for pair in ((first, second), (second, first)):
            assert objects(*pair, 0) - objects(*pair, 1) == number, pair
    rates = Concurrence.of(found.pairs[0], ancestors=ancestors).dense()
    assert rates[row["Girl"], row["Woman"]] == pytest.approx(155 / 286)
    assert rates[row["Woman"], row["Girl"]] == pytest.approx(155 / 356)
    assert not rates[ancestors | ancestors.T].any()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    folder = tmp_path_factory.mktemp("concurrence")
    made_dataset(folder / "made", "made", 5, classes=C)
    return Selection(folder=str(folder / "made"))


@pytest.mark.parametrize("iou", [0.0, -1.0, 1.01, float("nan")])
def test_thresholds_outside_their_range_are_named(dataset: Selection, iou: float) -> None:
    with pytest.raises(InputError, match=r"iou: .* is not in \(0, 1\]"):
        count([dataset], [IDENTITY], ANCESTORS, iou=iou)


def test_what_does_not_fit_is_named(dataset: Selection, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 for 2 selections"):
        count([dataset, dataset], [IDENTITY], ANCESTORS)
    for odd in (IDENTITY[:-1], IDENTITY - 1, IDENTITY + 1):
        with pytest.raises(InputError, match=r"the map of made has . rows for 5 classes"):
            count([dataset], [odd], ANCESTORS)
    with pytest.raises(InputError, match=r"'test' is none of \['train', 'val'\]"):
        count([Selection(folder=dataset.folder, split="test")], [IDENTITY], ANCESTORS)
    with pytest.raises(InputError, match="no ingested dataset"):
        count([Selection(folder=str(tmp_path))], [IDENTITY], ANCESTORS)


def test_a_dataset_without_boxes(tmp_path: Path) -> None:
    rows = made_dataset(tmp_path, "bare", 3, classes=C)
    bare = [row | {name: [] for name in ("boxes", "area", "flags", "labels")} for row in rows]
    write_shard(pa.Table.from_pylist(bare, schema=SHARD), Manifest.load(str(tmp_path)).shard_uris[0])
    selection = Selection(folder=str(tmp_path))
    assert not survey([selection], [IDENTITY], ANCESTORS, thresholds=(0.9,)).boxes.any()
    with pytest.raises(InputError, match="there is no box to count objects by"):
        count([selection], [IDENTITY], ANCESTORS)

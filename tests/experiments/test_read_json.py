"""The benchmark of reading a large JSON: its file is what it says, and ours reads it in little memory."""

import json
from pathlib import Path
from types import ModuleType

import pytest
from pycocotools.coco import COCO
from scripts import load


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load("benchmarks/read_json")


def test_the_made_file_is_seeded_and_pycocotools_reads_it(benchmark: ModuleType, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        benchmark.make(tmp_path / name, 2e-4, seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c
    truth = COCO(tmp_path / "a")
    assert (len(truth.imgs), len(truth.anns), len(truth.cats)) == (348, 2000, 365)
    assert all(annotation["image_id"] in truth.imgs for annotation in truth.anns.values())
    assert len({image["file_name"] for image in json.loads(a)["images"]}) == 348


@pytest.mark.medium
def test_memory_stays_low_with_a_file_of_many_windows_and_buckets(benchmark: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    benchmark.make(file, 0.04, 0)
    assert file.stat().st_size > 90e6  # read whole as text alone, it would not do
    _, _, memory, boxes = benchmark._measured("ours", file)
    assert boxes == 400_000
    assert memory < 100

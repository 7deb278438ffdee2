"""The benchmark of the Open Images protocol: under the rules that hotcoco knows, both give the same number."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scripts import load

from xray_det.data.overlap import intersection_over_union
from xray_det.evaluation.columns import Truth

FILE = Path(__file__).parents[2] / "experiments/benchmarks/open_images_evaluation.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load("benchmarks/open_images_evaluation")


def apart(truth: Truth) -> Truth:
    """The truth without boxes that lie near an earlier one of their image: hotcoco lets a detection whose best box is
    taken turn to another, the official tool does not."""
    kept: list[int] = []
    for row, (image, box) in enumerate(zip(truth.image, truth.boxes, strict=True)):
        near = [other for other in kept if truth.image[other] == image]
        if not near or intersection_over_union(np.tile(box, (len(near), 1)), truth.boxes[near]).max() < 0.2:
            kept.append(row)
    columns = ("image", "label", "boxes", "sizes", "area", "flags")
    return replace(truth, **{name: getattr(truth, name)[kept] for name in columns})


@pytest.mark.parametrize("seed", range(3))
def test_the_rows_agree_where_their_rules_do(benchmark: ModuleType, seed: int) -> None:
    scene = benchmark.made_scene(benchmark.Args(classes=30, seed=seed), 60)
    scene = replace(scene, truth=apart(scene.truth))
    assert scene.truth.has(2).sum() > 10  # groups
    assert (scene.second >= 0).any()
    value = {name: prepare(scene)() for name, prepare in benchmark.ROWS.items()}
    assert 0.1 < value["same rules"] < 0.9
    assert value["same rules"] == pytest.approx(value["hotcoco"], abs=1e-12)
    assert value["all rules"] == value["by parts"] != value["same rules"]


def test_a_scene_is_seeded_and_of_its_size(benchmark: ModuleType) -> None:
    scenes = [benchmark.made_scene(benchmark.Args(seed=seed), 40) for seed in (0, 0, 1)]
    same, other = (np.array_equal(scenes[0].detected.boxes, scene.detected.boxes) for scene in scenes[1:])
    assert (same, other) == (True, False)
    assert len(scenes[0].detected) == 4000


@pytest.mark.medium
def test_the_table_is_printed() -> None:
    done = subprocess.run([sys.executable, FILE, "--scale", "0.0005"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(name in done.stdout for name in ("hotcoco", "all rules", "20"))

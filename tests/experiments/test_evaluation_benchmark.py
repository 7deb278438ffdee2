"""The benchmark of the protocols: its libraries are given the same scene, and agree."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scripts import load

FILE = Path(__file__).parents[2] / "experiments/benchmarks/evaluation.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load("benchmarks/evaluation")


@pytest.mark.parametrize("protocol", ["coco", "lvis"])
def test_every_library_that_is_installed_gives_our_numbers(benchmark: ModuleType, protocol: str) -> None:
    args = benchmark.Args(scale=2e-4, classes=30)
    metrics = {
        name: benchmark._measured(name, protocol, args)[-1]
        for name, contestant in benchmark.CONTESTANTS.items()
        if protocol in contestant.protocols and importlib.util.find_spec(contestant.module) is not None
    }
    reference = {"coco": "pycocotools", "lvis": "lvis-api"}[protocol]
    assert {"ours", "hotcoco", reference} <= set(metrics)
    assert min(metrics["ours"]) > 0  # nothing is undefined
    for name, values in metrics.items():
        np.testing.assert_allclose(
            values, metrics["ours"], atol=1e-12 if name == "faster-coco-eval" else 0, err_msg=name
        )


@pytest.mark.medium
def test_the_script_prints_a_table_of_each_protocol() -> None:
    command = [sys.executable, FILE, "--scale", "1e-4", "--classes", "20", "--most-reference", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "coco: 800 detections" in done.stdout
    assert "lvis: 800 detections" in done.stdout
    assert "\npycocotools is not" not in done.stdout

"""The benchmark of the protocols: its libraries are given the same scene, and agree."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    file = Path(__file__).parents[2] / "experiments/benchmarks/evaluation.py"
    spec = importlib.util.spec_from_file_location("benchmark_evaluation", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
def test_the_script_prints_a_table_of_each_protocol(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(benchmark.Args(scale=1e-4, classes=20, most_reference=0))
    said = capsys.readouterr().out
    assert "coco: 800 detections" in said
    assert "lvis: 800 detections" in said
    assert "pycocotools is not" not in said

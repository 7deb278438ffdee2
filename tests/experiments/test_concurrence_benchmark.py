"""The benchmark of concurrent rates: its data are what it says, and both its candidates count the same on them."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scripts import load

FILE = Path(__file__).parents[2] / "experiments/benchmarks/concurrence.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load("benchmarks/concurrence")


def test_ours_and_the_peer_agree_on_seeded_shards(benchmark: ModuleType) -> None:
    share = np.array([0.6, 0.2, 0.1, 0.1])
    shard = benchmark.made_shard(0, 512, share, np.random.default_rng(0))
    assert shard.equals(benchmark.made_shard(0, 512, share, np.random.default_rng(0)))
    assert not shard.equals(benchmark.made_shard(0, 512, share, np.random.default_rng(1)))
    boxes = len(shard.column("flags").combine_chunks().flatten())
    assert boxes / 512 == pytest.approx(7.1, rel=0.2)
    counted = benchmark.peer(shard, 4)
    assert counted[~np.eye(4, dtype=bool)].all()  # every pair of classes was met
    benchmark.check(shard, counted)
    counted[0, 1] += 1
    with pytest.raises(SystemExit, match="differ in 1 pairs"):
        benchmark.check(shard, counted)


@pytest.mark.medium
def test_it_runs(shared_data: Path) -> None:
    frequencies = shared_data / "open_images/challenge_500_train_instance_counts.json"
    command = [sys.executable, str(FILE), "--scale", "0.002", "--sample", "600", "--frequencies", str(frequencies)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "COLUMNS": "160"})
    assert ended.returncode == 0, ended.stderr
    assert "r_ij of 3,486 images" in ended.stdout
    assert "peer, scaled from 1,024 images" in ended.stdout

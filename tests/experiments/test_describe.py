"""describe.py on Open Images' own labels: what it says of classes that meet on one object."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "data"))
from gt_sample import gt_sample  # noqa: E402


def describe(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "experiments/describe.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.medium
def test_confused_pairs_of_an_expanded_dataset(shared_data: Path, tmp_path: Path) -> None:
    gt_sample(shared_data, tmp_path / "sample", shards=1)
    counts = tmp_path / "counts.json"
    ended = describe(tmp_path / "sample", "--out", tmp_path / "figures", "--json", counts)
    assert ended.returncode == 0, ended.stderr
    lines = [" ".join(line.split()) for line in ended.stdout.splitlines()]
    assert "Girl (286) Woman 12 126 143 155 161 0.542 0.435" in lines
    assert "Sports uniform (70) Man 1 19 29 34 40 0.429 0.039" in lines
    assert "of a hierarchy:" not in lines  # the expansion alone had put parents beside their kinds
    assert any("Person" in line and "2,881" in line and "48.5%" in line for line in lines)
    assert (tmp_path / "figures/gt_sample_labels.png").stat().st_size > 10_000
    found = json.loads(counts.read_text())["gt_sample"]["concurrence"]
    assert found["overlaps"] == [3823, 2991, 2379, 1810, 0]

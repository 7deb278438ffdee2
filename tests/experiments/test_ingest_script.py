"""ingest.py and describe.py as a user calls them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def call(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "experiments" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.medium
def test_ingest_then_describe(shared_data: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "cards", tmp_path / "report.json"
    ended = call("ingest.py", shared_data / "playing_cards", "--out", out, "--json", report, "--pack")
    assert ended.returncode == 0, ended.stderr
    assert "46 images (test 12, train 34), 78 boxes, 6 classes" in " ".join(ended.stdout.split())
    numbers = json.loads(report.read_text())
    assert set(numbers) == {"images", "boxes", "classes", "repaired", "quarantined"}
    assert (numbers["images"], numbers["boxes"], numbers["repaired"], numbers["quarantined"]) == (46, 78, {}, {})
    assert sorted(numbers["classes"]) == ["ace", "jack", "king", "nine", "queen", "ten"]

    counts = tmp_path / "counts.json"
    ended = call("describe.py", out, "--out", tmp_path / "figures", "--json", counts)
    assert ended.returncode == 0, ended.stderr
    drawn = ["long_tail.png", "playing_cards.png", "playing_cards_sampling.png"]
    assert sorted(f.name for f in (tmp_path / "figures").iterdir()) == drawn
    found = json.loads(counts.read_text())["playing_cards"]
    assert found["images"] == 46
    assert sum(found["instance_counts"]) == 78


@pytest.mark.medium
def test_a_users_mistakes_are_answered_in_one_line(shared_data: Path, tmp_path: Path) -> None:
    strict = call("ingest.py", shared_data / "raccoon", "--out", tmp_path / "out", "--strict")
    assert strict.returncode == 1
    assert "duplicate_image" in strict.stderr
    assert "greyscale 3" in strict.stderr
    assert "Traceback" not in strict.stderr
    nothing = call("describe.py", tmp_path / "out")
    assert nothing.returncode == 1
    assert nothing.stderr.startswith("describe.py: ")
    assert "no ingested dataset lies here" in nothing.stderr

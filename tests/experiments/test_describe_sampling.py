"""describe.py says what each sampling rule shows of each class."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from made_shards import made_dataset

ROOT = Path(__file__).resolve().parents[2]


def test_the_views_are_printed_drawn_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("describe", ROOT / "experiments/describe.py")
    assert spec is not None
    assert spec.loader is not None
    script = sys.modules["describe"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rows = made_dataset(tmp_path / "a", "a", 20)
    script.main(script.Args(folders=(str(tmp_path / "a"),), out=tmp_path / "out", json=tmp_path / "a.json"))
    text = " ".join(capsys.readouterr().out.split())
    assert "class-aware: an image of a " in text
    assert (tmp_path / "out/a_sampling.png").stat().st_size > 1000
    stored = json.loads((tmp_path / "a.json").read_text())["a"]["sampling"]
    assert np.nansum(stored["natural"]["exposure"]) > 0
    assert len(stored["lambda 1"]["views"]) == 4
    assert len(rows) == 20

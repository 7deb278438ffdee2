"""Storage: written whole or not at all, and errors that say what to do."""

import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xray_det import storage
from xray_det.errors import InputError


def test_json_round_trip_makes_folders(tmp_path: Path) -> None:
    uri = storage.join(tmp_path, "a", "b.json")
    assert not storage.exists(uri)
    storage.write_json(uri, {"name": "ü", "n": [1, 2]})
    assert storage.exists(uri)
    assert storage.read_json(uri) == {"name": "ü", "n": [1, 2]}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.json"], "no partial file stays"


def test_a_file_url_is_the_same_place(tmp_path: Path) -> None:
    storage.write_bytes(f"file://{tmp_path}/x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"


def test_unknown_scheme_and_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nosuch://bucket/x"):
        storage.locate("nosuch://bucket/x")
    with pytest.raises(InputError, match=r"absent\.json: no such file"):
        storage.read_json(tmp_path / "absent.json")
    (tmp_path / "half.json").write_text('{"a": [1,')
    with pytest.raises(InputError, match=r"half\.json: not valid JSON"):
        storage.read_json(tmp_path / "half.json")


def test_a_full_disk_keeps_the_file_before(tmp_path: Path) -> None:
    """A file-size limit stands for a full disk: the write fails, the old content stays, nothing partial is left."""
    target = tmp_path / "x.bin"
    target.write_bytes(b"before")
    program = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from xray_det import storage
storage.write_bytes({str(target)!r}, b"x" * 100_000)
"""
    assert resource.RLIMIT_FSIZE
    assert signal.SIGXFSZ
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "cannot be written" in done.stderr
    assert target.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(InputError("a.json: images[3]", "width is 0", "Give the width")))
    assert str(error) == "a.json: images[3]: width is 0. Give the width"
    assert error.remedy == "Give the width"

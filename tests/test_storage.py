"""Storage: written whole or not at all, and errors that say what to do."""

import os
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


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "link").symlink_to("file")
    assert storage.read_file(tmp_path / "link") == b"12345"
    assert storage.open_file(tmp_path / "file", 5).read() == b"12345"
    for name, said in (
        ("pipe", r"cannot be read \(.*named pipe"),
        ("device", r"cannot be read \(.*device"),
        ("", r"cannot be read \(.*folder"),
        ("absent", "no such file"),
    ):
        with pytest.raises(InputError, match=f"{name}: {said}"):
            storage.open_file(tmp_path / name)
        with pytest.raises(InputError):
            storage.read_json(tmp_path / name)
        with pytest.raises(OSError, match=r"regular file|No such"):
            storage.read_bytes(tmp_path / name)
    with pytest.raises(InputError, match="it holds 5 bytes, more than the 4 that are read"):
        storage.read_file(tmp_path / "file", 4)
    with (tmp_path / "hole.json").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(InputError, match=r"hole\.json: cannot be read"):
        storage.read_json(tmp_path / "hole.json")


@pytest.mark.parametrize(
    "text", ["[" * 200_000 + "]" * 200_000, "[" + "9" * 5000 + "]", r'["\ud800"]', r'{"\udfff": 1}', "\xff", "[1,"]
)
def test_json_that_python_cannot_hold_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.json: not valid JSON"):
        storage.read_json(tmp_path / "a.json")


def test_json_with_whole_pairs_of_surrogates_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(r'["\ud83d\ude00", "\\ud800", "\u00e4"]')
    assert storage.read_json(tmp_path / "a.json") == ["😀", r"\ud800", "ä"]


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "x" * 300 + ".png", "é" * 150 + ".png", "a\0b\n.png", "\ud800"])
def test_any_text_names_a_file(name: str, tmp_path: Path) -> None:
    made = storage.file_name(name)
    (tmp_path / made).write_bytes(b"")
    assert [path.name for path in tmp_path.iterdir()] == [made]
    assert Path(made).suffix == (".png" if name.endswith(".png") else "")
    assert storage.file_name(name + "x") != made


def test_an_ordinary_name_stays() -> None:
    assert storage.file_name("voc 2012_猫.png") == "voc 2012_猫.png"


def test_a_path_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not UTF-8"):
        storage.write_json(f"{tmp_path}/\udcff.json", {})

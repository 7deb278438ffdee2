"""Packs are plain tars: listed by tar, and each image a range of bytes known before they were written."""

import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_source import MadeSource

from xray_det.data import ingest as ingest_module
from xray_det.data import pack
from xray_det.data.ingest import ingest
from xray_det.errors import InputError


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=30),
    pack_bytes=st.integers(1, 9000),
    name_length=st.sampled_from([1, 90, 99, 100, 101, 255]),
)
def test_places_are_those_that_tarfile_reads(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], pack_bytes: int, name_length: int
) -> None:
    folder = tmp_path_factory.mktemp("packs")
    rng = np.random.default_rng(len(sizes))
    names = [f"{k:03d}é".ljust(name_length, "x") for k in range(len(sizes))]
    payloads = [rng.bytes(size) for size in sizes]
    paths = [str(folder / f"image-{k}") for k in range(len(sizes))]
    for path, payload in zip(paths, payloads, strict=True):
        Path(path).write_bytes(payload)
    layout = pack.lay_out(names, np.array(sizes), pack_bytes)
    seen = 0
    for number in range(layout.packs):
        rows = layout.rows(number)
        uri = pack.pack_uri(str(folder), number)
        pack.write_pack(uri, names[rows], paths[rows], np.array(sizes)[rows])
        with tarfile.open(uri, "r:") as tar:
            members = tar.getmembers()
            assert [m.name for m in members] == names[rows]
            assert [m.offset_data for m in members] == layout.offset[rows].tolist()
            assert [tar.extractfile(m).read() for m in members] == payloads[rows]  # type: ignore[union-attr]
        assert sum(sizes[rows][:-1]) < pack_bytes  # the last image brought it to the limit
        for k in range(rows.start, rows.stop):
            assert pack.read_member(uri, int(layout.offset[k]), int(layout.length[k])) == payloads[k]
            seen += 1
    assert seen == len(sizes)


def test_names_stay_inside_the_folder_they_are_unpacked_into() -> None:
    assert pack.member_name("val/0001", "images/x.png") == "val/0001.png"
    assert pack.member_name("a.jpg", "a.jpg") == "a.jpg"
    assert pack.member_name("../../etc/x", "x.jpg") == "_/_/etc/x.jpg"
    assert pack.member_name("/etc//x", "x.jpg") == "_/etc/_/x.jpg"


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar")
def test_a_packed_dataset_needs_its_source_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "_WORTH_RAY", 10**9)
    monkeypatch.setattr(ingest_module, "_ray_is_up", lambda: False)
    source = MadeSource(tmp_path / "published", clean=True)
    manifest = ingest(source, str(tmp_path / "out"), pack=True, rows=100, pack_bytes=12_000, progress=False)
    shutil.rmtree(source.root)
    assert manifest.packed
    tars = sorted((tmp_path / "out/packs").iterdir())
    assert len(tars) > 2
    listed = [name for tar in tars for name in subprocess.check_output(["tar", "tf", tar], text=True).split()]
    assert listed == [f"image/{k}.jpg" for k in range(23)]
    rows = pq.read_table(manifest.shard_uris[0]).to_pylist()
    for k, row in enumerate(rows):
        assert pack.read_member(row["image"]["path"], row["offset"], row["length"]) == source.files[k]


def test_an_image_that_changed_since_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "image.jpg"
    image.write_bytes(b"12345")
    with pytest.raises(InputError, match="has 5 bytes; it had 9"):
        pack.write_pack(str(tmp_path / "out.tar"), ["image.jpg"], [str(image)], np.array([9]))
    with pytest.raises(InputError, match="is gone"):
        pack.write_pack(str(tmp_path / "out.tar"), ["image.jpg"], [str(tmp_path / "no.jpg")], np.array([9]))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["image.jpg"]

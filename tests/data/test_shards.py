"""Shard files open in the `datasets` library, and their hash is of rows, not of files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_source import MadeSource

from xray_det.data import shards
from xray_det.data.ingest import ingest
from xray_det.data.schema import SHARD


@pytest.mark.medium
def test_the_datasets_library_decodes_our_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    source = MadeSource(tmp_path / "published", clean=True)
    manifest = ingest(source, str(tmp_path / "out"), rows=10, progress=False)
    files = str(tmp_path / "out/shards/*.parquet")
    opened = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(opened) == manifest.images
    assert opened.features == {**datasets.Features.from_arrow_schema(SHARD), "image": datasets.Image()}
    image = opened[11]["image"]
    assert np.array_equal(
        np.asarray(image), np.asarray(datasets.Image().decode_example({"path": None, "bytes": source.files[11]}))
    )
    assert np.array_equal(np.array(opened[11]["boxes"]), np.array(source.boxes[11], np.float32))
    cast = opened.cast_column("image", datasets.Image(mode="L"))
    assert cast[0]["image"].mode == "L"

    packed = ingest(source, str(tmp_path / "packed"), rows=10, pack=True, progress=False)
    plain = datasets.load_dataset(
        "parquet", data_files=list(packed.shard_uris), split="train", cache_dir=str(tmp_path / "c")
    )
    assert plain[0]["image"] == {"bytes": None, "path": str(tmp_path / "packed/packs/00000.tar")}


def table(rows: int, **columns: object) -> pa.Table:
    """Rows of SHARD that differ from one another."""
    made = {
        "image_id": [f"i{k}" for k in range(rows)],
        "dataset": ["d"] * rows,
        "split": ["train" if k % 3 else None for k in range(rows)],
        "image": [{"bytes": None, "path": f"/x/{k}"} for k in range(rows)],
        "offset": [None] * rows,
        "length": [None] * rows,
        "width": [10 + k for k in range(rows)],
        "height": [20] * rows,
        "boxes": [[[0, 0, 1 + j, 2] for j in range(k % 3)] for k in range(rows)],
        "area": [[2.0 + j for j in range(k % 3)] for k in range(rows)],
        "visible_boxes": [None if k % 2 else [[0, 0, 1, 2]] * (k % 3) for k in range(rows)],
        "flags": [[0] * (k % 3) for k in range(rows)],
        "labels": [[[0], [1, 2]][: k % 3] for k in range(rows)],
        "verified_positive": [[1]] * rows,
        "verified_negative": [[]] * rows,
        "not_exhaustive": [[]] * rows,
    }
    return pa.table(made | columns, schema=SHARD)


def digest(pieces: list[pa.Table], **also: object) -> str:
    content = shards.ContentHash()
    at = 0
    for piece in pieces:
        sha1 = [f"{at + k:020d}".encode() for k in range(piece.num_rows)]
        content.add(piece, pa.chunked_array([pa.array(sha1, pa.binary())]))
        at += piece.num_rows
    return content.hexdigest(**also)


def test_the_hash_is_of_rows_however_they_are_cut() -> None:
    whole = table(12)
    assert (
        digest([whole]) == digest([whole.slice(0, 5), whole.slice(5)]) == digest([whole.slice(k, 1) for k in range(12)])
    )
    chunked = pa.concat_tables([whole.slice(0, 7), whole.slice(7)])
    assert digest([chunked]) == digest([whole])
    assert digest([table(12, dataset=["other"] * 12, offset=[3] * 12)]) == digest([whole])


@pytest.mark.parametrize(
    "change",
    [
        {"split": [None] * 12},
        {"width": [9] * 12},
        {"labels": [[[0, 1], [2]][: k % 3] for k in range(12)]},  # the same numbers, grouped otherwise
        {"boxes": [[[0, 0, 1 + j, 2.5] for j in range(k % 3)] for k in range(12)]},
        {"verified_positive": [[]] * 12, "verified_negative": [[1]] * 12},
        {"not_exhaustive": [[1]] * 12},
        {"visible_boxes": [[[0, 0, 1, 2]] * (k % 3) if k % 4 else None for k in range(12)]},
        {"image_id": [f"i{k}" for k in range(11)] + ["i1x"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_hash_sees_every_column(change: dict[str, object]) -> None:
    assert digest([table(12, **change)]) != digest([table(12)])
    assert digest([table(12)], classes=["a"]) != digest([table(12)], classes=["b"])

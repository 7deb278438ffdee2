"""Damaged shards: what they say is what pyarrow says, or they are refused by name."""

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.data.formats import mutations
from tests.data.formats.fuzzing import REFUSED, check
from tests.data.formats.slow_readers import Bad, parquet_rows
from tests.data.made_shards import made_dataset
from xray_det.data.annotations import Annotations, Selection
from xray_det.data.manifest import Manifest

READ = ["image_id", "width", "height", "boxes", "area", "flags", "labels"]
READ += ["verified_positive", "verified_negative", "not_exhaustive"]


def slow(data: bytes) -> Any:
    try:
        rows, _ = parquet_rows(data, ["split", "image", "offset", "length", *READ])
    except Bad:
        return REFUSED
    if any(row[name] is None for row in rows for name in ("image", *READ)):
        return REFUSED
    if any(row["image"]["bytes"] is not None for row in rows):
        return REFUSED
    return [{name: row[name] for name in READ} for row in rows]


@pytest.mark.slow
def test_shards(tmp_path: Path) -> None:
    made_dataset(tmp_path, "d", 4)
    manifest, numbers = Manifest.load(str(tmp_path)), count()
    (shard,) = map(Path, manifest.shard_uris)

    def fast(data: bytes) -> Any:
        shard.write_bytes(data)
        replace(manifest, fingerprint=str(next(numbers))).save(str(tmp_path))  # no cached file is found
        return Annotations.open([Selection(folder=str(tmp_path))]).batch.select(READ).to_pylist()

    kinds = (mutations.flip, mutations.cut, mutations.insert, mutations.parquet_value, mutations.parquet_value)
    check("shards", [shard.read_bytes()], kinds, 100, fast, slow)

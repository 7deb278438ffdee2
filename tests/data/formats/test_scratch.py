"""Buckets give back what was put in, in order, whatever the sizes."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray_det.data.formats.scratch import Buckets
from xray_det.errors import InputError

SCHEMA = pa.schema([("number", pa.int64()), ("text", pa.string())])


def rows(numbers: list[int]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(numbers, pa.int64()), pa.array([f"t{n}" for n in numbers])], schema=SCHEMA)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), max_size=20), max_size=10), st.integers(1, 30))
def test_buckets_keep_rows_and_order(
    tmp_path_factory: pytest.TempPathFactory, added: list[list[int]], buffered: int
) -> None:
    buckets = Buckets(tmp_path_factory.mktemp("buckets"), "rows", SCHEMA, 5, buffered)
    expected: dict[int, list[int]] = {bucket: [] for bucket in range(5)}
    number = 0
    for dealt in added:
        numbers = list(range(number, number + len(dealt)))
        buckets.add(rows(numbers), np.array(dealt, np.int64))
        for one, bucket in zip(numbers, dealt, strict=True):
            expected[bucket].append(one)
        number += len(dealt)
    buckets.close()
    for bucket, numbers in expected.items():
        assert buckets.read(bucket).to_pydict() == {"number": numbers, "text": [f"t{n}" for n in numbers]}
        assert [n for batch in buckets.batches(bucket) for n in batch.column("number").to_pylist()] == numbers


def test_a_disk_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa.ipc, "new_stream", full)
    buckets = Buckets(tmp_path, "rows", SCHEMA, 2, buffered=1)
    with pytest.raises(InputError, match=r"No space left on device.*TMPDIR"):
        buckets.add(rows([1]), np.zeros(1, np.int64))

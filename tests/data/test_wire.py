"""A batch comes back from its Arrow row bit by bit, without a copy."""

import numpy as np
import pyarrow as pa
import pytest

from xray_det.data import wire
from xray_det.errors import InputError


def arrays(seed: int, boxes: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "images": rng.integers(0, 256, (2, 5, 7, 3), dtype=np.uint8),
        "boxes": rng.random((boxes, 4), np.float32),
        "box_image": np.sort(rng.integers(0, 2, boxes)),
        "known": rng.random((boxes, 3)) < 0.5,
    }


def test_rows_come_back_as_they_were() -> None:
    made = [(4, arrays(0, 3), ["a", "b"]), (5, arrays(1, 0), ["ü", "d"]), (6, arrays(2, 9), ["", "f"])]
    table = pa.concat_tables([wire.to_row(*one) for one in made])
    for whole in (table, table.combine_chunks()):
        found = list(wire.from_rows(whole)) + list(wire.from_rows(whole.slice(2)))
        for (number, expected, ids), (found_number, got, found_ids) in zip([*made, made[2]], found, strict=True):
            assert (number, ids) == (found_number, found_ids)
            assert list(got) == list(expected)
            for name, array in expected.items():
                assert got[name].dtype == array.dtype
                np.testing.assert_array_equal(got[name], array)


def test_nothing_is_copied_and_nothing_is_lost() -> None:
    expected = arrays(0, 3)
    table = wire.to_row(0, expected, ["a", "b"])
    _, got, _ = next(wire.from_rows(table))
    assert got["images"].ctypes.data == table.column("images").chunk(0).buffers()[2].address
    assert got["images"].flags.writeable
    del table  # the arrays keep the memory alive
    np.testing.assert_array_equal(got["images"], arrays(0, 3)["images"])


def test_a_failure_is_raised_as_what_it_was() -> None:
    error = InputError("a.jpg", "is gone", "Bring it back")
    with pytest.raises(InputError) as raised:
        list(wire.from_rows(wire.to_failure(error)))
    assert (raised.value.where, raised.value.problem, raised.value.remedy) == ("a.jpg", "is gone", "Bring it back")

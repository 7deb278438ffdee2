"""What a source yields, in plain Python, for comparing with a brute-force reading."""

from typing import Any

from xray_det.data.formats.source import Source
from xray_det.data.schema import PUBLISHED


def rows_of(source: Source, rows: int = 7) -> dict[str, dict[str, Any]]:
    """image_id -> the whole row. Every batch is checked against the schema, and against a second reading."""
    found: dict[str, dict[str, Any]] = {}
    batches = list(source.batches(rows))
    for batch in batches:
        assert batch.schema == PUBLISHED
        assert 0 < batch.num_rows <= rows
        batch.validate(full=True)
        for row in batch.to_pylist():
            assert row["image_id"] not in found
            assert len(row["boxes"]) == len(row["flags"]) == len(row["labels"])
            found[row["image_id"]] = row
    for one, other in zip(batches, source.batches(rows), strict=True):
        assert repr(one.to_pylist()) == repr(other.to_pylist())  # repr: NaN is not equal to itself
    return found


def box_rows(row: dict[str, Any], names: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """(class name, x1, y1, x2, y2, flags) of each box of a row, in order."""
    return [
        (names[label], *box, flag) for label, box, flag in zip(row["labels"], row["boxes"], row["flags"], strict=True)
    ]

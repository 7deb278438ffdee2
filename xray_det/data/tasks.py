"""What a Ray Data task does with a block of the plan. A module of its own, without torch: the task imports it."""

from collections.abc import Iterator

import pyarrow as pa

from xray_det.data import wire
from xray_det.data.assemble import Recipe
from xray_det.errors import InputError


def assemble_block(block: pa.Table, *, recipe: Recipe, part: slice) -> Iterator[pa.Table]:
    """The global batches of a block, this rank's part of each, one row a batch.

    Args:
        block: columns ``batch`` (numbers of global batches, consecutive) and ``rows`` (their rows of the annotations).
    """
    numbers = block.column("batch").to_pylist()
    rows = block.column("rows").combine_chunks().flatten().to_numpy().reshape(len(numbers), -1)
    try:
        assembled = recipe.assemble(rows, numbers[0] * rows.shape[1], part)
        for number, (arrays, image_ids) in zip(numbers, assembled, strict=True):
            yield wire.to_row(number, arrays, image_ids)
    except InputError as error:
        yield wire.to_failure(error)

"""What a Ray Data task does with a block of the plan. A module of its own, without torch: the task imports it."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from xray_det.data import wire
from xray_det.data.assemble import Recipe
from xray_det.errors import InputError


def assemble_block(block: pa.Table, *, recipe: Recipe, part: slice) -> Iterator[pa.Table]:
    """The global batches of a block, this rank's part of each, one row a batch.

    Args:
        block: columns ``batch`` (number of the global batch) and ``rows`` (its rows of the annotations).
    """
    for number, rows in zip(block.column("batch").to_pylist(), block.column("rows"), strict=True):
        indices = rows.values.to_numpy().astype(np.int64)
        try:
            arrays, image_ids = recipe.assemble(indices, number * len(indices), part)
        except InputError as error:
            yield wire.to_failure(error)
            return
        yield wire.to_row(number, arrays, image_ids)

"""A finished batch as one Arrow row, on its way from a data task to the rank that trains on it. Torch-free.

Each array is one binary value, so nothing is converted on the way, and the reader looks at it where it lies. A failure
travels as a row too: raised in a task it would arrive wrapped in another exception.
"""

import json
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from xray_det.errors import InputError

Arrays: TypeAlias = dict[str, np.ndarray]

_HEADER = "header"


def to_row(number: int, arrays: Arrays, image_ids: list[str]) -> pa.Table:
    """One row: a JSON header with shapes and types, and a binary column an array."""
    header = {
        "batch": number,
        "image_ids": image_ids,
        "arrays": {name: [array.dtype.str, array.shape] for name, array in arrays.items()},
    }
    columns = {name: _binary(array) for name, array in arrays.items()}
    return pa.table({_HEADER: pa.array([json.dumps(header)]), **columns})


def to_failure(error: InputError) -> pa.Table:
    """One row that says what the user must mend."""
    return pa.table({_HEADER: pa.array([json.dumps({"error": [error.where, error.problem, error.remedy]})])})


def from_rows(table: pa.Table) -> Iterator[tuple[int, Arrays, list[str]]]:
    """Of each row the number of its batch, the arrays (in the table's memory, which they keep alive), the image ids.

    The arrays can be written to: a row is read once, by the one rank whose batch it is.

    Raises:
        InputError: a row is a failure.
    """
    for batch in table.to_batches():
        columns = {name: _Values(batch.column(name)) for name in batch.schema.names if name != _HEADER}
        for row, text in enumerate(batch.column(_HEADER)):
            header = json.loads(text.as_py())
            if "error" in header:
                raise InputError(*header["error"])
            arrays = {
                name: np.asarray(_View(columns[name][row], kind, shape))
                for name, (kind, shape) in header["arrays"].items()
            }
            yield header["batch"], arrays, header["image_ids"]


class _Values:
    """The values of a large_binary array as buffers, sliced where they lie (a scalar of Arrow's is a copy)."""

    def __init__(self, column: pa.Array) -> None:
        _, offsets, self.data = column.buffers()
        self.offsets = np.frombuffer(offsets, np.int64)[column.offset :]

    def __getitem__(self, row: int) -> pa.Buffer:
        start, stop = self.offsets[row : row + 2].tolist()
        return self.data.slice(start, stop - start)


class _View:
    """A buffer as numpy reads it: an array over its memory, which holds on to this object and so to the buffer."""

    def __init__(self, buffer: pa.Buffer, kind: str, shape: list[int]) -> None:
        self.buffer = buffer
        self.__array_interface__ = {
            "version": 3,
            "typestr": kind,
            "shape": tuple(shape),
            "data": (buffer.address, False),
        }


def _binary(array: np.ndarray) -> pa.Array:
    """A column of one value, which is the array's memory itself."""
    data = np.ascontiguousarray(array)
    offsets = pa.py_buffer(np.array([0, data.nbytes], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(data.reshape(-1).view(np.uint8))])

"""A finished batch as one Arrow row, on its way from a data task to the rank that trains on it. Torch-free.

Each array is one binary value, so nothing is converted on the way, and the reader looks at it where it lies. A failure
travels as a row too: raised in a task it would arrive wrapped in another exception.
"""

import json

import numpy as np
import pyarrow as pa

from xray_det.errors import InputError

_HEADER = "header"


def to_row(number: int, arrays: dict[str, np.ndarray], image_ids: list[str]) -> pa.Table:
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


def from_row(table: pa.Table, row: int) -> tuple[int, dict[str, np.ndarray], list[str]]:
    """Number of the batch, its arrays (in the table's memory, which they keep alive), its image ids.

    The arrays can be written to: a row is read once, by the one rank whose batch it is.

    Raises:
        InputError: the row is a failure.
    """
    header = json.loads(table.column(_HEADER)[row].as_py())
    if "error" in header:
        raise InputError(*header["error"])
    arrays = {}
    for name, (kind, shape) in header["arrays"].items():
        arrays[name] = np.asarray(_View(table.column(name)[row].as_buffer(), kind, shape))
    return header["batch"], arrays, header["image_ids"]


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

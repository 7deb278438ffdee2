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
    """Number of the batch, its arrays (read-only, in the table's memory), its image ids.

    Raises:
        InputError: the row is a failure.
    """
    header = json.loads(table.column(_HEADER)[row].as_py())
    if "error" in header:
        raise InputError(*header["error"])
    arrays = {}
    for name, (kind, shape) in header["arrays"].items():
        buffer = table.column(name)[row].as_buffer()
        arrays[name] = np.frombuffer(buffer, kind).reshape(shape)
    return header["batch"], arrays, header["image_ids"]


def _binary(array: np.ndarray) -> pa.Array:
    """A column of one value, which is the array's memory itself."""
    data = np.ascontiguousarray(array)
    offsets = pa.py_buffer(np.array([0, data.nbytes], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(data.reshape(-1).view(np.uint8))])

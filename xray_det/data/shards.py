"""Shard files: Parquet that pyarrow, pandas and the `datasets` library open, and a hash of what they say."""

import errno
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xray_det import storage
from xray_det.data.schema import SHARD
from xray_det.errors import InputError

_NOT_WRITTEN: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM})
#: Columns that say where a dataset lies or what it is called, not what it holds.
_PLACE: Final = ("dataset", "image", "offset", "length")


@contextmanager
def storage_errors(folder: str) -> Iterator[None]:
    """A disk that is full or forbidden as an InputError, wherever it shows: also where a folder is made."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITTEN:
            raise
        raise InputError(
            folder, f"cannot be written ({error.strerror or error})", "Free space or choose another folder"
        ) from error


def write_table(table: pa.Table, uri: str) -> None:
    """Write a table as Parquet, whole or not at all."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(uri, sink.getvalue())


def write_tables(tables: Iterable[pa.Table], schema: pa.Schema, uri: str) -> None:
    """Write tables of one schema as one Parquet file, holding one of them at a time."""
    with storage.writing(uri) as sink, pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file of ours.

    Raises:
        InputError: it is damaged, or lacks a column.
        FileNotFoundError: there is none.
    """
    fs, path = storage.locate(uri)
    try:
        return pq.read_table(path, filesystem=fs, columns=columns, partitioning=None)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:  # OSError: what Arrow says of a page whose bytes are others
        problem = f"cannot be read ({' '.join(str(error).split())[:200]})"
        raise InputError(uri, problem, "Restore it, or make its folder again") from error


def read_split(uri: str, columns: Sequence[str], split: str | None) -> pa.Table:
    """Columns of a shard's images of one split: None, all of them; "", those of a source without splits."""
    if split is None:
        return read_table(uri, list(columns))
    table = read_table(uri, [*columns, "split"])
    column = table.column("split")
    return table.filter(pc.equal(column, split) if split else pc.is_null(column)).select(list(columns))


def write_shard(table: pa.Table, uri: str, *, packed: bool = False) -> None:
    """Write a table of schema.SHARD with the `datasets` library's features in its metadata.

    ``load_dataset("parquet", data_files=...)`` then decodes images with no cast. A packed image lies inside a tar,
    which that library does not open by offset: there the image column stays a plain struct.
    """
    schema = SHARD.set(SHARD.get_field_index("image"), SHARD.field("image").with_nullable(True))  # as the library's is
    features = {name: _feature(SHARD.field(name).type) for name in SHARD.names}
    if not packed:
        features["image"] = {"_type": "Image"}
    described = json.dumps({"info": {"features": features}})
    write_table(table.cast(schema).replace_schema_metadata({"huggingface": described}), uri)


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """An Arrow type as the `datasets` library writes it; a test compares with that library's own."""
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _feature(kind.value_type), "length": kind.list_size, "_type": "List"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": {"float": "float32", "double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}


class ContentHash:
    """A hash of annotations and image bytes, fed table by table, that does not depend on how rows were cut into files.

    Every leaf of every column (values, list lengths, which are null) has a SHA-256 of its own, fed in row order.
    """

    def __init__(self) -> None:
        self._leaves: dict[str, Any] = {}

    def add(self, shard: pa.Table, sha1: pa.ChunkedArray) -> None:
        """Add the rows of a shard and the SHA-1 [rows] of their images' bytes."""
        columns = {name: shard.column(name) for name in SHARD.names if name not in _PLACE} | {"sha1": sha1}
        for name, column in columns.items():
            for chunk in column.chunks:
                self._feed(name, chunk)

    def hexdigest(self, **also: Any) -> str:
        """16 hex digits over the rows added and ``also``, values that JSON can hold."""
        leaves = {key: leaf.hexdigest() for key, leaf in sorted(self._leaves.items())}
        return hashlib.sha256(json.dumps([leaves, also], sort_keys=True).encode()).hexdigest()[:16]

    def _feed(self, key: str, array: pa.Array) -> None:
        kind = array.type
        self._update(f"{key}.valid", array.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8))
        if pa.types.is_fixed_size_list(kind):
            self._feed(f"{key}.item", array.flatten())
        elif pa.types.is_list(kind):
            self._update(f"{key}.length", array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
            self._feed(f"{key}.item", array.flatten())
        elif pa.types.is_string(kind) or pa.types.is_binary(kind):
            values = [v.encode() if isinstance(v, str) else v for v in array.drop_null().to_pylist()]
            self._update(f"{key}.length", np.array([len(v) for v in values], np.int64))
            self._update(key, np.frombuffer(b"".join(values), np.uint8))
        else:
            self._update(key, array.fill_null(0).to_numpy(zero_copy_only=False))

    def _update(self, key: str, values: np.ndarray) -> None:
        self._leaves.setdefault(key, hashlib.sha256()).update(np.ascontiguousarray(values).tobytes())

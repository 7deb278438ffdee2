"""Disk in place of memory: what a reader has seen, until it is asked for."""

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from xray_det.errors import InputError


def scratch_folder(owner: object) -> Path:
    """A temporary folder (below ``TMPDIR``) that goes when ``owner`` is collected or the process ends."""
    folder = tempfile.mkdtemp(prefix="xray_det-")
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


class Buckets:
    """Rows dealt into ``count`` files by a number a row, to be read back one file at a time.

    Rows of a file keep the order in which they were added. Memory is one write buffer of ``buffered`` rows in all.

    Args:
        folder: where the files lie; it exists.
        name: of these files.
        schema: of the rows.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema, count: int, buffered: int = 1 << 16) -> None:
        self.folder, self.name, self.schema, self.count = folder, name, schema, count
        self._limit, self._pending, self._rows = buffered, list[tuple[pa.RecordBatch, np.ndarray]](), 0
        self._writers: dict[int, pa.RecordBatchStreamWriter] = {}

    def _file(self, bucket: int) -> Path:
        return self.folder / f"{self.name}-{bucket:04d}.arrow"

    def add(self, rows: pa.RecordBatch, bucket: np.ndarray) -> None:
        """Deal rows out. ``bucket`` int [len(rows)] in [0, count)."""
        if not rows.num_rows:  # it may still hold the memory of what it was cut from
            return
        self._pending.append((rows, bucket))
        self._rows += rows.num_rows
        if self._rows >= self._limit:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        rows = pa.Table.from_batches([r for r, _ in self._pending]).combine_chunks()
        bucket = np.concatenate([b for _, b in self._pending])
        self._pending, self._rows = [], 0
        order = np.argsort(bucket.astype(np.uint16), kind="stable")  # 16 bits: a radix sort
        edges = np.searchsorted(bucket[order], np.arange(self.count + 1))
        rows = rows.take(pa.array(order))
        try:
            for number in map(int, np.flatnonzero(np.diff(edges))):
                if number not in self._writers:
                    self._writers[number] = pa.ipc.new_stream(str(self._file(number)), self.schema)
                self._writers[number].write_table(rows.slice(edges[number], edges[number + 1] - edges[number]))
        except OSError as error:
            raise disk_error(self.folder, error) from error

    def close(self) -> None:
        """Write what is pending; afterwards the files can be read."""
        self._flush()
        try:
            for writer in self._writers.values():
                writer.close()
        except OSError as error:
            raise disk_error(self.folder, error) from error
        self._writers = {}

    def read(self, bucket: int) -> pa.Table:
        """All rows of one bucket."""
        if not self._file(bucket).exists():
            return self.schema.empty_table()
        with pa.memory_map(str(self._file(bucket))) as stream:
            return pa.ipc.open_stream(stream).read_all().combine_chunks()

    def batches(self, bucket: int = 0) -> Iterator[pa.RecordBatch]:
        """The rows of one bucket, a piece at a time."""
        if self._file(bucket).exists():
            with pa.OSFile(str(self._file(bucket))) as stream:
                yield from pa.ipc.open_stream(stream)


def disk_error(folder: Path, error: OSError) -> InputError:
    """The message for a write that failed, most often a full disk."""
    return InputError(
        folder, f"cannot be written ({error.strerror or error})", "Free space or set TMPDIR to a folder with more"
    )

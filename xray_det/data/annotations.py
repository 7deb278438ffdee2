"""The annotations of a training, in one memory-mapped file a node that all processes of the node share.

The file is an Arrow IPC file of one record batch: a subset of the shards' columns, the datasets in the order of the
selections, ``dataset`` as their number. It is built once from the Parquet shards and found again by what it was built
from; every rank and every data task maps it, so that it lies in memory once, in the page cache.
"""

import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xray_det import storage
from xray_det.data.geometry import region, trained
from xray_det.data.manifest import Manifest
from xray_det.data.sampling import ImageClasses, joined
from xray_det.data.schema import SHARD
from xray_det.data.shards import read_table
from xray_det.errors import InputError

_LAYOUT = 2  # of the cached file; part of its name
_PLAIN = ("image_id", "offset", "length", "width", "height")
_RAGGED = ("boxes", "area", "flags", "labels", "verified_positive", "verified_negative", "not_exhaustive")
_CHUNK = 2**16  # images at a time where a pass over all of them needs memory


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Images of one ingested dataset: all, or those of one split."""

    folder: str
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where any process of any node finds the annotations: small, to be sent to tasks.

    Attributes:
        selections: what they are built from where a node has not got them.
        file: the name of the file, which says what it was built from.
    """

    selections: tuple[Selection, ...]
    file: str

    def batch(self) -> pa.RecordBatch:
        """The whole file as one record batch, mapped.

        Raises:
            InputError: the datasets that this node sees are others.
        """
        return _mapped(self)


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Images of several datasets, counted through: row numbers are what a plan is made of.

    Attributes:
        path: the memory-mapped file.
        selections: what it was built from.
        manifests: one a selection.
        batch: the whole file as one record batch, mapped. Columns: ``dataset`` (int32, number of the selection),
            ``path``, and of schema.SHARD image_id, offset, length, width, height, boxes, area, flags, labels,
            verified_positive, verified_negative, not_exhaustive (labels are still rows of the dataset's own class
            table).
    """

    path: Path
    selections: tuple[Selection, ...]
    manifests: tuple[Manifest, ...]
    batch: pa.RecordBatch

    @classmethod
    def open(cls, selections: Sequence[Selection]) -> "Annotations":
        """Map the file of these selections, building it first where this node has none.

        Raises:
            InputError: a folder without a finished ingest, a split that the dataset has not, nothing selected, a shard
                that is damaged or none.
        """
        if not selections:
            raise InputError("data", "no dataset is selected", "Give at least one ingested folder")
        manifests = tuple(Manifest.load(selection.folder) for selection in selections)
        key = [
            [_LAYOUT, manifest.folder, manifest.fingerprint, [shard.file for shard in manifest.shards], selection.split]
            for manifest, selection in zip(manifests, selections, strict=True)
        ]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        path = _cached(f"annotations-{digest}.arrow")
        if not path.exists():
            with _alone(path):
                if not path.exists():
                    _build(path, selections, manifests)
        return cls(path=path, selections=tuple(selections), manifests=manifests, batch=_map_file(path))

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    @property
    def source(self) -> Source:
        return Source(selections=self.selections, file=self.path.name)

    @property
    def image_ids(self) -> pa.Array:
        """Published ids, one an image; unique only within a dataset."""
        return self.batch.column("image_id")

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 [D + 1]: selection d has the rows ``starts[d]:starts[d + 1]``."""
        dataset = self.batch.column("dataset").to_numpy()
        return np.searchsorted(dataset, np.arange(len(self.selections) + 1)).astype(np.int64)

    def take(self, rows: np.ndarray) -> pa.Table:
        """The images of these row numbers (int64 [n], repeats allowed), in their order."""
        return pa.Table.from_batches([self.batch.take(pa.array(rows))])

    def image_classes(self, maps: Sequence[np.ndarray]) -> list[ImageClasses]:
        """What the sampling plan counts: the unified classes of each image's objects, one entry a selection.

        Only boxes that teach a class count: neither flagged ones (schema.NOT_TRAINED) nor regions.

        Args:
            maps: for each selection int32 [C_d], unified row of each class of its dataset.
        """
        if len(maps) != len(self.selections):
            raise InputError("maps", f"{len(maps)} for {len(self.selections)} selections", "Give one a selection")
        return [
            self._image_classes(int(start), int(stop), np.asarray(table))
            for start, stop, table in zip(self.starts[:-1], self.starts[1:], maps, strict=True)
        ]

    def _image_classes(self, start: int, stop: int, table: np.ndarray) -> ImageClasses:
        chunks = range(start, stop, _CHUNK)
        return joined([taught_classes(self.batch.slice(at, min(_CHUNK, stop - at)), table) for at in chunks])


def taught_classes(images: pa.RecordBatch, table: np.ndarray) -> ImageClasses:
    """The classes of each image's boxes that teach one: neither flagged (schema.NOT_TRAINED) nor regions.

    Args:
        images: columns ``flags`` and ``labels``.
        table: int32 [C_d], what each label is counted as.
    """
    flags, offsets = ragged(images.column("flags"))
    labels, label_box = box_labels(images.column("labels"))
    image = np.repeat(np.arange(images.num_rows), np.diff(offsets))[label_box]
    kept = (trained(flags) & ~region(flags))[label_box]
    return ImageClasses.of(image[kept], table[labels[kept]], images.num_rows)


@lru_cache(maxsize=4)
def _mapped(source: Source) -> pa.RecordBatch:
    path = _cached(source.file)
    if path.exists():
        return _map_file(path)
    annotations = Annotations.open(source.selections)
    if annotations.path != path:
        folders = ", ".join(selection.folder for selection in source.selections)
        raise InputError(
            folders, "another dataset lies there on this node than on the worker's", "Let all nodes see the same"
        )
    return annotations.batch


def _cached(file: str) -> Path:
    return storage.home() / "cache" / file


def _map_file(path: Path) -> pa.RecordBatch:
    """The one record batch of an Arrow IPC file, mapped: opening costs the same at any size."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def ragged(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Values and offsets int64 [n + 1], from 0, of a list column of numbers or of boxes (values [N, 4])."""
    offsets = column.offsets.to_numpy().astype(np.int64)
    values = column.values.slice(offsets[0], offsets[-1] - offsets[0])
    if pa.types.is_fixed_size_list(values.type):
        width = values.type.list_size
        numbers = values.flatten().to_numpy().reshape(-1, width)
    else:
        numbers = values.to_numpy()
    return numbers, offsets - offsets[0]


def box_labels(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Of a column of lists of label lists: all labels int32 [L], and the box of each, int64 [L], counted through."""
    offsets = column.offsets
    boxes = column.values.slice(offsets[0].as_py(), offsets[-1].as_py() - offsets[0].as_py())
    labels, starts = ragged(boxes)
    return labels, np.repeat(np.arange(len(boxes)), np.diff(starts))


def image_sizes(images: pa.RecordBatch) -> np.ndarray:
    """int64 [B, 2], (height, width) of the upright images."""
    return np.stack([images.column("height").to_numpy(), images.column("width").to_numpy()], axis=1).astype(np.int64)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock beside a file: one process of a node builds, the others wait for it. It ends with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(path: Path, selections: Sequence[Selection], manifests: Sequence[Manifest]) -> None:
    parts = []
    for number, (selection, manifest) in enumerate(zip(selections, manifests, strict=True)):
        own = [_shard(uri, number, selection.split) for uri in manifest.shard_uris]
        if sum(part.num_rows for part in own) == 0:
            splits = ", ".join(sorted(filter(None, manifest.splits))) or "none"
            what = "no images" if selection.split is None else f"no images of split {selection.split!r}"
            raise InputError(selection.folder, f"{what} in dataset {manifest.name}", f"Its splits: {splits}")
        parts += own
    table = pa.concat_tables(parts).combine_chunks()
    partial = path.with_suffix(f".{uuid.uuid4().hex[:8]}.partial")
    try:
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(
            path, f"cannot be written ({error})", "Free space, or set XRAY_DET_HOME to a folder on another disk"
        ) from error


def _shard(uri: str, number: int, split: str | None) -> pa.Table:
    schema = pa.schema([SHARD.field(name) for name in ("split", "image", *_PLAIN, *_RAGGED)])
    table = read_table(uri, schema.names)
    try:
        table = table.cast(schema)
    except (pa.ArrowException, ValueError) as error:  # ValueError: other columns, or a null where none may be
        problem = f"is no shard ({' '.join(str(error).split())[:200]})"
        raise InputError(uri, problem, "Restore it, or ingest the dataset again") from error
    if split is not None:
        table = table.filter(pc.equal(table.column("split"), split))
    image = table.column("image").combine_chunks()
    if pc.struct_field(image, "bytes").null_count < len(image):
        raise InputError(uri, "the shard holds image bytes itself", "Ingest the dataset with images in place or packed")
    table = table.select([*_PLAIN, *_RAGGED])
    for name in (*_RAGGED, "image_id"):  # 64-bit offsets: the texts and numbers of all images lie in one column
        position, kind = table.column_names.index(name), table.schema.field(name).type
        large = pa.large_string() if pa.types.is_string(kind) else pa.large_list(kind.value_type)
        table = table.set_column(position, name, table.column(name).cast(large))
    path_column = pc.struct_field(image, "path").cast(pa.large_string())
    dataset = pa.array(np.full(len(table), number, np.int32))
    return table.append_column("path", path_column).append_column("dataset", dataset)

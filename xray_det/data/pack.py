"""Packs: images in plain uncompressed tars, few large files in which every image has a known place.

Object stores and shared file systems serve a few thousand large files well and millions of small ones badly. A tar
needs no reader of ours (``tar tf`` lists it, ``tar xf`` unpacks it), and since nothing in it is compressed, an image is
one range read at (uri, offset, length). Where each image will lie is computed from names and sizes before a byte is
copied, so packs are written in parallel, and an interrupted one is written again alone.
"""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

import numpy as np
import pyarrow as pa

from xray_det import storage
from xray_det.errors import InputError

PACK_BYTES: Final = 256 * 2**20
_RECORD: Final = 10240  # tar pads its end to whole records
_BLOCK: Final = 512


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where N images will lie: image k at bytes [offset[k], offset[k] + length[k]) of pack ``pack[k]``.

    Attributes:
        pack: [N] int64, rising; offset, length: [N] int64.
    """

    pack: np.ndarray
    offset: np.ndarray
    length: np.ndarray

    @property
    def packs(self) -> int:
        return int(self.pack[-1]) + 1 if len(self.pack) else 0

    def rows(self, pack: int) -> slice:
        """The images of one pack."""
        low, high = np.searchsorted(self.pack, [pack, pack + 1])
        return slice(int(low), int(high))


def member_name(image_id: str, path: str) -> str:
    """The image's name in the tar: its id with the file's ending, with no part that could leave the folder."""
    suffix = PurePosixPath(path).suffix
    name = image_id if image_id.endswith(suffix) else image_id + suffix
    return "/".join("_" if part in ("", ".", "..") else part for part in name.split("/"))


def lay_out(names: Sequence[str], sizes: np.ndarray, pack_bytes: int = PACK_BYTES) -> Layout:
    """Lay images out in order; a pack ends with the image that brings it to ``pack_bytes`` or beyond.

    Args:
        names: [N] member names.
        sizes: [N] bytes of each image.
    """
    pack, offset = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    number, position = 0, 0
    for k, (name, size) in enumerate(zip(names, sizes.tolist(), strict=True)):
        if position >= pack_bytes:
            number, position = number + 1, 0
        position += len(_header(name, size))
        pack[k], offset[k] = number, position
        position += size + _padding(size, _BLOCK)
    return Layout(pack=pack, offset=offset, length=np.asarray(sizes, np.int64))


def write_pack(uri: str, names: Sequence[str], paths: Sequence[str], sizes: np.ndarray) -> None:
    """Copy images into one tar, whole or not at all, streaming an image at a time.

    Raises:
        InputError: an image is gone or has another size than when it was examined, or the disk is full.
    """
    with storage.writing(uri) as sink:
        position = 0
        for name, path, size in zip(names, paths, sizes.tolist(), strict=True):
            payload = _image(path)
            if len(payload) != size:
                raise InputError(
                    path,
                    f"has {len(payload)} bytes; it had {size} when it was examined",
                    "Ingest into an empty folder, with no one writing to the source",
                )
            block = _header(name, size) + payload + bytes(_padding(size, _BLOCK))
            sink.write(block)
            position += len(block)
        sink.write(bytes(2 * _BLOCK + _padding(position + 2 * _BLOCK, _RECORD)))


def pack_uri(folder: str, pack: int) -> str:
    return storage.join(folder, f"packs/{pack:05d}.tar")


def place(shard: pa.Table, layout: Layout, rows: slice, folder: str) -> pa.Table:
    """A shard whose images lie in the packs of ``folder``; ``rows`` are its images in the layout."""
    paths = [pack_uri(folder, pack) for pack in layout.pack[rows].tolist()]
    fields = shard.schema
    image = pa.StructArray.from_arrays(
        [pa.nulls(len(paths), pa.binary()), pa.array(paths, pa.string())], names=["bytes", "path"]
    )
    for name, column in (("image", image), ("offset", layout.offset[rows]), ("length", layout.length[rows])):
        index = fields.get_field_index(name)
        shard = shard.set_column(index, fields.field(index), pa.array(column) if name != "image" else column)
    return shard


def read_member(uri: str, offset: int | None, length: int | None) -> bytes:
    """The bytes of an image as a shard names it: a range of a tar, or a whole file when ``offset`` is None."""
    if offset is None:
        return storage.read_bytes(uri)
    fs, path = storage.locate(uri)
    with fs.open_input_file(path) as stream:
        return bytes(stream.read_at(length, offset))


def _image(path: str) -> bytes:
    try:
        return storage.read_bytes(path)
    except FileNotFoundError as error:
        raise InputError(
            path, "is gone; it was there when it was examined", "Restore it, or ingest into an empty folder"
        ) from error


def _header(name: str, size: int) -> bytes:
    """The tar header of a member: GNU format, so that names may be long; no time and no owner, so that bytes repeat."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int, unit: int) -> int:
    return -size % unit

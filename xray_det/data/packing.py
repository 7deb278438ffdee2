"""Packing a dataset: its images into tars, in parallel, then shards that know where in them each image lies."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from xray_det import storage
from xray_det.data import shards
from xray_det.data.pack import PACK_BYTES, lay_out, member_name, pack_uri, place, write_pack
from xray_det.data.parts import Workshop, digests_of

__all__ = ["PACK_BYTES", "pack_dataset"]


def pack_dataset(
    shop: Workshop,
    starts: np.ndarray,
    pack_bytes: int,
    each: Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]],
) -> Iterator[int]:
    """Pack the images of all examined parts; what an interrupted call has written is kept.

    Args:
        starts: int64 [parts + 1], the row at which each part begins.
        pack_bytes: a tar is closed when it has reached this.
        each: runs a task for every job, in any order (ingest.each).

    Yields:
        How many images have been packed since the last time.
    """
    columns = ["image_id", "path", "bytes"]
    digests = [shards.read_table(shop.file("digests", part), columns) for part in range(len(starts) - 1)]
    layout = lay_out(*_members(pa.concat_tables(digests)), pack_bytes)
    jobs = [(pack, layout.rows(pack)) for pack in range(layout.packs)]
    missing = [job for job in jobs if not storage.exists(pack_uri(shop.folder, job[0]))]
    yield len(layout.length) - sum(rows.stop - rows.start for _, rows in missing)
    yield from each(partial(_write, shop, starts), missing)
    for part, (start, stop) in enumerate(pairwise(starts.tolist())):
        if not storage.exists(shop.final_shard(part)):
            table = place(shards.read_table(shop.examined_shard(part)), layout, slice(start, stop), shop.folder)
            shards.write_shard(table, shop.final_shard(part), packed=True)


def _write(shop: Workshop, starts: np.ndarray, job: tuple[int, slice]) -> int:
    pack, rows = job
    digests = digests_of(shop, starts, np.arange(rows.start, rows.stop))
    names, sizes = _members(digests)
    paths = [storage.join(shop.image_root, path) for path in digests.column("path").to_pylist()]
    with shards.storage_errors(shop.folder):
        write_pack(pack_uri(shop.folder, pack), names, paths, sizes)
    return len(names)


def _members(digests: pa.Table) -> tuple[list[str], np.ndarray]:
    ids, paths = (digests.column(name).to_pylist() for name in ("image_id", "path"))
    return list(map(member_name, ids, paths)), digests.column("bytes").to_numpy()

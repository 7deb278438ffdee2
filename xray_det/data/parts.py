"""Ingest's unit of work: a part of a published dataset, spilled by the reader, examined alone, finished for good.

A part is up to a few hundred images. Reading spills parts in published order; examining one opens its images, writes
its shard, its digests and what was found, in that order and each file whole, so that a part with a findings file is
finished whatever happened to the process that wrote it. Nothing here depends on other parts or on who runs it.
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xray_det import storage
from xray_det.data import doctor, shards
from xray_det.data.schema import PUBLISHED

if TYPE_CHECKING:
    from xray_det.data.formats.source import Source

#: What was found of an image; ``quarantined``: it is in no shard. ``path`` is relative to the published dataset.
FINDINGS: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("kind", pa.string(), nullable=False),  # defect.Defect
        pa.field("detail", pa.string(), nullable=False),
    ]
)
#: One row an image of the shard, in its order.
DIGESTS: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("path", pa.string()),
        pa.field("sha1", pa.binary(20), nullable=False),  # of the file's bytes
        pa.field("phash", pa.uint64()),  # perceptual hash; null where none was asked for
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where the parts of one ingest lie, and what examining one needs to know. Small: it travels to every task.

    Attributes:
        folder: of the dataset; parts and intermediate files lie in its ``work`` folder.
        dataset: its name.
        root: of the published dataset, for messages.
        image_root: what PUBLISHED's paths are relative to.
        normalized: published boxes are fractions of the image.
        phash: compute perceptual hashes too.
        pack: shards are intermediate; packing writes the final ones.
    """

    folder: str
    dataset: str
    root: str
    image_root: str
    normalized: bool
    phash: bool
    pack: bool

    @property
    def work(self) -> str:
        return storage.join(self.folder, "work")

    def file(self, kind: str, part: int) -> str:
        """The file of a part: kind is published, shards, digests, quarantine or findings."""
        suffix = "arrow" if kind == "published" else "parquet"
        return storage.join(self.work, kind, f"{part:05d}.{suffix}")

    def examined_shard(self, part: int) -> str:
        return self.file("shards", part) if self.pack else self.final_shard(part)

    def final_shard(self, part: int) -> str:
        return storage.join(self.folder, shard_name(part))

    def finished(self, part: int) -> bool:
        return storage.exists(self.file("findings", part))


def shard_name(part: int) -> str:
    return f"shards/{part:05d}.parquet"


def spill(source: "Source", shop: Workshop, rows: int, seen: Callable[[int], None]) -> list[int]:
    """Read the published annotations once, in order, into parts on storage; a second call finds them there.

    Args:
        rows: images a part.
        seen: called with the images of each part that has been written.

    Returns:
        The images of each part.
    """
    marker = storage.join(shop.work, "published.json")
    if storage.exists(marker):
        counts: list[int] = storage.read_json(marker)
        seen(sum(counts))
        return counts
    counts = []
    for batch in source.batches(rows):
        if not batch.num_rows:
            continue
        file = shop.file("published", len(counts))
        if not storage.exists(file):  # else an interrupted reading wrote it: a source reads the same each time
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, PUBLISHED) as writer:
                writer.write_batch(batch)
            storage.write_bytes(file, sink.getvalue().to_pybytes())
        counts.append(batch.num_rows)
        seen(batch.num_rows)
    storage.write_json(marker, counts)
    return counts


def examine_part(shop: Workshop, part: int) -> None:
    """Open the images of a part and write its shard, digests, quarantine and findings.

    Raises:
        InputError: the storage is full or refuses.
    """
    fs, path = storage.locate(shop.file("published", part))
    with fs.open_input_file(path) as stream:
        (batch,) = pa.ipc.open_file(stream).read_all().combine_chunks().to_batches()
    examined = doctor.examine(
        batch, dataset=shop.dataset, image_root=Path(shop.image_root), normalized=shop.normalized, phash=shop.phash
    )
    shards.write_shard(examined.shard, shop.examined_shard(part))
    paths = dict(zip(batch.column("image_id").to_pylist(), batch.column("path").to_pylist(), strict=True))
    shards.write_table(_digests(examined, paths), shop.file("digests", part))
    shards.write_table(_found(examined.quarantine, "reason", paths), shop.file("quarantine", part))
    found = _found(examined.findings, "defect", paths)
    # Counts are the doctor's: three repeated boxes of an image are one line to read, and count three times.
    counts = json.dumps(dict(sorted(examined.repaired.items())))
    shards.write_table(found.replace_schema_metadata({"repaired": counts}), shop.file("findings", part))


def _found(table: pa.Table, kind: str, paths: dict[str, str | None]) -> pa.Table:
    ids = table.column("image_id").to_pylist()
    return pa.table(
        [ids, [paths[i] for i in ids], table.column(kind).to_pylist(), table.column("detail").to_pylist()],
        schema=FINDINGS,
    )


def _digests(examined: doctor.Examined, paths: dict[str, str | None]) -> pa.Table:
    ids = examined.shard.column("image_id").to_pylist()
    if ids != [image_id for image_id, _, _ in examined.digests]:
        raise RuntimeError("the doctor's digests are not those of its shard")
    files = pc.struct_field(examined.shard.column("image"), "path").to_pylist()
    return pa.table(
        [
            ids,
            examined.shard.column("split").to_pylist(),
            [paths[image_id] for image_id in ids],
            [bytes.fromhex(sha1) for _, sha1, _ in examined.digests],
            [None if phash is None else int(phash, 16) for _, _, phash in examined.digests],
            [os.stat(file).st_size for file in files],
        ],
        schema=DIGESTS,
    )


def repaired_counts(findings: pa.Table) -> Counter[str]:
    return Counter(json.loads(findings.schema.metadata[b"repaired"]))


def digests_of(shop: Workshop, starts: np.ndarray, rows: np.ndarray) -> pa.Table:
    """DIGESTS of some images, in the order given, reading only the parts that hold them.

    Args:
        starts: int64 [parts + 1], the row at which each part begins.
        rows: int64 [M] in [0, starts[-1]).
    """
    part_of = np.searchsorted(starts, rows, "right") - 1
    pieces, places = [DIGESTS.empty_table()], [np.zeros(0, np.int64)]
    for part in np.unique(part_of):
        places.append(np.flatnonzero(part_of == part))
        digests = shards.read_table(shop.file("digests", int(part)))
        pieces.append(digests.take(pa.array(rows[places[-1]] - starts[part])))
    return pa.concat_tables(pieces).take(pa.array(np.argsort(np.concatenate(places))))

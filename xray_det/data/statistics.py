"""The statistics of an ingested dataset, its shards counted in parallel by Ray Data, and the tables people read."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import reduce
from typing import Any

import pyarrow.compute as pc

from xray_det.data import shards
from xray_det.data.counting import COLUMNS, Counts, Statistics
from xray_det.data.ingest import each
from xray_det.data.manifest import Manifest
from xray_det.errors import InputError


def measure(manifest: Manifest, split: str | None = None, *, progress: bool = False) -> Statistics:
    """The statistics of an ingested dataset, its shards counted in parallel by Ray Data.

    Args:
        manifest: of the dataset.
        split: count only this split; None: all images.
        progress: draw a bar.

    Raises:
        InputError: the dataset has no such split.
    """
    if split is not None and split not in manifest.splits:
        raise InputError(
            f"{manifest.name}: split", f"{split!r} is none of {sorted(manifest.splits)}", "Choose one of these"
        )
    jobs = [{"uri": uri, "split": split, "num_classes": len(manifest.space)} for uri in manifest.shard_uris]
    parts: Iterator[Mapping[str, Any]] = each(_count, jobs)
    if progress:
        from rich.progress import track

        parts = iter(track(parts, total=len(jobs), description=f"counting {manifest.name}"))
    return reduce(Statistics.__add__, (Statistics(**part) for part in parts), Statistics.zero(len(manifest.space)))


def _count(job: Mapping[str, Any]) -> dict[str, Counts]:
    columns = [*COLUMNS, "split"] if job["split"] is not None else list(COLUMNS)
    table = shards.read_table(job["uri"], columns)
    if job["split"] is not None:
        column = table.column("split")  # "" stands for null: a source without splits
        table = table.filter(pc.equal(column, job["split"]) if job["split"] else pc.is_null(column))
    found = Statistics.of(table, job["num_classes"])
    return {f.name: getattr(found, f.name) for f in fields(found)}

"""The statistics of an ingested dataset, its shards counted in parallel by Ray Data, and the tables people read."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import reduce
from typing import Any

from xray_det.data import shards
from xray_det.data.counting import COLUMNS, Counts, Statistics
from xray_det.data.ingest import each
from xray_det.data.manifest import Manifest
from xray_det.display import counted


def measure(manifest: Manifest, split: str | None = None, *, progress: bool = False) -> Statistics:
    """The statistics of an ingested dataset, its shards counted in parallel by Ray Data.

    Args:
        manifest: of the dataset.
        split: count only this split; None: all images.
        progress: draw a bar.

    Raises:
        InputError: the dataset has no such split.
    """
    manifest.check_split(split)
    jobs = [{"uri": uri, "split": split, "num_classes": len(manifest.space)} for uri in manifest.shard_uris]
    parts: Iterator[Mapping[str, Any]] = each(_count, jobs)
    parts = counted(parts, len(jobs), f"counting {manifest.name}", shown=progress)
    return reduce(Statistics.__add__, (Statistics(**part) for part in parts), Statistics.zero(len(manifest.space)))


def _count(job: Mapping[str, Any]) -> dict[str, Counts]:
    found = Statistics.of(shards.read_split(job["uri"], COLUMNS, job["split"]), job["num_classes"])
    return {f.name: getattr(found, f.name) for f in fields(found)}

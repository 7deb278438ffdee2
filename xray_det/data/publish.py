"""Ingest's last step: what the parts hold together, then the manifest. Nothing is published before the manifest is."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xray_det import storage
from xray_det.data import shards
from xray_det.data.counting import Statistics, count_splits, counted
from xray_det.data.defect import Defect
from xray_det.data.duplicates import ALIKE_DISTANCE, Twins, across_splits, same_bytes
from xray_det.data.formats.layout import refuse_packed
from xray_det.data.manifest import Manifest, Shard
from xray_det.data.parts import DIGESTS, FINDINGS, Workshop, digests_of, repaired_counts, shard_name
from xray_det.data.schema import SCHEMA_VERSION
from xray_det.errors import InputError

if TYPE_CHECKING:
    from xray_det.data.formats.source import Source

#: Kinds beside doctor.Defect: only a whole dataset shows them. An image counts once, in the smaller of the splits.
IN_TWO_SPLITS: Final = "in_two_splits"  # the same bytes stand in a larger split as well
ALIKE_IN_TWO_SPLITS: Final = "alike_in_two_splits"  # its perceptual hash is within ALIKE_DISTANCE of one there
#: Unless a share is given, a dataset may lose this many images, or this share of its annotated ones.
TOLERATED_IMAGES: Final = 10
TOLERATED_SHARE: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What is known of a dataset when its parts are finished.

    Memory: some 40 bytes an image; 300 while twins are looked for.

    Attributes:
        starts: [parts + 1] the row at which each part begins; rows count images that reached a shard.
        sha1: [N] S20; phash: [N] uint64 or None; split: [N] int64, rows of ``splits``, -1 where there is none.
        repaired, quarantined: counts by kind, over the parts.
    """

    starts: np.ndarray
    sha1: np.ndarray
    phash: np.ndarray | None
    split: np.ndarray
    splits: tuple[str, ...]
    repaired: Counter[str]
    quarantined: Counter[str]

    @property
    def images(self) -> int:
        return int(self.starts[-1])


def gather(shop: Workshop, parts: int) -> Gathered:
    """Read the digests and counts of all parts."""
    sha1, phash, split, rows = [], [], [], [0]
    names: dict[str | None, int] = {None: -1}
    repaired, quarantined = Counter[str](), Counter[str]()
    for part in range(parts):
        digests = shards.read_table(shop.file("digests", part))
        rows.append(digests.num_rows)
        sha1.append(np.array(digests.column("sha1").to_pylist(), "S20"))
        phash.append(digests.column("phash"))
        texts = digests.column("split").to_pylist()
        split.append(np.array([names.setdefault(text, len(names) - 1) for text in texts], np.int64))
        repaired.update(repaired_counts(shards.read_table(shop.file("findings", part))))
        quarantined.update(shards.read_table(shop.file("quarantine", part)).column("kind").to_pylist())
    hashes = pa.chunked_array([chunk for column in phash for chunk in column.chunks], pa.uint64())
    return Gathered(
        starts=np.cumsum(rows),
        sha1=np.concatenate([np.zeros(0, "S20"), *sha1]),
        phash=hashes.to_numpy() if shop.phash else None,
        split=np.concatenate([np.zeros(0, np.int64), *split]),
        splits=tuple(name for name in names if name is not None),
        repaired=repaired,
        quarantined=quarantined,
    )


def refuse_too_many(shop: Workshop, gathered: Gathered, limit: float | None) -> None:
    """Refuse a dataset of which too much cannot be used.

    Images that no annotation speaks of are counted but not judged: they were never part of the training data.

    Args:
        limit: the share of annotated images that may be quarantined; None: TOLERATED_IMAGES or TOLERATED_SHARE,
            whichever is more.

    Raises:
        InputError: more than that is quarantined, or no image is left. Where not one is there and archives are, they
            are named.
    """
    lost = gathered.quarantined.total() - gathered.quarantined[Defect.NO_ANNOTATION]
    annotated = gathered.images + lost
    allowed = max(TOLERATED_IMAGES, TOLERATED_SHARE * annotated) if limit is None else limit * annotated
    if gathered.images and lost <= allowed:
        return
    if not gathered.images and set(gathered.quarantined) == {Defect.MISSING_IMAGE}:
        refuse_packed([Path(shop.root)], depth=1)
    kinds = ", ".join(f"{kind} {n}" for kind, n in gathered.quarantined.most_common())
    example = next((file for part in range(len(gathered.starts) - 1) for file in _first(shop, part)), "")
    raise InputError(
        shop.root,
        f"{lost} of {annotated} annotated images cannot be used ({kinds}), for example {example}"
        if gathered.images
        else f"not one image can be used ({kinds or 'it holds none'}){', for example ' + example if example else ''}",
        f"Mend them (listed in {storage.join(shop.folder, 'quarantine.parquet')}), or allow a larger share with "
        "--max-quarantined"
        if gathered.images
        else f"Mend them (listed in {storage.join(shop.folder, 'quarantine.parquet')})",
    )


def _first(shop: Workshop, part: int) -> Iterator[str]:
    for row in shards.read_table(shop.file("quarantine", part)).slice(0, 1).to_pylist():
        yield f"{row['path'] or row['image_id']}: {row['kind']} ({row['detail']})"


@dataclass(frozen=True, kw_only=True)
class Between:
    """What only the whole dataset shows.

    Attributes:
        findings: FINDINGS of images that stand in it twice, or in two splits, and of its files (Source.findings).
        rows: int64, the rows of these images and of the images they are named after.
    """

    findings: pa.Table
    rows: np.ndarray

    @property
    def counts(self) -> Counter[str]:
        """Findings by kind."""
        counted = pc.value_counts(self.findings.column("kind")).to_pylist()
        return Counter({str(one["values"]): int(one["counts"]) for one in counted})


def compare_images(shop: Workshop, gathered: Gathered, of_files: Sequence[tuple[Defect, str, str]] = ()) -> Between:
    """Find images that stand in the dataset twice, or in two splits: by bytes, and by likeness when asked.

    Args:
        of_files: what the source found of no single image (Source.findings): reported with the rest.
    """
    kinds, files, details = zip(*of_files, strict=True) if of_files else ((), (), ())
    named = [pa.array([str(text) for text in column], pa.string()) for column in (files, files, kinds, details)]
    same = same_bytes(gathered.sha1)
    twins = [same]
    tables = [
        pa.table(named, schema=FINDINGS),
        _name(shop, gathered, same, str(Defect.DUPLICATE_IMAGE), "the same bytes as"),
    ]
    if len(gathered.splits) > 1:
        # 64 bits of SHA-1 tell 1e7 images apart but for one chance in 4e5; nobody forges a training image.
        digest = np.ascontiguousarray(gathered.sha1.view(np.uint8).reshape(-1, 20)[:, :8]).view(np.uint64).reshape(-1)
        leaked = across_splits(digest, gathered.split, distance=0)
        twins.append(leaked)
        tables.append(_name(shop, gathered, leaked, IN_TWO_SPLITS, "the same bytes as"))
        if gathered.phash is not None:
            alike = across_splits(gathered.phash, gathered.split, distance=ALIKE_DISTANCE)
            kept = ~np.isin(alike.row, leaked.row)  # said already
            alike = Twins(row=alike.row[kept], other=alike.other[kept], distance=alike.distance[kept])
            twins.append(alike)
            tables.append(_name(shop, gathered, alike, ALIKE_IN_TWO_SPLITS, f"of {ALIKE_DISTANCE} allowed, looks like"))
    rows = np.concatenate([side for pair in twins for side in (pair.row, pair.other)])
    return Between(findings=pa.concat_tables(tables), rows=np.unique(rows))


def reopen_defective(shop: Workshop, gathered: Gathered, between: Between) -> None:
    """Let every part in which anything was found be examined again: by then its images may have been mended."""
    named = set((np.searchsorted(gathered.starts, between.rows, "right") - 1).tolist())
    for part in range(len(gathered.starts) - 1):
        reports = [shop.file(kind, part) for kind in ("findings", "quarantine")]
        if part in named or any(shards.read_table(report).num_rows for report in reports):
            fs, path = storage.locate(reports[0])
            fs.delete_file(path)
    for kind in ("packs", "shards") if shop.pack else ():  # of a run without strict that was interrupted
        fs, path = storage.locate(storage.join(shop.folder, kind))
        fs.delete_dir_contents(path, missing_dir_ok=True)


def _name(shop: Workshop, gathered: Gathered, twins: Twins, kind: str, says: str) -> pa.Table:
    rows, others = digests_of(shop, gathered.starts, twins.row), digests_of(shop, gathered.starts, twins.other)
    details = [
        (f"{bits} bits {says}" if kind == ALIKE_IN_TWO_SPLITS else says)
        + f" {other['path'] or other['image_id']}"
        + (f" ({other['split']})" if other["split"] else "")
        for other, bits in zip(others.to_pylist(), twins.distance.tolist(), strict=True)
    ]
    return pa.table(
        [rows.column("image_id"), rows.column("path"), pa.array([kind] * len(details), pa.string()), details],
        schema=FINDINGS,
    )


def write_reports(shop: Workshop, parts: int, between: Between) -> None:
    """findings.parquet, quarantine.parquet and digests.parquet of the whole dataset."""

    def of(kind: str) -> Iterable[pa.Table]:
        return (shards.read_table(shop.file(kind, part)).replace_schema_metadata() for part in range(parts))

    findings = storage.join(shop.folder, "findings.parquet")
    shards.write_tables(chain(of("findings"), [between.findings]), FINDINGS, findings)
    shards.write_tables(of("quarantine"), FINDINGS, storage.join(shop.folder, "quarantine.parquet"))
    shards.write_tables(of("digests"), DIGESTS, storage.join(shop.folder, "digests.parquet"))


def refuse_defects(folder: str, root: str, counts: Mapping[str, int]) -> None:
    """What ``strict`` means: the first defect as an error, with the counts of all.

    Args:
        folder: where the reports lie.
        root: of the published dataset.
        counts: by kind, of what was repaired, flagged, named or quarantined.

    Raises:
        InputError: anything was repaired, flagged, named or quarantined.
    """
    if not counts:
        return
    row = next(_reported(folder))
    raise InputError(
        f"{root}: {row['path'] or row['image_id']}",
        f"{row['kind']} ({row['detail']})"
        + "; in all "
        + ", ".join(f"{kind} {n}" for kind, n in sorted(counts.items())),
        f"Mend the source (everything is listed in {folder}: findings.parquet and quarantine.parquet), "
        "or ingest without --strict",
    )


def _reported(folder: str) -> Iterator[dict[str, str]]:
    for file in ("quarantine.parquet", "findings.parquet"):
        yield from shards.read_table(storage.join(folder, file)).to_pylist()


def assemble(source: "Source", shop: Workshop, gathered: Gathered, between: Between) -> Manifest:
    """The manifest of a finished dataset, not yet saved: one pass over its shards for counts and fingerprint."""
    content = shards.ContentHash()
    found: dict[str, Statistics] = {}
    kept = []
    for part, (start, stop) in enumerate(pairwise(gathered.starts)):
        if start == stop:
            continue
        table = shards.read_table(shop.final_shard(part))
        content.add(table, pa.chunked_array([pa.array(gathered.sha1[start:stop].tolist(), pa.binary())]))
        count_splits(table, len(source.space), found)
        kept.append(Shard(file=shard_name(part), rows=table.num_rows))
    hierarchy = None if source.hierarchy is None else source.hierarchy.to_json()
    classes = source.space.to_json()["classes"]
    return Manifest(
        name=shop.dataset,
        format=source.format,
        fingerprint=content.hexdigest(
            classes=classes, hierarchy=hierarchy, exhaustive=source.exhaustive, schema=SCHEMA_VERSION
        ),
        space=source.space,
        hierarchy=source.hierarchy,
        exhaustive=source.exhaustive,
        images=gathered.images,
        **counted(found),
        repaired=dict(sorted((gathered.repaired + between.counts).items())),
        quarantined=dict(sorted(gathered.quarantined.items())),
        shards=tuple(kept),
        packed=shop.pack,
    )

"""What people read after ingest: a table of what was wrong, and one of what the datasets hold."""

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import pyarrow.parquet as pq
from rich.console import RenderableType
from rich.text import Text

from xray_det import storage
from xray_det.data.counting import Statistics
from xray_det.data.defect import Defect
from xray_det.data.manifest import Manifest
from xray_det.display import Table, printable
from xray_det.labels.frequency import ranked

#: Letters of an example that are shown; the file beside has all.
LONGEST: Final = 600
_REPORTS = ("findings.parquet", "quarantine.parquet")


def repair_report(manifest: Manifest) -> list[RenderableType]:
    """A dataset's size, the classes nobody can learn from it, and its defects: kind, count, an example."""
    splits = ", ".join(f"{name or 'no split'} {count:,}" for name, count in manifest.splits.items())
    lines: list[RenderableType] = [
        Text.assemble(
            (printable(manifest.name), "bold"),
            f" ({manifest.format}, fingerprint {manifest.fingerprint}): {manifest.images:,} images "
            f"({printable(splits)}), {manifest.boxes:,} boxes, {len(manifest.space):,} classes",
        )
    ]
    if manifest.unused_classes:
        shown = ", ".join(manifest.unused_classes[:8]) + (", …" if len(manifest.unused_classes) > 8 else "")
        lines.append(f"{len(manifest.unused_classes)} of its classes have no box to learn from: {shown}")
    if not manifest.repaired and not manifest.quarantined:
        return [*lines, "no defect found"]
    named = examples(manifest.folder)
    table = Table("outcome", "kind", "count", "for example", keys=2, title=f"{manifest.name}: repair report")
    table.columns[2].justify = "right"
    for outcome, counts in (("repaired", manifest.repaired), ("quarantined", manifest.quarantined)):
        for kind, count in sorted(counts.items(), key=lambda item: -item[1]):
            table.add_row(outcome, kind, f"{count:,}", printable(named.get(kind, ""), LONGEST))
    if manifest.packed and (linked := manifest.repaired.get(Defect.OUTSIDE_LINK)):
        lines.append(
            f"{linked:,} of the packed images, or their annotations, lay behind links out of the dataset's folder"
        )
    where = " and ".join(storage.join(manifest.folder, file) for file in _REPORTS)
    return [*lines, table, f"image by image: {where}"]


def examples(folder: str) -> dict[str, str]:
    """Kind of defect -> the first image it was met in, with the detail."""
    first: dict[str, str] = {}
    for file in _REPORTS:
        fs, path = storage.locate(storage.join(folder, file))
        with pq.ParquetFile(path, filesystem=fs) as opened:
            for batch in opened.iter_batches():
                kinds = np.asarray(batch.column("kind").to_pylist(), dtype=object)
                for kind in sorted(set(kinds) - set(first)):
                    row = batch.slice(int(np.flatnonzero(kinds == kind)[0]), 1).to_pylist()[0]
                    first[kind] = f"{row['path'] or row['image_id']}: {row['detail']}"
    return first


def statistics_table(found: Mapping[str, Statistics]) -> Table:
    """Datasets side by side (paper 001, Table 1), with what makes them hard: imbalance, crowding, small objects."""
    table = Table("", *found, title="statistics")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, values in _rows(found.values()):
        table.add_row(name, *values)
    return table


def _rows(found: Iterable[Statistics]) -> Iterable[tuple[str, list[str]]]:
    columns = list(found)

    def share(part: int, whole: int) -> str:
        return f"{part:,} ({part / whole:.1%})" if whole else "0"

    yield "images", [f"{int(s.images):,}" for s in columns]
    yield "boxes as published", [f"{int(s.published_boxes):,}" for s in columns]
    yield "boxes trained on", [f"{int(s.boxes):,}" for s in columns]
    yield "  with several labels", [share(int(s.several_labels), int(s.boxes)) for s in columns]
    yield "  regions (crowd, group, …)", [share(int(s.regions), int(s.boxes)) for s in columns]
    yield "classes with a box", [f"{np.count_nonzero(s.image_counts):,} of {len(s.image_counts):,}" for s in columns]
    yield "boxes an image", [_mean(s.boxes, s.images) for s in columns]
    yield "classes an image", [_mean(s.image_counts.sum(), s.images) for s in columns]
    yield "images without a box", [share(int(s.boxes_an_image[0]), int(s.images)) for s in columns]
    yield "images of the rarest class", [f"{min(s.image_counts[s.image_counts > 0], default=0):,}" for s in columns]
    yield "imbalance (n_max / n_min)", [f"{s.imbalance:,.1f}" for s in columns]
    for row, name in enumerate(("small", "medium", "large")):
        yield f"{name} boxes (COCO areas)", [share(int(s.coco_areas[row]), int(s.boxes)) for s in columns]


def _mean(total: np.integer | np.ndarray, count: np.ndarray) -> str:
    return f"{float(total) / float(count):.2f}" if count else "-"


def class_table(manifest: Manifest, statistics: Statistics, shown: int = 5) -> Table:
    """The most and the least frequent classes by images that hold them."""
    order = ranked(statistics.image_counts)
    table = Table("rank", "class", "images", "boxes", keys=2, title=f"{manifest.name}: head and tail")
    for column in (0, 2, 3):
        table.columns[column].justify = "right"
    for place, row in enumerate(order.tolist()):
        if place < shown or place >= len(order) - shown:
            name = manifest.space.classes[row].name
            images, boxes = statistics.image_counts[row], statistics.instance_counts[row]
            table.add_row(str(place + 1), name, f"{images:,}", f"{boxes:,}")
        elif place == shown:
            table.add_row("…", "", "", "")
    return table

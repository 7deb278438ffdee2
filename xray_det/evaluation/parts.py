"""A part of a dataset's images, judged by every protocol. Without torch: tasks of Ray Data import it.

A task reads the truth (from the node's mapped annotations) and the detections of its images once, whatever is asked.
What it leaves is 13 bytes a detection that counts; only the engine of COCO and LVIS wants the detections, all at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from xray_det import storage
from xray_det.data.annotations import Source
from xray_det.data.limits import Limits
from xray_det.data.manifest import Manifest
from xray_det.data.schema import DETECTIONS
from xray_det.data.shards import read_table
from xray_det.errors import InputError
from xray_det.evaluation import open_images, voc
from xray_det.evaluation.columns import Truth, detected_from_table, truth_from_shards
from xray_det.evaluation.verdicts import Verdicts

Protocol: TypeAlias = Literal["coco", "lvis", "voc", "open_images"]
#: Protocols whose engine wants all detections at once.
WHOLE: Final = ("coco", "lvis")
#: What a protocol needs of a part: for those of WHOLE its rows of schema.DETECTIONS.
Judged: TypeAlias = Verdicts | pa.Table

#: Images a part: about a second's work and 100 MB at a hundred detections each.
PART_IMAGES: Final = 4096


@dataclass(frozen=True, kw_only=True)
class Part:
    """Images ``start:stop`` of the annotations, and the files with detections on them."""

    start: int
    stop: int
    uris: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What is scored by what: the same for all parts, and small, to be sent to tasks.

    Attributes:
        source: the annotations, of one dataset.
        manifest: of the dataset.
        rows: int32, row of the dataset's classes of each class of the detector, -1 for one it does not have.
        limits: protocol to judge by -> which of the detections it sees.
    """

    source: Source
    manifest: Manifest
    rows: np.ndarray
    limits: Mapping[Protocol, Limits]


def truth_of(images: pa.RecordBatch, manifest: Manifest) -> Truth:
    """The published boxes of annotated images (of ``Annotations.batch``), in the dataset's own classes."""
    return truth_from_shards(pa.Table.from_batches([images]), manifest.space, exhaustive=manifest.exhaustive)


def parts_of(uris: Sequence[str], dataset: str, image_ids: pa.Array) -> list[Part]:
    """The images in order, in parts of PART_IMAGES.

    Args:
        uris: files with schema.DETECTIONS, in any order.
        dataset: of the images.
        image_ids: [I] the dataset's images that are scored.

    Raises:
        InputError: the files have none of the images, or one of them twice.
    """
    fs, paths = storage.locate(uris[0])[0], [storage.locate(uri)[1] for uri in uris]
    found = pa.dataset.dataset(paths, filesystem=fs, format="parquet").to_table(
        columns=["image_id", "__filename"], filter=pc.field("dataset") == dataset
    )
    image = _rows_of(found["image_id"], image_ids)
    known = np.flatnonzero(image >= 0)
    if not len(known):
        raise InputError(uris[0], f"holds no image of {dataset}", "Give the prediction of this dataset and split")
    known = known[np.argsort(image[known])]
    twice = np.flatnonzero(np.diff(image[known]) == 0)
    if len(twice):
        image_id = image_ids[image[known[twice[0]]]].as_py()
        raise InputError(uris[0], f"{dataset}: the image {image_id!r} occurs twice", "Predict again")
    file = pc.index_in(found["__filename"], value_set=pa.array(paths)).to_numpy()[known]
    starts = range(0, len(image_ids), PART_IMAGES)
    bounds = np.searchsorted(image[known], [*starts, len(image_ids)])
    return [
        Part(
            start=start,
            stop=min(start + PART_IMAGES, len(image_ids)),
            uris=tuple(uris[number] for number in np.unique(file[first:last])),
        )
        for start, first, last in zip(starts, bounds[:-1], bounds[1:], strict=True)
    ]


def judge(part: Part, *, scored: Scored) -> tuple[int, Mapping[Protocol, Judged]]:
    """The start of a part, and what each protocol needs of it."""
    manifest = scored.manifest
    images = scored.source.batch().slice(part.start, part.stop - part.start)
    tables = [read_table(uri) for uri in part.uris]
    table = pa.concat_tables(tables) if tables else DETECTIONS.empty_table()
    table = table.filter(pc.equal(table["dataset"], manifest.name))
    image = _rows_of(table["image_id"], images.column("image_id"))
    table = table.take(np.argsort(image)[np.count_nonzero(image < 0) :])  # the part's images, in their order
    truth = truth_of(images, manifest)
    detected = detected_from_table(table, truth, rows=scored.rows)
    judged: dict[Protocol, Judged] = {}
    for protocol, limits in scored.limits.items():
        if protocol == "open_images":
            ancestors = manifest.hierarchy.ancestors(manifest.space) if manifest.hierarchy else None
            judged[protocol] = open_images.judge(truth, detected.within(limits), ancestors=ancestors)
        else:
            judged[protocol] = voc.judge(truth, detected.within(limits)) if protocol == "voc" else table
    return part.start, judged


def _rows_of(ids: pa.ChunkedArray, image_ids: pa.Array) -> np.ndarray:
    """int64, the row of ``image_ids`` that each id is, -1 for others."""
    found = pc.index_in(ids.cast(image_ids.type), value_set=image_ids)
    rows: np.ndarray = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    return rows

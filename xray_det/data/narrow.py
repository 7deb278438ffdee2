"""The annotations of some of a dataset's classes alone: what is left of its shards' rows when the others go."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from xray_det.data.annotations import box_labels, ragged
from xray_det.data.formats.rows import counts_to_offsets
from xray_det.data.formats.rows import ragged as to_lists
from xray_det.data.manifest import Manifest
from xray_det.errors import InputError

Rows = npt.NDArray[np.int32]


def renumbering(manifest: Manifest, rows: Sequence[int]) -> Rows:
    """int32 [C]: the place of each class among ``rows``, -1 for those that go.

    Raises:
        InputError: a class that stays is above, below or a part of one that goes and has boxes, or the other way round:
            a box of the one tells of the other.
    """
    table = np.full(len(manifest.space), -1, np.int32)
    table[list(rows)] = np.arange(len(rows))
    if manifest.hierarchy is not None:
        above = manifest.hierarchy.ancestors(manifest.space) | manifest.hierarchy.part_of(manifest.space)
        goes = (table < 0) & (manifest.instances_of() > 0)
        torn = np.argwhere((above | above.T) & (table >= 0)[:, None] & goes)
        if len(torn):
            one, other = (manifest.space.names[row] for row in torn[0])
            problem = f"{one!r} would stay and {other!r} go, and one is a kind or a part of the other"
            raise InputError(manifest.name, problem, "Choose among classes that no hierarchy relates")
    return table


def narrowed(images: pa.Table, table: Rows) -> pa.Table:
    """SHARD rows with the labels of the classes that stay, renumbered; a box that has none of them goes.

    Args:
        images: B rows of schema.SHARD.
        table: of ``renumbering``.
    """
    images = images.combine_chunks()
    flags, offsets = ragged(images.column("flags").combine_chunks())
    labels, box = box_labels(images.column("labels").combine_chunks())
    mapped = table[labels]
    labels, box = mapped[mapped >= 0], box[mapped >= 0]
    each = np.bincount(box, minlength=len(flags))
    stays = each > 0
    image = np.repeat(np.arange(images.num_rows), np.diff(offsets))
    for name in ("boxes", "area", "visible_boxes", "flags", "labels"):
        column = images.column(name).combine_chunks()
        null = column.is_null().to_numpy(zero_copy_only=False)
        known = ~null[image]  # of the boxes, who has an entry here
        counts = np.bincount(image[stays & known], minlength=images.num_rows)
        if name == "labels":
            values = to_lists(pa.array(labels), counts_to_offsets(each[stays]))
        else:
            values = column.flatten().filter(pa.array(stays[known]))
        images = _with(images, name, to_lists(values, counts_to_offsets(counts), null))
    for name in ("verified_positive", "verified_negative", "not_exhaustive"):
        listed, bounds = ragged(images.column(name).combine_chunks())
        mapped, image = table[listed], np.repeat(np.arange(images.num_rows), np.diff(bounds))
        counts = np.bincount(image[mapped >= 0], minlength=images.num_rows)
        images = _with(images, name, to_lists(pa.array(mapped[mapped >= 0]), counts_to_offsets(counts)))
    return images


def _with(images: pa.Table, name: str, column: pa.Array) -> pa.Table:
    field = images.schema.field(name)
    return images.set_column(images.schema.get_field_index(name), field, column.cast(field.type))

"""The elements of a COCO JSON file, and columns made of them."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from xray_det.data.formats.segmentation import segmentation_box
from xray_det.data.schema import BoxFlag

Number = int | float | None
Switch = int | bool | float | None


class Category(msgspec.Struct, gc=False):
    id: int | str
    name: str
    supercategory: str | None = None
    frequency: Any = None  # LVIS: r, c or f; elsewhere it may be anything


class Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str = ""
    im_name: str = ""  # what CityPersons calls it
    coco_url: Any = None  # LVIS has nothing else; elsewhere it may be anything
    width: Number = None
    height: Number = None
    neg_category_ids: list[int | str] | None = None  # LVIS
    not_exhaustive_category_ids: list[int | str] | None = None

    @property
    def published_name(self) -> str:
        """The file name, or the end of the address with the folder that COCO unpacks to; empty where there is none."""
        address = self.coco_url if isinstance(self.coco_url, str) else ""
        return self.file_name or self.im_name or "/".join(address.split("/")[-2:])


class Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float] | None = None  # x, y, width, height
    area: float | None = None
    iscrowd: Switch = 0
    ignore: Switch = 0
    isfake: Switch = 0  # Objects365: a drawing or a toy of the object
    segmentation: msgspec.Raw = msgspec.Raw()  # decoded where there is no bbox


TYPES: Final[dict[str, Any]] = {"images": list[Image], "annotations": list[Annotation], "categories": list[Category]}

#: In ``flags`` of ANNOTATIONS, beside BoxFlag's bits: the box was taken from the segmentation.
FROM_SEGMENTATION: Final = 1 << 15

#: ``key`` is a number for an image id; ``file`` and ``position`` say where a row was published.
IMAGES: Final = pa.schema(
    [
        ("key", pa.int64()),
        ("file", pa.int16()),
        ("position", pa.int64()),
        ("id", pa.string()),
        ("file_name", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("negative", pa.list_(pa.int32())),  # codes as in ANNOTATIONS; null where none is published
        ("not_exhaustive", pa.list_(pa.int32())),
    ]
)
ANNOTATIONS: Final = pa.schema(
    [
        ("key", pa.int64()),
        ("file", pa.int16()),
        ("position", pa.int64()),
        *[(side, pa.float64()) for side in ("x", "y", "w", "h")],
        ("area", pa.float64()),
        ("flags", pa.uint16()),
        ("code", pa.int32()),  # of the category, in order of appearance
    ]
)


def keys_of(ids: Sequence[int | str]) -> np.ndarray:
    """Image ids as int64 [N]: integers are themselves, also those written as text; other text is hashed to 64 bits."""
    if str not in set(map(type, ids)):  # NumPy would read "007" as 7
        with suppress(OverflowError):
            return np.fromiter(ids, np.int64, len(ids))
    return np.fromiter(map(_key, ids), np.int64, len(ids))


def _key(identity: int | str) -> int:
    text = str(identity)
    if text.removeprefix("-").isdecimal() and len(text) < 19 and str(int(text)) == text:
        return int(text)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def image_rows(images: Sequence[Image], file: int, first: int, codes: "defaultdict[int | str, int]") -> pa.RecordBatch:
    """Rows of IMAGES for the images ``first``, ``first + 1``, … of a file.

    ``codes`` gives a category id its number and grows with new ones.
    """
    return pa.RecordBatch.from_arrays(
        [
            pa.array(keys_of([image.id for image in images])),
            *_place(len(images), file, first),
            pa.array([str(image.id) for image in images], pa.string()),
            pa.array([image.published_name for image in images], pa.string()),
            _pixels([image.width for image in images]),
            _pixels([image.height for image in images]),
            _lists([image.neg_category_ids for image in images], codes),
            _lists([image.not_exhaustive_category_ids for image in images], codes),
        ],
        schema=IMAGES,
    )


def annotation_rows(
    annotations: Sequence[Annotation], file: int, first: int, codes: "defaultdict[int | str, int]", path: Path
) -> pa.RecordBatch:
    """Rows of ANNOTATIONS likewise; an annotation without a box has that of its segmentation.

    Raises:
        InputError: it has neither; ``path`` is named.
    """
    n = len(annotations)
    flags = _flags(annotations)
    boxes: Sequence[tuple[float, float, float, float] | None] = [a.bbox for a in annotations]
    try:
        sides = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * n).reshape(n, 4)  # type: ignore[arg-type]
    except TypeError:  # None among them
        boxed = [a.bbox or segmentation_box(a.segmentation, path, first + k) for k, a in enumerate(annotations)]
        sides = np.array(boxed, np.float64)
        flags[[a.bbox is None for a in annotations]] |= np.uint16(FROM_SEGMENTATION)
    area = np.array([a.area for a in annotations], np.float64)  # None becomes NaN
    return pa.RecordBatch.from_arrays(
        [
            pa.array(keys_of([a.image_id for a in annotations])),
            *_place(n, file, first),
            *[pa.array(np.ascontiguousarray(side)) for side in sides.T],
            pa.array(area),
            pa.array(flags),
            pa.array(np.fromiter([codes[a.category_id] for a in annotations], np.int32, n)),
        ],
        schema=ANNOTATIONS,
    )


def _flags(annotations: Sequence[Annotation]) -> np.ndarray:
    flags = np.zeros(len(annotations), np.uint16)
    marked = [a.iscrowd or a.ignore or a.isfake for a in annotations]
    if not any(marked):  # most windows
        return flags
    for flag, switches in (
        (BoxFlag.CROWD, [a.iscrowd for a in annotations]),
        (BoxFlag.IGNORE, [a.ignore for a in annotations]),
        (BoxFlag.DEPICTION, [a.isfake for a in annotations]),
    ):
        flags[np.array(switches, bool)] |= np.uint16(flag)
    return flags


def _place(n: int, file: int, first: int) -> list[pa.Array]:
    return [pa.array(np.full(n, file, np.int16)), pa.array(np.arange(first, first + n))]


def _lists(lists: Sequence[list[int | str] | None], codes: "defaultdict[int | str, int]") -> pa.Array:
    """Lists of category ids as codes, null where there is none."""
    coded = [None if ids is None else [codes[i] for i in ids] for ids in lists]
    return pa.array(coded, pa.list_(pa.int32()))


def _pixels(numbers: Sequence[Number]) -> pa.Array:
    """Published sizes, null where there is none."""
    # None becomes NaN; so does a number that no image has, and that may fit in no float
    sizes = np.array([n if n is not None and 0 < n < 2**31 else np.nan for n in numbers], np.float64)
    known = ~np.isnan(sizes)
    return pa.array(np.where(known, sizes, 0).astype(np.int32), mask=~known)

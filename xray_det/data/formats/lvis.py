"""LVIS v1: COCO JSON that says of each image which classes were looked for (arXiv 1908.03195, section 3).

A class is annotated in some images only. In an image

- classes with annotations are present, and all their objects are annotated,
- but for ``not_exhaustive_category_ids``: these have more objects than annotations;
- ``neg_category_ids`` were looked for and are absent;
- of every other class nothing is known.

That is supervision, and becomes ``verified_negative`` and ``not_exhaustive`` of schema.PUBLISHED. A class's
``frequency`` is kept for the metric; ``synset``, ``synonyms`` and ``def`` are not read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xray_det.data.formats.coco_json import Category
from xray_det.data.formats.rows import ragged
from xray_det.errors import InputError

#: Rare, common and frequent: in 1 to 10, 11 to 100 and more than 100 images of the training set.
FREQUENCIES: Final = ("r", "c", "f")
#: Column of coco_json.IMAGES -> the key it is read from.
LISTS: Final = {"negative": "neg_category_ids", "not_exhaustive": "not_exhaustive_category_ids"}


def frequency(category: Category, file: Path) -> str | None:
    """A category's frequency group; None where the file has none, which only the metric needs.

    Raises:
        InputError: it is none of ``FREQUENCIES``.
    """
    if category.frequency is None:
        return None
    if category.frequency not in FREQUENCIES:
        raise InputError(
            f"{file}: categories",
            f"{category.name!r} has the frequency {category.frequency!r}",
            f"Write one of {', '.join(FREQUENCIES)}",
        )
    return str(category.frequency)


def refuse_without_lists(categories: Sequence[Category], file: Path) -> None:
    """Refuse LVIS's categories over images that do not say which of them were looked for.

    Raises:
        InputError: every category has a frequency group; no image of the file has the lists.
    """
    if categories and all(category.frequency in FREQUENCIES for category in categories):
        raise InputError(
            f"{file}: images",
            f"its categories have LVIS's frequency, but no image has {' and '.join(LISTS.values())}",
            f"Give every image both lists; where all objects of all classes are annotated, remove the frequency "
            f"and the file is read as COCO: without {LISTS['negative']} nobody can tell what is absent",
        )


def class_lists(
    images: pa.Table, column: str, row_of_code: np.ndarray, id_of_code: Sequence[str], files: Sequence[Path]
) -> pa.ListArray:
    """One of an image's two lists as rows of the class table.

    Args:
        images: of coco_json.IMAGES, chunks combined.
        column: of ``LISTS``.
        row_of_code: int32, class row by category code, -1 where there is no such class.
        id_of_code: published id by code.
        files: by number.

    Raises:
        InputError: an image without the list, or a category in it that is none.
    """
    lists = images[column].combine_chunks()

    def refused(row: int, problem: str, remedy: str) -> InputError:
        image = images.slice(row, 1).to_pylist()[0]
        return InputError(f"{files[image['file']]}: image {image['id']}", problem, remedy)

    if lists.null_count:
        row = int(np.flatnonzero(lists.is_null())[0])
        raise refused(row, f"it has no {LISTS[column]}", f"Give every image {' and '.join(LISTS.values())}, or none")
    codes = lists.flatten().to_numpy()
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())])
    unknown = np.flatnonzero(row_of_code[codes] < 0)
    if len(unknown):
        row = int(np.searchsorted(offsets, unknown[0], side="right")) - 1
        problem = f"{LISTS[column]} lists the unknown category {id_of_code[codes[unknown[0]]]}"
        raise refused(row, problem, "List the category, or take it out")
    return ragged(pa.array(row_of_code[codes]), offsets)


def listed_absent(negative: pa.ListArray, owner: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """bool [N]: annotations of a class that their image lists as absent.

    Args:
        negative: [B] lists of classes.
        owner: int64 [N], the image of each annotation.
        labels: int32 [N], their classes.
    """
    image = np.repeat(np.arange(len(negative)), pc.list_value_length(negative).to_numpy())
    pairs = image << 32 | negative.flatten().to_numpy().astype(np.int64)
    return np.isin(owner << 32 | labels.astype(np.int64), pairs)

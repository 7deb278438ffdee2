"""Published truth for scoring files of detections: annotations alone, as they stand, whatever their layout."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import pyarrow as pa

from xray_det.data.formats.coco import coco_files
from xray_det.data.formats.coco_json import TYPES
from xray_det.data.formats.json_stream import stream_arrays
from xray_det.data.formats.open_images_csv import Kind, kind_of, read_labels
from xray_det.data.formats.source import Source, open_source
from xray_det.errors import InputError
from xray_det.evaluation.columns import Truth, truth_from_published, with_image_labels
from xray_det.labels.hierarchy import Hierarchy
from xray_det.labels.space import Class, LabelSpace
from xray_det.storage import read_json

#: Formats that publish x, y, width and height, and a table of all classes.
COCO_JSON: Final = ("coco", "lvis")


def read_truth(paths: Sequence[Path], format: str = "auto") -> tuple[Truth, Source]:
    """Annotations in any layout that the readers know, unrepaired; no image is opened.

    Args:
        paths: a dataset's folder, or its annotation files.
        format: ``coco``, ``lvis``, ``open_images``, ``voc`` or ``auto``.

    Returns:
        The truth, and the reader it comes from. COCO's file names stand in ``paths``, so that detections which name
        files can be told apart from detections which number images otherwise.

    Raises:
        InputError: as the readers; two images of one id; a box that is not finite.
    """
    source = open_source(paths, format, images=False)
    truth = truth_from_published(
        source.batches(),
        source.space,
        exhaustive=source.exhaustive,
        normalized=source.normalized,
        widths=source.format in COCO_JSON,
    )
    if source.format in COCO_JSON:
        names = _file_names(paths)
        truth = replace(truth, paths=tuple(names.get(i) for i in truth.image_ids))
    return truth, source


def add_image_labels(truth: Truth, path: Path) -> Truth:
    """The truth with the image-level labels of an Open Images CSV; images and classes it adds have no box.

    Args:
        truth: as read. Where a truth was exhaustive it no longer is: from now on labels and boxes tell.
        path: a CSV with ImageID, LabelName and Confidence, 1 present and 0 absent; others are a machine's guess.

    Raises:
        InputError: no such file, or another header.
    """
    if not path.is_file():
        raise InputError(path, "no such file", "Check the path of the image-level labels")
    if kind_of(path) is not Kind.LABELS:
        raise InputError(path, "is no table of image-level labels", "Give a CSV with ImageID, LabelName and Confidence")
    table = pa.Table.from_batches([block for block in read_labels(path) if block.num_rows])
    image_ids, class_ids = (table[name].combine_chunks().dictionary_encode() for name in ("ImageID", "LabelName"))
    truth = replace(add_classes(truth, class_ids.dictionary.to_pylist()), exhaustive=False)
    known = {image_id: row for row, image_id in enumerate(truth.image_ids)}
    extra = tuple(image_id for image_id in image_ids.dictionary.to_pylist() if image_id not in known)
    known |= {image_id: len(truth.image_ids) + row for row, image_id in enumerate(extra)}
    image = np.array([known[i] for i in image_ids.dictionary.to_pylist()], np.int64)
    label = np.array([truth.space.row_of_id[c] for c in class_ids.dictionary.to_pylist()], np.int64)
    columns = [
        image[image_ids.indices.to_numpy()],
        label[class_ids.indices.to_numpy()],
        table["positive"].to_numpy().astype(np.int64),
    ]
    return with_image_labels(truth, np.column_stack(columns), extra)


def add_classes(truth: Truth, ids: Sequence[str]) -> Truth:
    """The truth with a class for each published id that it has none for: a layout may list only classes with boxes."""
    space = truth.space
    fresh = [i for i in dict.fromkeys(ids) if i not in space.row_of_id]
    clash = next((i for i in fresh if i in space.row_of_name), None)
    if clash is not None:
        raise InputError(
            space.name, f"{clash!r} is the name of one class and the id of another", "Use ids or names throughout"
        )
    added = tuple(Class(name=i, source_id=i) for i in fresh)
    return replace(truth, space=LabelSpace(name=space.name, classes=space.classes + added))


def add_hierarchy(truth: Truth, hierarchy: Hierarchy) -> tuple[Truth, np.ndarray]:
    """The truth with every class of the hierarchy, and bool [C, C] ancestors in its rows.

    Raises:
        InputError: the hierarchy names no class of the truth.
    """
    named = {i for edge in hierarchy.parents for i in edge}
    if named and not named & set(truth.space.row_of_id):
        raise InputError(
            "--hierarchy", f"it names no class of {truth.space.name}", "Give the hierarchy of the same release"
        )
    truth = add_classes(truth, sorted(named))
    return truth, hierarchy.ancestors(truth.space)


def _file_names(paths: Sequence[Path]) -> dict[str, str]:
    """Image id -> published file name; without ids that two files share."""
    names: dict[str, str] = {}
    shared: set[str] = set()
    for file in coco_files([Path(p).expanduser().absolute() for p in paths]):
        for _, _, images in stream_arrays(file, {"images": TYPES["images"]}):
            for image in images:
                name = PurePosixPath(image.published_name.replace("\\", "/")).as_posix()
                if names.setdefault(str(image.id), name) != name:
                    shared.add(str(image.id))
    return {image_id: name for image_id, name in names.items() if image_id not in shared}


def read_hierarchy(path: Path) -> Hierarchy:
    """Open Images' hierarchy JSON.

    Raises:
        InputError: no such file, not JSON, or not a tree of LabelName and Subcategory.
    """
    return Hierarchy.from_open_images(read_json(path))

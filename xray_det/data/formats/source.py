"""What every reader is, and how the right one is found.

A reader knows one published layout. It is opened on a folder (or on annotation files), keeps what it has read on
disk, and yields PUBLISHED rows (data/schema.py) as often as asked. It repairs nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from xray_det.data.defect import Defect
from xray_det.data.formats.coco import CocoSource, coco_files
from xray_det.data.formats.layout import given_paths, lost_link, refuse_packed
from xray_det.data.formats.open_images import OpenImagesSource, csvs_seen, open_images_files
from xray_det.data.formats.voc import VocSource, voc_files
from xray_det.errors import InputError
from xray_det.labels.hierarchy import Hierarchy
from xray_det.labels.space import LabelSpace


class Source(Protocol):
    """A published dataset, ready to be read."""

    root: Path
    name: str  # of the dataset: its folder's
    format: str  # coco, lvis, open_images or voc
    space: LabelSpace  # classes as published, in published order
    hierarchy: Hierarchy | None
    normalized: bool  # boxes are fractions of the image
    exhaustive: bool  # False: only image-level labels tell that a class is absent (Open Images, LVIS)
    image_root: Path  # the rows' ``path`` is relative to it
    findings: Sequence[tuple[Defect, str, str]]  # of no single image: kind, file below ``root``, and what is wrong

    def batches(self, rows: int = 1024) -> Iterator[pa.RecordBatch]:
        """PUBLISHED batches of at most ``rows`` images, the same ones in the same order each time."""
        ...


#: Format -> how to open it, and which annotation files of it lie among some paths (never more than a few are opened).
_FORMATS: dict[str, tuple[Callable[..., Source], Callable[[Sequence[Path]], list[Path]]]] = {
    "coco": (CocoSource, coco_files),
    "lvis": (CocoSource, coco_files),
    "open_images": (OpenImagesSource, open_images_files),
    "voc": (VocSource, voc_files),
}
_SUFFIXES = {".json": "coco", ".csv": "open_images", ".xml": "voc"}


def open_source(path: Path | str | Sequence[Path | str], format: str = "auto", *, images: bool = True) -> Source:
    """Open a published dataset.

    Args:
        path: its folder, or the annotation files of it that are meant.
        format: ``coco`` (Objects365 too), ``lvis``, ``open_images``, ``voc``, or ``auto``: known by its layout.
        images: find each image's file. Without, annotations are read alone and ``path`` is null in every row.

    Raises:
        InputError: nothing there, a layout of no format or of several or of another than named, annotations that
            cannot be understood.
    """
    paths = given_paths(path)
    if format not in ("auto", *_FORMATS):
        raise InputError("format", f"{format!r} is not one of auto, {', '.join(_FORMATS)}", "Name one of them")
    source = _FORMATS[detect(paths) if format == "auto" else format][0](paths, images=images)
    if format not in ("auto", source.format):  # COCO JSON shows what it is when its images are read
        raise InputError(source.root, f"its format is {source.format}, not {format}", f"Name {source.format} or auto")
    return source


def detect(paths: Sequence[Path]) -> str:
    """The format whose annotation files lie nearest to the root, by looking at names and first bytes.

    LVIS counts as ``coco`` here: what tells them apart may stand anywhere in a file.

    Raises:
        InputError: there is none, or two lie where a dataset's annotations are expected.
    """
    finders = {name: finder for name, (_, finder) in _FORMATS.items() if name != "lvis"}
    found = {name: files for name, finder in finders.items() if (files := finder(paths))}
    folders = [p for p in paths if p.is_dir()]

    def depth(file: Path) -> int:
        return min((len(file.relative_to(f).parts) for f in folders if file.is_relative_to(f)), default=1)

    depths = {name: min(map(depth, files)) for name, files in found.items()}
    near = [name for name in found if depths[name] <= 2] or list(found)
    if not near:
        suffixes = {path.suffix.lower() for path in paths if path.is_file()}
        if not folders and len(suffixes) == 1 and (named := _SUFFIXES.get(suffixes.pop())):
            return named  # the reader says what is wrong with it
        refuse_packed(paths)
        problem = f"no dataset found: neither COCO JSON, nor VOC XML, nor Open Images CSV ({csvs_seen(paths)})"
        links = [said for folder in folders if (said := lost_link(folder))]
        raise InputError(
            ", ".join(map(str, paths)),
            "; ".join([problem, *links]),
            "Make the link anew" if links else "Check the path, or name the format",
        )
    if len(near) > 1:
        named = "; ".join(f"{name} ({found[name][0].name})" for name in near)
        raise InputError(paths[0], f"annotations of several formats: {named}", "Name the format that is meant")
    return near[0]

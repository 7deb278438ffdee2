"""The files of an Open Images release: CSVs of boxes, of image labels and of class names, and the hierarchy."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xray_det import storage
from xray_det.data.miniature.annotate import Annotated
from xray_det.data.miniature.glyphs import published_id
from xray_det.labels.hierarchy import Hierarchy

_BOX_HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)
_LABEL_HEADER = "ImageID,Source,LabelName,Confidence"
_ROOT = "/m/0bl9f"


def write(root: Path, images: Mapping[str, Sequence[Annotated]], words: Sequence[str], hierarchy: Hierarchy) -> None:
    """Write both splits.

    Args:
        images: split -> its images.
        words: the class names, in the order of the class descriptions.
        hierarchy: by published id.
    """
    ids = {word: published_id(word) for word in words}
    for split, name in (("train", "train"), ("val", "validation")):
        boxes = (
            [
                image.stem,
                "xclick",
                ids[label.name],
                1,
                *_fractions(label.box, image),
                0,
                *_cut(label.box, image),
                0,
                0,
                0,
            ]
            for image in images[split]
            for label in image.labels
        )
        _write_csv(root / f"{name}-annotations-bbox.csv", _BOX_HEADER.split(","), boxes)
        labels = (
            [image.stem, "verification", ids[word], confidence]
            for image in images[split]
            for confidence, verified in ((1, image.present), (0, image.absent))
            for word in verified
        )
        _write_csv(root / f"{name}-annotations-human-imagelabels-boxable.csv", _LABEL_HEADER.split(","), labels)
    # as published: no header
    _write_csv(root / "class-descriptions-boxable.csv", None, ([ids[word], word] for word in words))
    storage.write_json(root / "bbox_labels_600_hierarchy.json", _nested(hierarchy, set(ids.values())))


def _fractions(box: tuple[float, float, float, float], image: Annotated) -> list[float]:
    x1, y1, x2, y2 = box
    return [round(v, 6) for v in (x1 / image.width, x2 / image.width, y1 / image.height, y2 / image.height)]


def _cut(box: tuple[float, float, float, float], image: Annotated) -> list[int]:
    return [int(box[2] > image.width or box[3] > image.height)]


def _nested(hierarchy: Hierarchy, known: set[str]) -> dict[str, Any]:
    """The JSON form: every class that has no parent lies directly below the root."""
    children: dict[str, list[str]] = {}
    for child, parent in hierarchy.parents:
        children.setdefault(parent, []).append(child)

    def node(label: str) -> dict[str, Any]:
        below = [node(child) for child in children.get(label, []) if child in known]
        return {"LabelName": label, "Subcategory": below} if below else {"LabelName": label}

    nested = {child for child, _ in hierarchy.parents}
    return {"LabelName": _ROOT, "Subcategory": [node(label) for label in sorted(known - nested)]}


def _write_csv(path: Path, header: Sequence[str] | None, rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header is not None:
        writer.writerow(header)
    writer.writerows(rows)
    storage.write_bytes(path, text.getvalue().encode())

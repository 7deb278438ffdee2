"""COCO JSON as Objects365 publishes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xray_det import storage
from xray_det.data.miniature.annotate import Annotated, Label


def write_coco(
    path: Path,
    images: Sequence[Annotated],
    names: Mapping[str, str],
    labels: Sequence[Sequence[Label]],
    *,
    text_ids: bool = False,
) -> None:
    """Write one split.

    Args:
        names: class -> the name it is published under; the categories in order, ids from 1.
        labels: of each image.
        text_ids: images are known by their file stem, otherwise by number.
    """
    category = {name: number for number, name in enumerate(names, 1)}
    annotations: list[dict[str, Any]] = []
    for image, of_image in zip(images, labels, strict=True):
        for label in of_image:
            x1, y1, x2, y2 = label.box
            width, height = round(x2 - x1, 2), round(y2 - y1, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.stem if text_ids else image.number,
                    "category_id": category[label.name],
                    "bbox": [x1, y1, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    tree = {
        "images": [
            {
                "id": image.stem if text_ids else image.number,
                "file_name": image.file,
                "width": image.width,
                "height": image.height,
            }
            for image in images
        ],
        "categories": [{"id": number, "name": names[name]} for name, number in category.items()],
        "annotations": annotations,
    }
    storage.write_json(path, tree)

"""Images as a detector is shown them when nothing is random: resized, side by side on one canvas. Torch-free.

The same geometry and the same pixels as in training (data/geometry.py, data/transforms.py), without targets.
Letters: B images of a batch, H x W its canvas.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from xray_det.data import geometry
from xray_det.data.assemble import read_image
from xray_det.data.augmentation import Augmentation
from xray_det.data.images import BadImage
from xray_det.data.randomness import Key
from xray_det.data.transforms import draw
from xray_det.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A batch of images, and the way back.

    Attributes:
        images: uint8 [B, H, W, 3], RGB; each in the upper left corner, the rest the augmentation's fill colour.
        sizes: int64 [B, 2], (height, width) of the part of the canvas that is image.
        scales: float64 [B, 2], canvas pixels a pixel of the upright original, (vertical, horizontal).
        originals: int64 [B, 2], (height, width) of the upright original.
    """

    images: np.ndarray
    sizes: np.ndarray
    scales: np.ndarray
    originals: np.ndarray


def pictures(rows: pa.RecordBatch | pa.Table, augmentation: Augmentation) -> Pictures:
    """Decode and resize the images of some rows of annotations.

    Args:
        rows: columns image_id, path, offset, length, width, height of data/annotations.py; B rows.
        augmentation: sizes; what is random in it is left out.

    Raises:
        InputError: an image cannot be read, or has another size than at ingest.
    """
    originals = np.stack([rows["height"].to_numpy(), rows["width"].to_numpy()], axis=1).astype(np.int64)
    positions = np.arange(len(originals))
    no_boxes, no_image = np.empty((0, 4), np.float32), np.empty(0, np.int64)
    placement = geometry.place(
        augmentation.evaluation(), Key(seed=0), positions, originals, boxes=no_boxes, box_image=no_image
    )
    height, width = placement.canvas(augmentation.multiple)
    canvas = np.empty((len(originals), height, width, 3), np.uint8)
    canvas[:] = np.array(augmentation.fill, np.uint8)
    columns = [rows[name].to_pylist() for name in ("image_id", "path", "offset", "length")]
    for row, (image_id, path, offset, length) in enumerate(zip(*columns, strict=True)):
        data = read_image(path, -1 if offset is None else offset, -1 if length is None else length)
        try:
            draw(canvas[row], data, (int(originals[row, 0]), int(originals[row, 1])), placement, row)
        except BadImage as error:
            raise InputError(
                path, f"the image ({image_id}) is not what was ingested: {error}", "Restore it, or ingest again"
            ) from error
    return Pictures(images=canvas, sizes=placement.sizes, scales=placement.scales(), originals=originals)


def by_aspect(rows: pa.RecordBatch | pa.Table, batch: int) -> list[np.ndarray]:
    """Row numbers in batches of like aspect: a landscape and a portrait image in one batch are half padding."""
    aspect = rows["width"].to_numpy() / rows["height"].to_numpy()
    order = np.argsort(aspect, kind="stable")
    return [order[start : start + batch] for start in range(0, len(order), batch)]

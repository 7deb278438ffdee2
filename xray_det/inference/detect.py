"""A detector over pictures: detections in the pixels of the upright originals, as rows of schema.DETECTIONS."""

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from xray_det.data.schema import DETECTIONS
from xray_det.inference.pictures import Pictures
from xray_det.labels.space import LabelSpace
from xray_det.models.predictions import Detections, Detector


def detection_schema(space: LabelSpace) -> pa.Schema:
    """schema.DETECTIONS with the class table whose rows the labels are."""
    return DETECTIONS.with_metadata({"classes": json.dumps(space.to_json())})


@torch.inference_mode()
def detect(detector: Detector, pictures: Pictures, *, precision: torch.dtype = torch.float32) -> Detections:
    """Run a detector on a batch of pictures.

    Args:
        detector: in evaluation mode, on any device; left there.
        pictures: B images.
        precision: float32, or bfloat16 for autocast.

    Returns:
        Detections on the CPU, boxes in pixels of the upright originals and inside them.
    """
    device = next(detector.parameters()).device
    # a copy: the array may be read-only memory of Ray's object store
    images = torch.tensor(pictures.images, device=device).permute(0, 3, 1, 2)
    sizes = torch.tensor(pictures.sizes, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        predictions = detector(images, sizes)
    found = detector.decode(predictions, sizes).to("cpu")
    scale = torch.tensor(pictures.scales[:, [1, 0, 1, 0]])[found.image]
    limit = torch.tensor(pictures.originals[:, [1, 0, 1, 0]])[found.image]
    boxes = torch.minimum((found.boxes.double() / scale).clamp(min=0), limit)
    return Detections(boxes=boxes.float(), scores=found.scores.float(), labels=found.labels, image=found.image)


def detection_rows(
    found: Detections, image_ids: Sequence[str], datasets: Sequence[str], *, most: int | None = None
) -> pa.RecordBatch:
    """Detections of B images as B rows of schema.DETECTIONS (images without detections too), by falling score.

    Args:
        found: ``image`` counts the images from 0.
        image_ids, datasets: B of each.
        most: of an image that are kept, those that score best; None: all.
    """
    image, scores = found.image.numpy(), found.scores.numpy()
    order = np.lexsort((-scores.astype(np.float64), image))
    image = image[order]
    if most is not None:
        kept = np.arange(len(image)) - np.searchsorted(image, image) < most
        image, order = image[kept], order[kept]
    offsets = pa.array(np.concatenate([[0], np.cumsum(np.bincount(image, minlength=len(image_ids)))]).astype(np.int32))
    boxes = pa.FixedSizeListArray.from_arrays(pa.array(found.boxes.numpy()[order].reshape(-1)), 4)
    columns = {
        "image_id": pa.array(image_ids, pa.string()),
        "dataset": pa.array(datasets, pa.string()),
        "boxes": pa.ListArray.from_arrays(offsets, boxes),
        "scores": pa.ListArray.from_arrays(offsets, pa.array(scores[order])),
        "labels": pa.ListArray.from_arrays(offsets, pa.array(found.labels.numpy()[order].astype(np.int32))),
    }
    arrays = [columns[field.name].cast(field.type) for field in DETECTIONS]
    return pa.RecordBatch.from_arrays(arrays, schema=DETECTIONS)

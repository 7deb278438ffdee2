"""Predictions -> detections: the best (row, class) pairs of every level, then non-maximum suppression a class."""

from dataclasses import dataclass

import torch
from torch import Tensor

from xray_det.data.limits import Limits
from xray_det.errors import InputError
from xray_det.losses.box import BoxCode
from xray_det.losses.targets import ClassificationLoss, at_least_float32
from xray_det.models.predictions import Detections, Predictions
from xray_det.models.suppression import best


@dataclass(frozen=True, kw_only=True)
class Decoding(Limits):
    """How detections are read off; a protocol that needs more of them gets more (``Limits.widened``).

    Attributes:
        nms_iou: a box that overlaps more than this with a better one of its class is dropped.
    """

    nms_iou: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.nms_iou <= 1:
            raise InputError("decoding.nms_iou", f"{self.nms_iou} is outside [0, 1]", "Give a share")


@torch.no_grad()
def detect(
    predictions: Predictions, sizes: Tensor, config: Decoding, classification: ClassificationLoss, code: BoxCode
) -> Detections:
    """Detections of a batch; ``sizes`` int64 [B, 2] (height, width) bound the boxes."""
    with torch.autocast(predictions.logits.device.type, enabled=False):
        scores, labels, rows = _candidates(predictions, config.candidates, classification)
        deltas = at_least_float32(predictions.deltas).gather(1, rows[..., None].expand(-1, -1, 4))
        references = predictions.references.expand(len(sizes), -1, -1).gather(1, rows[..., None].expand(-1, -1, 4))
        boxes = clip(code.decode(references, deltas), sizes)
        image = torch.arange(len(sizes), device=boxes.device)[:, None].expand_as(labels)
        keep = (scores > config.score_threshold) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        boxes, scores, labels, image = boxes[keep], scores[keep], labels[keep], image[keep]
        kept = best(
            boxes.double(),
            scores,
            labels,
            image,
            images=len(sizes),
            iou=config.nms_iou,
            most=config.max_detections,
        )
    return Detections(boxes=boxes[kept], scores=scores[kept], labels=labels[kept], image=image[kept])


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes [B, M, 4] cut to their images of ``sizes`` int64 [B, 2] (height, width)."""
    limit = sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limit)


def _candidates(
    predictions: Predictions, count: int, classification: ClassificationLoss
) -> tuple[Tensor, Tensor, Tensor]:
    """The ``count`` best pairs of every level: scores, classes and rows, [B, M] each.

    The best k pairs of all lie in the k rows whose best class scores most, so only those rows are sorted by pair.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    first = 0
    for rows_of_level in predictions.levels:
        level = slice(first, first + rows_of_level)
        scores = classification.scores(predictions.logits[:, level])
        scores = scores.masked_fill(~predictions.valid[:, level, None], 0.0)
        num_classes = scores.shape[-1]
        best_rows = scores.amax(-1).topk(min(count, rows_of_level), dim=1).indices
        scores = scores.gather(1, best_rows[..., None].expand(-1, -1, num_classes)).flatten(1)
        top, pair = scores.topk(min(count, scores.shape[1]), dim=1)
        row = best_rows.gather(1, pair // num_classes) + first
        found.append((top, pair % num_classes, row))
        first += rows_of_level
    score, label, row = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    return score, label, row

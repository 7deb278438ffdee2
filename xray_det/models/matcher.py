"""Which row of a detector (anchor or proposal) is responsible for which box, for a whole batch at once.

Shape letters: B images, R rows an image, G boxes of the fullest image, N boxes of the batch, C classes, P rows that
hold an object. Boxes are x1 y1 x2 y2 in canvas pixels.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from xray_det.data.batch import Targets
from xray_det.losses.box import area, intersection
from xray_det.losses.targets import RowTargets
from xray_det.models.sampling import SampleKey, priorities

# A row lies on a region when at least this share of its area does.
REGION_SHARE = 0.5
# Overlaps in memory at once (float32); boxes are taken in chunks so that a crowded image costs time and not memory.
_CHUNK_CPU, _CHUNK_OTHER = 1 << 20, 1 << 26


@dataclass(kw_only=True)
class Match:
    """What each row is to be.

    Attributes:
        box: int64 [B, R]; the row of ``Targets`` with which a positive row overlaps most (elsewhere any, or N).
        positive: bool [B, R]; holds an object.
        background: bool [B, R]; overlaps too little with every object. Neither of the two: in between, or not valid.
        on_region: bool [B, R]; at least half of it lies on one region.
        inside: bool [B, R]; at least half of it lies on one box of which ``Targets.inside_unknown`` says something.
    """

    box: Tensor
    positive: Tensor
    background: Tensor
    on_region: Tensor
    inside: Tensor


@torch.no_grad()
def match(
    references: Tensor,
    valid: Tensor,
    targets: Targets,
    *,
    foreground_iou: float,
    background_iou: float,
    low_quality: bool = False,
) -> Match:
    """Match rows and boxes by IoU; regions match nothing.

    Args:
        references: float32 [B, R, 4], or [1, R, 4] when all images share them (anchors).
        valid: bool [B, R]; other rows are neither positive nor background.
        foreground_iou: a row is positive from here on.
        background_iou: a row is background below.
        low_quality: the row or rows that overlap most with a box are positive whatever their IoU, if above 0; as in
            torchvision they hold the box that *they* overlap most with.
    """
    padded = _pad(targets)
    rows = references
    row_area = area(rows)[:, None]
    shape = (valid.shape[0], rows.shape[1])
    best = torch.full(shape, -1.0, device=rows.device)
    slot = torch.zeros(shape, dtype=torch.int64, device=rows.device)
    kept = torch.zeros(shape, dtype=torch.bool, device=rows.device)
    on_region, inside = torch.zeros_like(kept), torch.zeros_like(kept)
    step = max(1, (_CHUNK_CPU if rows.device.type == "cpu" else _CHUNK_OTHER) // max(1, valid.numel()))
    for first in range(0, padded.boxes.shape[1], step):
        chunk = slice(first, first + step)
        boxes = padded.boxes[:, chunk]
        shared = intersection(boxes[:, :, None], rows[:, None])
        union = area(boxes)[:, :, None] + row_area - shared
        iou = shared / union.clamp(min=1e-6)
        iou.masked_fill_(~(padded.ordinary[:, chunk, None] & valid[:, None]), -1.0)
        overlap, where = iou.max(1)
        slot = torch.where(overlap > best, where + first, slot)
        best = torch.maximum(best, overlap)
        if low_quality:
            most = iou.amax(2, keepdim=True)
            kept |= ((iou == most) & (most > 0)).any(1)
        if targets.regions or padded.subject is not None:
            lies = shared >= REGION_SHARE * row_area.clamp(min=1e-6)
            on_region |= (lies & padded.region[:, chunk, None]).any(1)
            if padded.subject is not None:
                inside |= (lies & padded.subject[:, chunk, None]).any(1)
    positive = ((best >= foreground_iou) | kept) & valid
    return Match(
        box=padded.index.gather(1, slot),
        positive=positive,
        background=(best < background_iou) & valid & ~positive,
        on_region=on_region,
        inside=inside,
    )


@dataclass(kw_only=True)
class Assignment:
    """Targets of a detector's rows: of its classifier, and which box each positive row is to find.

    Attributes:
        classes: targets of all B x R rows.
        image, row, box: int64 [P]; the positive rows, and their rows of ``Targets``.
    """

    classes: RowTargets
    image: Tensor
    row: Tensor
    box: Tensor


@torch.no_grad()
def assign(found: Match, references: Tensor, targets: Targets, key: SampleKey | None = None) -> Assignment:
    """Turn a match into targets; ``references`` as given to ``match``. The only place that reads what regions
    and subjects of parts leave unknown.

    A loss that draws at random does so by ``key``.
    On a device this waits once for the number of positive rows, and once more when the batch holds regions.
    """
    image, row = found.positive.nonzero(as_tuple=True)
    box = found.box[image, row]
    values, known = targets.classes[box], targets.classes_known[box]
    listed = (image, row)
    background = found.background
    rows_of_image = references.expand(found.box.shape[0], -1, -1)
    if targets.inside_unknown is not None:
        known = known & (_known_there(rows_of_image[image, row], image, targets) | (values > 0))
    if targets.regions or targets.inside_unknown is not None:
        special = found.on_region | found.inside
        background = found.background & ~special
        on_image, on_row = (found.background & special).nonzero(as_tuple=True)
        there = _known_there(rows_of_image[on_image, on_row], on_image, targets, regions=True)
        known_there = targets.absence_known[on_image] & there
        listed = (torch.cat([image, on_image]), torch.cat([row, on_row]))
        values = torch.cat([values, values.new_zeros(len(on_row), values.shape[1])])
        known = torch.cat([known, known_there])
    classes = RowTargets(
        background=background,
        background_known=targets.absence_known,
        image=listed[0],
        row=listed[1],
        values=values,
        known=known,
        draw=None if key is None else partial(priorities, key),
    )
    return Assignment(classes=classes, image=image, row=row, box=box)


def _known_there(rows: Tensor, image: Tensor, targets: Targets, *, regions: bool = False) -> Tensor:
    """bool [Q, C]: what every box that rows [Q, 4] lie on allows them to learn; with ``regions`` those count too."""
    unknown = torch.zeros_like(targets.classes_known) if targets.inside_unknown is None else targets.inside_unknown
    if regions:
        unknown = unknown | (targets.region[:, None] & ~targets.classes_known)
    (which,) = unknown.any(1).nonzero(as_tuple=True)
    lies = intersection(rows[:, None], targets.boxes[which]) >= REGION_SHARE * area(rows)[:, None].clamp(min=1e-6)
    lies &= image[:, None] == targets.box_image[which]
    return ~(lies.float() @ unknown[which].float() > 0)


@dataclass(kw_only=True)
class _Padded:
    """Boxes as [B, G, 4] with their rows of ``Targets`` [B, G] and masks of ordinary boxes, of regions, and of boxes of
    which ``Targets.inside_unknown`` says something."""

    boxes: Tensor
    index: Tensor
    ordinary: Tensor
    region: Tensor
    subject: Tensor | None


def pad_boxes(targets: Targets) -> tuple[Tensor, Tensor]:
    """Boxes float32 [B, G, 4] and a mask bool [B, G] of the ordinary ones (no padding, no region)."""
    padded = _pad(targets)
    return padded.boxes, padded.ordinary


def _pad(targets: Targets) -> _Padded:
    counts = targets.counts or ()
    device = targets.boxes.device
    widest = max(1, *counts) if counts else 1
    count = torch.tensor(counts, dtype=torch.int64).to(device, non_blocking=True)
    place = torch.arange(widest, device=device)
    index = (count.cumsum(0) - count)[:, None] + place
    real = place < count[:, None]
    nothing = targets.boxes.shape[0]
    index = torch.where(real, index, nothing)
    region = torch.cat([targets.region, targets.region.new_zeros(1)])[index]
    subject = None
    if targets.inside_unknown is not None:
        subject = torch.cat([targets.inside_unknown.any(1), targets.region.new_zeros(1)])[index]
    return _Padded(
        boxes=torch.cat([targets.boxes, targets.boxes.new_zeros(1, 4)])[index],
        index=index,
        ordinary=real & ~region,
        region=region,
        subject=subject,
    )

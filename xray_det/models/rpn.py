"""The region proposal network (Ren et al. 2015): which anchors hold any object at all.

Shape letters: B images, R anchors of the canvas, A anchors a cell, S proposals an image. It knows one class; background
is learned from a random sample of anchors. An anchor on an ignore region teaches nothing. Other background is negative
even where some class's absence is unknown, since an object without a label is rare among the anchors drawn; but for
those that look like one where ``Proposals.ignore_unlabelled`` is set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xray_det.data.batch import Targets
from xray_det.errors import InputError
from xray_det.losses.box import BoxCode, SmoothL1
from xray_det.losses.targets import at_least_float32
from xray_det.models.anchors import Anchors, anchor_rows, inside
from xray_det.models.decoding import clip
from xray_det.models.matcher import match
from xray_det.models.predictions import Losses, Predictions
from xray_det.models.sampling import SampleKey, choose, priorities


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """How regions are proposed; the defaults are torchvision's.

    Attributes:
        foreground_iou, background_iou: an anchor is positive from the first on and background below the second.
        sampled: anchors an image that teach; positive_share: at most this share of them positive.
        candidates_train, candidates_test: best anchors a level that enter suppression.
        kept_train, kept_test: proposals an image that leave it.
        nms_iou: of suppression, which is done a level.
        ignore_unlabelled: in an image where the absence of some class is unknown, background whose objectness is above
            this probability teaches nothing: it may be an object that its dataset does not label. None: it is negative.
    """

    anchors: Anchors = field(default_factory=lambda: Anchors(scales=(8.0,)))
    foreground_iou: float = 0.7
    background_iou: float = 0.3
    sampled: int = 256
    positive_share: float = 0.5
    candidates_train: int = 2000
    candidates_test: int = 1000
    kept_train: int = 2000
    kept_test: int = 1000
    nms_iou: float = 0.7
    ignore_unlabelled: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.background_iou <= self.foreground_iou <= 1:
            raise InputError(
                "proposals: foreground_iou, background_iou",
                f"{self.foreground_iou}, {self.background_iou} are out of order",
                "Give 0 < background <= foreground <= 1",
            )
        if not 0 < self.positive_share <= 1:
            raise InputError("proposals.positive_share", f"{self.positive_share} is outside (0, 1]", "Give a share")
        if self.ignore_unlabelled is not None and not 0 < self.ignore_unlabelled < 1:
            raise InputError(
                "proposals.ignore_unlabelled",
                f"{self.ignore_unlabelled} is outside (0, 1)",
                "Give a probability such as 0.7, or none",
            )


class ProposalNetwork(nn.Module):
    """Objectness and boxes of all anchors, their loss, and the proposals made of them."""

    def __init__(self, config: Proposals, channels: int) -> None:
        super().__init__()
        self.config = config
        self.code = BoxCode()
        per_cell = config.anchors.per_cell()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, per_cell, 1)
        self.deltas = nn.Conv2d(channels, per_cell * 4, 1)
        for layer in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, 0) if layer.bias is not None else None

    def forward(
        self, features: Sequence[Tensor], strides: Sequence[int], sizes: Tensor, key: SampleKey | None
    ) -> Predictions:
        """One logit an anchor: predictions with K = 1."""
        hidden = [F.relu(self.conv(f), inplace=True) for f in features]
        grids = [(f.shape[2], f.shape[3]) for f in features]
        anchors = self.config.anchors.boxes(grids, strides, sizes.device)
        per_cell = self.config.anchors.per_cell()
        return Predictions(
            logits=torch.cat([anchor_rows(self.objectness(h), 1) for h in hidden], 1),
            deltas=torch.cat([anchor_rows(self.deltas(h), 4) for h in hidden], 1),
            references=anchors[None],
            valid=inside(anchors, sizes),
            levels=tuple(rows * columns * per_cell for rows, columns in grids),
            key=key,
        )

    @torch.no_grad()
    def propose(self, predictions: Predictions, sizes: Tensor, *, training: bool) -> tuple[Tensor, Tensor]:
        """The best boxes that do not overlap too much with a better one of their level.

        Returns:
            float32 [B, S, 4], x1 y1 x2 y2 inside the image, and bool [B, S]: the places that are filled.
        """
        from torchvision.ops import batched_nms  # not with the module: see backbones.py

        config = self.config
        candidates = config.candidates_train if training else config.candidates_test
        with torch.autocast(predictions.logits.device.type, enabled=False):
            scores = at_least_float32(predictions.logits[..., 0]).masked_fill(~predictions.valid, -torch.inf)
            best, level, first = [], [], 0
            for number, rows in enumerate(predictions.levels):
                top = scores[:, first : first + rows].topk(min(candidates, rows), dim=1).indices + first
                best.append(top)
                level.append(torch.full_like(top, number))
                first += rows
            chosen = torch.cat(best, 1)
            wide = chosen[..., None].expand(-1, -1, 4)
            references = predictions.references.expand(len(sizes), -1, -1).gather(1, wide)
            boxes = clip(self.code.decode(references, at_least_float32(predictions.deltas).gather(1, wide)), sizes)
            scores = scores.gather(1, chosen)
            scores = scores.masked_fill(~(boxes[..., 2:] - boxes[..., :2] > 1e-3).all(-1), -torch.inf)
            image = torch.arange(len(sizes), device=sizes.device)[:, None]
            group = image * len(predictions.levels) + torch.cat(level, 1)
            # In float64: suppression may move each group to a place of its own, where float32 would round boxes.
            kept = batched_nms(boxes.flatten(0, 1).double(), scores.flatten().double(), group.flatten(), config.nms_iou)
            survives = torch.zeros_like(scores, dtype=torch.bool)
            survives.view(-1)[kept] = True
            count = min(config.kept_train if training else config.kept_test, scores.shape[1])
            score, place = scores.masked_fill(~survives, -torch.inf).topk(count, dim=1)
            return boxes.gather(1, place[..., None].expand(-1, -1, 4)), score > -torch.inf

    def losses(self, predictions: Predictions, targets: Targets) -> Losses:
        """``proposal_objectness`` and ``proposal_box``, both a mean over the sampled anchors.

        An anchor that ``ignore_unlabelled`` leaves out is not drawn: another is in its place.
        """
        config, key = self.config, predictions.key
        assert key is not None
        anchors = predictions.references
        found = match(
            anchors,
            predictions.valid,
            targets,
            foreground_iou=config.foreground_iou,
            background_iou=config.background_iou,
            low_quality=True,
        )
        background = found.background & ~found.on_region
        logits = at_least_float32(predictions.logits[..., 0])
        if config.ignore_unlabelled is not None:
            unlabelled = ~targets.absence_known.all(1, keepdim=True)
            background &= ~(unlabelled & (logits.sigmoid() > config.ignore_unlabelled))
        priority = priorities(key, anchors.shape[1], "proposals")
        most = int(config.sampled * config.positive_share)
        positive, is_positive = choose(found.positive, priority, most)
        negative, is_negative = choose(background, priority, config.sampled)
        rank = torch.arange(negative.shape[1], device=negative.device)
        is_negative &= rank < config.sampled - is_positive.sum(1, keepdim=True)

        on = torch.where(is_positive, F.softplus(-logits.gather(1, positive)), 0.0)
        off = torch.where(is_negative, F.softplus(logits.gather(1, negative)), 0.0)

        references = anchors[0][positive]
        truth = torch.cat([targets.boxes, targets.boxes.new_zeros(1, 4)])[found.box.gather(1, positive)]
        truth = torch.where(is_positive[..., None], truth, references)  # an empty place: a box with a finite loss
        deltas = at_least_float32(predictions.deltas).gather(1, positive[..., None].expand(-1, -1, 4))
        box = torch.where(is_positive, SmoothL1().loss_each(deltas, references, truth, self.code), 0.0)
        count = (is_positive.sum() + is_negative.sum()).float()
        return Losses(
            sums={"proposal_objectness": on.sum() + off.sum(), "proposal_box": box.sum()},
            counts={"proposal_objectness": count, "proposal_box": count},
        )

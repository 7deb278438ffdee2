"""Faster R-CNN (Ren et al. 2015) over a feature pyramid: proposals, then one classifier and box a proposal.

Shape letters: B images, S proposals an image, R sampled proposals (RoIs) an image, C classes, K classifier outputs.
Boxes are regressed without regard to class, so that classes can be added, shared and left unlabelled freely.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xray_det.data.batch import Targets
from xray_det.errors import InputError
from xray_det.labels.statistics import ClassStatistics
from xray_det.losses import Classification
from xray_det.losses.box import BoxCode, GIoU, SmoothL1
from xray_det.losses.softmax import Softmax
from xray_det.losses.targets import ClassificationLoss, at_least_float32
from xray_det.models.backbones import Backbone, Pyramid
from xray_det.models.decoding import Decoding, detect
from xray_det.models.matcher import Match, assign, match, pad_boxes
from xray_det.models.predictions import Detections, Detector, Losses, Predictions
from xray_det.models.roi_align import level_of, roi_align
from xray_det.models.rpn import ProposalNetwork, Proposals
from xray_det.models.sampling import SampleKey, choose, priorities
from xray_det.models.weights import load_backbone


@dataclass(frozen=True, kw_only=True)
class FasterRCNN:
    """Configuration of a Faster R-CNN; the defaults are torchvision's.

    Attributes:
        levels: lowest and highest pyramid level; RoIs are pooled from those up to P5.
        channels: of the pyramid; head_channels: of the two hidden layers of the RoI head.
        pool: bins an axis of a pooled RoI.
        rois: sampled an image for training; positive_share: at most this share of them positive.
        foreground_iou: a RoI is positive from here on and background below.
    """

    backbone: Backbone = field(default_factory=Backbone)
    levels: tuple[int, int] = (2, 6)
    channels: int = 256
    proposals: Proposals = field(default_factory=Proposals)
    pool: int = 7
    head_channels: int = 1024
    rois: int = 512
    positive_share: float = 0.25
    foreground_iou: float = 0.5
    classification: Classification = field(default_factory=Softmax)
    box: SmoothL1 | GIoU = field(default_factory=SmoothL1)
    decoding: Decoding = field(default_factory=Decoding)

    def __post_init__(self) -> None:
        if not 0 < self.foreground_iou <= 1:
            raise InputError("foreground_iou", f"{self.foreground_iou} is outside (0, 1]", "Give an overlap")
        if not 0 < self.positive_share <= 1:
            raise InputError("positive_share", f"{self.positive_share} is outside (0, 1]", "Give a share")
        for name in ("channels", "head_channels", "pool", "rois"):
            if getattr(self, name) < 1:
                raise InputError(name, f"{getattr(self, name)} is below 1", "Give a positive number")

    def build(self, num_classes: int, statistics: ClassStatistics | None = None) -> "FasterRCNNDetector":
        """A detector of ``num_classes`` classes, its backbone filled with ``backbone.weights``.

        Args:
            statistics: of the training data, for a ``classification`` that needs them; None to load a detector.

        Raises:
            InputError: the weights cannot be found or read, or the statistics are not what the loss needs.
        """
        detector = FasterRCNNDetector(self, num_classes, statistics)
        detector.loaded = load_backbone(detector.pyramid.body, self.backbone)
        return detector.to(memory_format=torch.channels_last)


class FasterRCNNDetector(Detector):
    """See ``FasterRCNN``."""

    def __init__(self, config: FasterRCNN, num_classes: int, statistics: ClassStatistics | None) -> None:
        super().__init__(config, num_classes)
        self.settings = config
        self.classification: ClassificationLoss = config.classification.bind(num_classes, statistics)
        self.code = BoxCode(weights=(10.0, 10.0, 5.0, 5.0))
        self.pyramid = Pyramid(config.backbone, levels=config.levels, channels=config.channels, extra="pool")
        self.proposals = ProposalNetwork(config.proposals, config.channels)
        self.hidden = nn.ModuleList(
            [
                nn.Linear(config.pool**2 * config.channels, config.head_channels),
                nn.Linear(config.head_channels, config.head_channels),
            ]
        )
        self.class_head = nn.Linear(config.head_channels, config.classification.num_outputs(num_classes))
        self.box_head = nn.Linear(config.head_channels, 4)
        nn.init.normal_(self.class_head.weight, std=0.01)
        self.class_head.load_state_dict({"bias": config.classification.initial_bias(num_classes)}, strict=False)
        nn.init.normal_(self.box_head.weight, std=0.001)
        nn.init.zeros_(self.box_head.bias)

    def class_rows(self) -> dict[str, int]:
        return {"class_head.weight": 1, "class_head.bias": 1}

    def forward(
        self, images: Tensor, sizes: Tensor, targets: Targets | None = None, key: SampleKey | None = None
    ) -> Predictions:
        features = self.pyramid(images, sizes)
        strides = self.pyramid.strides
        proposed = self.proposals(features, strides, sizes, key)
        boxes, valid = self.proposals.propose(proposed, sizes, training=targets is not None)
        if targets is not None:
            if key is None:
                raise ValueError("sampling RoIs needs a key")
            boxes, valid = self._sample(boxes, valid, targets, key)
        pooled = [(f, stride) for f, stride in zip(features, strides, strict=True) if stride <= 32]
        maps, strides = [f for f, _ in pooled], tuple(stride for _, stride in pooled)
        x = roi_align(maps, strides, boxes, level_of(boxes, strides), size=self.settings.pool)
        for layer in self.hidden:
            x = F.relu(layer(x), inplace=True)
        return Predictions(
            logits=self.class_head(x),
            deltas=self.box_head(x),
            references=boxes,
            valid=valid,
            levels=(boxes.shape[1],),
            proposals=proposed,
            key=key,
        )

    @torch.no_grad()
    def _sample(self, boxes: Tensor, valid: Tensor, targets: Targets, key: SampleKey) -> tuple[Tensor, Tensor]:
        """RoIs to learn from, drawn from the proposals and the true boxes: [B, R, 4] and which places are filled."""
        truth, real = pad_boxes(targets)
        # True boxes come last: how many places they take depends on the batch, and a row's draw must not.
        boxes, valid = torch.cat([boxes, truth], 1), torch.cat([valid, real], 1)
        found = self._match(boxes, valid, targets)
        config = self.settings
        priority = priorities(key, boxes.shape[1], "rois")
        positive, is_positive = choose(found.positive, priority, int(config.rois * config.positive_share))
        negative, is_negative = choose(found.background, priority, config.rois)
        rank = torch.arange(negative.shape[1], device=negative.device)
        is_negative &= rank < config.rois - is_positive.sum(1, keepdim=True)
        row, filled = torch.cat([positive, negative], 1), torch.cat([is_positive, is_negative], 1)
        order = filled.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : config.rois]
        row, filled = row.gather(1, order), filled.gather(1, order)
        return boxes.gather(1, row[..., None].expand(-1, -1, 4)), filled

    def _match(self, boxes: Tensor, valid: Tensor, targets: Targets) -> Match:
        threshold = self.settings.foreground_iou
        return match(boxes, valid, targets, foreground_iou=threshold, background_iou=threshold)

    def losses(self, predictions: Predictions, targets: Targets) -> Losses:
        """The proposals' two losses, and ``classification`` and ``box``, divided by the sampled RoIs whatever the loss.

        ``predictions`` must come from a forward pass with targets.
        """
        if predictions.proposals is None or predictions.key is None:
            raise ValueError("these predictions were made without targets")
        config, rois = self.settings, predictions.references
        goal = assign(self._match(rois, predictions.valid, targets), rois, targets, predictions.key)
        deltas = at_least_float32(predictions.deltas[goal.image, goal.row])
        box = config.box.loss_each(deltas, rois[goal.image, goal.row], targets.boxes[goal.box], self.code)
        first = self.proposals.losses(predictions.proposals, targets)
        sampled = predictions.valid.sum().float()
        return Losses(
            sums={
                **first.sums,
                "classification": self.classification.loss_sum(predictions.logits, goal.classes),
                "box": box.sum(),
            },
            counts={**first.counts, "classification": sampled, "box": sampled},
        )

    def decode(self, predictions: Predictions, sizes: Tensor) -> Detections:
        return detect(predictions, sizes, self.settings.decoding, self.classification, self.code)

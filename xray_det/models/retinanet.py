"""RetinaNet (Lin et al. 2017): one dense stage over a feature pyramid.

Shape letters: B images, R anchors of the canvas, A anchors a cell, C classes, K classifier outputs.
"""

import math
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn

from xray_det.data.batch import Targets
from xray_det.errors import InputError
from xray_det.labels.statistics import ClassStatistics
from xray_det.losses import Classification
from xray_det.losses.box import BoxCode, GIoU, SmoothL1
from xray_det.losses.focal import SigmoidFocal
from xray_det.losses.targets import ClassificationLoss, at_least_float32
from xray_det.models.anchors import Anchors, anchor_rows, inside
from xray_det.models.backbones import Backbone, Pyramid
from xray_det.models.decoding import Decoding, detect
from xray_det.models.matcher import assign, match
from xray_det.models.norm import group_norm
from xray_det.models.predictions import Detections, Detector, Losses, Predictions
from xray_det.models.sampling import SampleKey
from xray_det.models.weights import load_backbone

#: Share of the anchors that hold an object, as the classifier starts (the paper's prior).
_OBJECTS = 0.01
#: More layers in a head are a slip of the hand; a billion would be built one by one.
MOST_LAYERS: Final = 100


@dataclass(frozen=True, kw_only=True)
class RetinaNet:
    """Configuration of a RetinaNet; the defaults are the paper's (torchvision's, where the paper is silent).

    Attributes:
        levels: lowest and highest pyramid level, e.g. (3, 7) or (3, 5).
        channels: of the pyramid and the heads.
        head_layers: 3x3 convolutions in each of the two heads, before the last.
        head_norm: group norm in the heads; helps a training from scratch.
        foreground_iou, background_iou: an anchor is positive from the first on and background below the second.
    """

    backbone: Backbone = field(default_factory=Backbone)
    levels: tuple[int, int] = (3, 7)
    channels: int = 256
    head_layers: int = 4
    head_norm: bool = False
    anchors: Anchors = field(default_factory=Anchors)
    classification: Classification = field(default_factory=SigmoidFocal)
    box: SmoothL1 | GIoU = field(default_factory=lambda: SmoothL1(beta=0.0))
    foreground_iou: float = 0.5
    background_iou: float = 0.4
    decoding: Decoding = field(default_factory=Decoding)

    def __post_init__(self) -> None:
        if not 0 < self.background_iou <= self.foreground_iou <= 1:
            raise InputError(
                "foreground_iou, background_iou",
                f"{self.foreground_iou}, {self.background_iou} are out of order",
                "Give 0 < background <= foreground <= 1",
            )
        if self.channels < 1 or not 0 <= self.head_layers <= MOST_LAYERS:
            raise InputError(
                "channels, head_layers",
                f"{self.channels}, {self.head_layers}",
                f"Give positive numbers, at most {MOST_LAYERS} layers",
            )

    def build(self, num_classes: int, statistics: ClassStatistics | None = None) -> "RetinaNetDetector":
        """A detector of ``num_classes`` classes, its backbone filled with ``backbone.weights``.

        Args:
            statistics: of the training data, for a ``classification`` that needs them; None to load a detector.

        Raises:
            InputError: the weights cannot be found or read, or the statistics are not what the loss needs.
        """
        detector = RetinaNetDetector(self, num_classes, statistics)
        detector.loaded = load_backbone(detector.pyramid.body, self.backbone)
        return detector.to(memory_format=torch.channels_last)


class RetinaNetDetector(Detector):
    """See ``RetinaNet``."""

    def __init__(self, config: RetinaNet, num_classes: int, statistics: ClassStatistics | None) -> None:
        super().__init__(config, num_classes)
        self.settings = config
        self.classification: ClassificationLoss = config.classification.bind(num_classes, statistics)
        self.code = BoxCode()
        self.pyramid = Pyramid(config.backbone, levels=config.levels, channels=config.channels, extra="conv")
        per_cell = config.anchors.per_cell()
        self.class_head = _Head(config, per_cell * config.classification.num_outputs(num_classes))
        self.box_head = _Head(config, per_cell * 4)
        with torch.no_grad():
            bias = config.classification.initial_bias(num_classes, _OBJECTS)
            self.class_head.last.load_state_dict({"bias": bias.repeat(per_cell)}, strict=False)

    def class_rows(self) -> dict[str, int]:
        per_cell = self.settings.anchors.per_cell()
        return {"class_head.last.weight": per_cell, "class_head.last.bias": per_cell}

    def forward(
        self, images: Tensor, sizes: Tensor, targets: Targets | None = None, key: SampleKey | None = None
    ) -> Predictions:
        features = self.pyramid(images, sizes)
        grids = [(f.shape[2], f.shape[3]) for f in features]
        anchors = self.settings.anchors.boxes(grids, self.pyramid.strides, images.device)
        outputs = self.settings.classification.num_outputs(self.num_classes)
        per_cell = self.settings.anchors.per_cell()
        return Predictions(
            logits=torch.cat([anchor_rows(self.class_head(f), outputs) for f in features], 1),
            deltas=torch.cat([anchor_rows(self.box_head(f), 4) for f in features], 1),
            references=anchors[None],
            valid=inside(anchors, sizes),
            levels=tuple(rows * columns * per_cell for rows, columns in grids),
            key=key,
        )

    def losses(self, predictions: Predictions, targets: Targets) -> Losses:
        """``classification`` and ``box``, each divided by the positive anchors, whatever the loss (the paper)."""
        config, anchors = self.settings, predictions.references
        found = match(
            anchors,
            predictions.valid,
            targets,
            foreground_iou=config.foreground_iou,
            background_iou=config.background_iou,
            low_quality=True,
        )
        goal = assign(found, anchors, targets, predictions.key)
        deltas = at_least_float32(predictions.deltas[goal.image, goal.row])
        box = config.box.loss_each(deltas, anchors[0, goal.row], targets.boxes[goal.box], self.code)
        positives = found.positive.sum().float()
        return Losses(
            sums={
                "classification": self.classification.loss_sum(predictions.logits, goal.classes),
                "box": box.sum(),
            },
            counts={"classification": positives, "box": positives},
        )

    def decode(self, predictions: Predictions, sizes: Tensor) -> Detections:
        return detect(predictions, sizes, self.settings.decoding, self.classification, self.code)


class _Head(nn.Module):
    """``head_layers`` 3x3 convolutions, shared by all levels, and a last one with ``outputs`` channels."""

    def __init__(self, config: RetinaNet, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(config.head_layers):
            layers.append(nn.Conv2d(config.channels, config.channels, 3, padding=1))
            if config.head_norm:
                layers.append(group_norm(config.channels))
            layers.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*layers)
        self.last = nn.Conv2d(config.channels, outputs, 3, padding=1)
        for module in self.layers:
            if isinstance(module, nn.Conv2d):
                if config.head_norm:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                else:  # the paper's std of 0.01 at its 256 channels; at another width as much signal passes a layer
                    nn.init.normal_(module.weight, std=0.01 * math.sqrt(256 / config.channels))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.last.weight, std=0.01)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.layers(x))
        return out


def slim() -> RetinaNet:
    """For small images, little data and no GPU: ResNet-18, 64 channels, P3 to P5, normalised heads of two layers.

    Learns from scratch in minutes; about 18 images of 160 px a second and thread in bf16 on a busy machine.
    """
    return RetinaNet(backbone=Backbone(name="resnet18"), levels=(3, 5), channels=64, head_layers=2, head_norm=True)

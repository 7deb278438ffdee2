"""What a detector says, what it costs, and what it finds: one type each, the same in every mode.

Shape letters: B images, R rows an image (anchors, proposals or queries), C classes, K classifier outputs, M detections.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xray_det.data.batch import Targets
from xray_det.errors import InputError
from xray_det.models.keys import Loaded
from xray_det.models.sampling import SampleKey


@dataclass(kw_only=True)
class Predictions:
    """Raw outputs of a detector for a batch.

    Row r of image b is [b, r] everywhere: a row's place says which image it belongs to.

    Attributes:
        logits: [B, R, K], in the precision the network ran in.
        deltas: [B, R, 4], boxes relative to ``references`` as the detector's box code writes them.
        references: float32 [B, R, 4] or [1, R, 4], x1 y1 x2 y2 in canvas pixels.
        valid: bool [B, R]; the other rows neither teach nor detect (anchors on padding, places left empty).
        levels: how many rows each pyramid level has, R together.
        proposals: of a two-stage model, what its first stage said (one class: an object).
        key: of the random draws of the model and its losses.
    """

    logits: Tensor
    deltas: Tensor
    references: Tensor
    valid: Tensor
    levels: tuple[int, ...]
    proposals: "Predictions | None" = None
    key: SampleKey | None = None


@dataclass(kw_only=True)
class Losses:
    """Sums over this rank's rows and what each is divided by, under the same names; both add up over ranks.

    The loss of a global batch is sum_name (sums[name] over ranks) / max(1, counts[name] over ranks).

    Attributes:
        sums: float32 [] each, with gradient.
        counts: float32 [] each, without.
    """

    sums: dict[str, Tensor]
    counts: dict[str, Tensor]

    def mean(self) -> dict[str, Tensor]:
        """Each loss of a batch that lies on one rank alone."""
        return {name: total / self.counts[name].clamp(min=1) for name, total in self.sums.items()}

    def weighted(self, weights: Mapping[str, float]) -> "Losses":
        """The same with each named sum times its weight."""
        sums = {name: total * weights[name] if name in weights else total for name, total in self.sums.items()}
        return Losses(sums=sums, counts=self.counts)


def check_loss_weights(weights: Mapping[str, float], terms: Sequence[str]) -> None:
    """Raises InputError for a name that is none of the detector's loss terms, or a weight that cannot be."""
    for name, weight in weights.items():
        if name not in terms:
            raise InputError("loss_weights", f"there is no loss term {name!r}", f"Give {', '.join(terms)}")
        if not 0 <= weight < math.inf:
            raise InputError(f"loss_weights.{name}", f"{weight} is no weight", "Give 0 or more")


@dataclass(kw_only=True)
class Detections:
    """Boxes found in a batch, image after image, by falling score.

    Attributes:
        boxes: float32 [M, 4], x1 y1 x2 y2 in canvas pixels, inside the image.
        scores: float32 [M] in [0, 1].
        labels: int64 [M], unified classes.
        image: int64 [M], image of the batch; never falls.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    image: Tensor

    def to(self, device: torch.device | str) -> "Detections":
        return Detections(
            boxes=self.boxes.to(device),
            scores=self.scores.to(device),
            labels=self.labels.to(device),
            image=self.image.to(device),
        )


class Detector(nn.Module):
    """A detector: ``forward`` predicts, ``losses`` judges, ``decode`` turns predictions into detections.

    ``losses`` and ``decode`` have no parameters of their own, so that only ``forward`` goes through a DDP wrapper.

    Attributes:
        config: the configuration dataclass it was built from.
        num_classes: C.
        loaded: the fate of each key of the backbone's pretrained weights; None without weights.
    """

    def __init__(self, config: Any, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise InputError("num_classes", f"{num_classes} is below 1", "Give a label space with classes")
        self.config = config
        self.num_classes = num_classes
        self.loaded: Loaded | None = None

    def class_rows(self) -> dict[str, int]:
        """Parameters with a row a classifier output -> A: their first axis is [A, K] flattened, A = anchors a cell."""
        raise NotImplementedError

    def forward(
        self, images: Tensor, sizes: Tensor, targets: Targets | None = None, key: SampleKey | None = None
    ) -> Predictions:
        """Predict.

        Args:
            images: uint8 [B, 3, H, W], RGB, the image in the upper left corner.
            sizes: int64 [B, 2], (height, width) of the part of the canvas that is image.
            targets: given for training; a two-stage model then samples rows to learn from.
            key: what random draws depend on; needed with ``targets`` by a model that samples, and by a loss that draws.
        """
        raise NotImplementedError

    def losses(self, predictions: Predictions, targets: Targets) -> Losses:
        raise NotImplementedError

    def decode(self, predictions: Predictions, sizes: Tensor) -> Detections:
        raise NotImplementedError

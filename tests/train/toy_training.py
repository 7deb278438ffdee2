"""A detector and data small enough that a whole training takes milliseconds, for tests of the loop."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from xray_det.data.batch import Batch, Targets
from xray_det.losses import EqualizationV2, Seesaw
from xray_det.losses.targets import RowTargets
from xray_det.models.predictions import Detector, Losses, Predictions
from xray_det.models.sampling import SampleKey, priorities
from xray_det.train.loop import Recipe
from xray_det.train.phase import SGD, Phase

CLASSES = 5


class ToyDetector(Detector):
    """One row an image; says which classes lie in it. Noise keyed by plan position stands for sampled regions."""

    def __init__(self, *, dropout: float = 0.0, unused: bool = False, wide: bool = False) -> None:
        super().__init__(None, CLASSES)
        torch.manual_seed(0)
        self.pyramid = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.dropout = nn.Dropout(dropout)
        # DDP's buckets of 1 and 25 MiB hold a toy whole; wide, it needs several, and DDP sorts them anew
        sides = (8, 700, 700, 700, 8) if wide else ()
        self.wide = nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in pairwise(sides)))
        self.classifier = nn.Linear(8, CLASSES)
        self.boxes = nn.Linear(8, 4)
        if unused:
            self.spare = nn.Linear(8, 8)

    def forward(
        self, images: Tensor, sizes: Tensor, targets: Targets | None = None, key: SampleKey | None = None
    ) -> Predictions:
        features = self.dropout(self.wide(self.pyramid(images.float() / 255).mean((2, 3))))
        if key is not None:
            features = features * (1 + 0.1 * priorities(key, 8, "noise"))
        count = len(images)
        return Predictions(
            logits=self.classifier(features)[:, None],
            deltas=self.boxes(features)[:, None],
            references=torch.zeros(1, 1, 4),
            valid=torch.ones(count, 1, dtype=torch.bool),
            levels=(1,),
        )

    def losses(self, predictions: Predictions, targets: Targets) -> Losses:
        logits = predictions.logits[:, 0].float()[targets.box_image]
        deltas = predictions.deltas[:, 0].float()[targets.box_image]
        classes = nn.functional.binary_cross_entropy_with_logits(logits, targets.classes, reduction="sum")
        count = torch.tensor(float(len(targets.boxes)))
        return Losses(
            sums={"classes": classes, "boxes": (deltas - targets.boxes / 16).abs().sum()},
            counts={"classes": count, "boxes": count},
        )

    def class_rows(self) -> dict[str, int]:
        return {"classifier.weight": 1, "classifier.bias": 1}


class CountingDetector(ToyDetector):
    """Learns classes by a loss that keeps sums over the training: an image's row has the labels of all its boxes."""

    def __init__(self, config: EqualizationV2 | Seesaw) -> None:
        super().__init__()
        self.loss = config.bind(CLASSES, None)
        self.classifier = nn.Linear(8, config.num_outputs(CLASSES))

    def losses(self, predictions: Predictions, targets: Targets) -> Losses:
        labels = torch.zeros(len(predictions.logits), CLASSES)
        labels = labels.index_add_(0, targets.box_image, targets.classes).clamp(max=1)
        holds = labels.any(1)
        (image,) = holds.nonzero(as_tuple=True)
        rows = RowTargets(
            background=~holds[:, None],
            background_known=targets.absence_known,
            image=image,
            row=torch.zeros_like(image),
            values=labels[image],
            known=torch.ones(len(image), CLASSES, dtype=torch.bool),
        )
        count = torch.tensor(float(len(labels)))
        return Losses(
            sums={"classes": self.loss.loss_sum(predictions.logits, rows), "boxes": predictions.deltas.abs().sum()},
            counts={"classes": count, "boxes": count},
        )


class ToyData:
    """``steps`` global batches of ``batch`` images an epoch, made from (phase, epoch, plan position) alone."""

    def __init__(self, *, batch: int = 4, steps: int = 5, rank: int = 0, world: int = 1) -> None:
        self.batch, self.steps, self.rank, self.world = batch, steps, rank, world
        self.served: list[tuple[int, int, int]] = []  # phase, epoch, batch
        self.poisoned: tuple[int, int, int] | None = None

    def steps_per_epoch(self, phase: int) -> int:
        return self.steps

    def batches(self, phase: int, epoch: int, start: int, stop: int) -> Iterator[Batch]:
        own = self.batch // self.world
        for number in range(start, stop):
            self.served.append((phase, epoch, number))
            first = number * self.batch + self.rank * own
            batch = collate([image(phase, epoch, position) for position in range(first, first + own)], first)
            if (phase, epoch, number) == self.poisoned and self.rank == self.world - 1:
                batch.targets.boxes[0, 0] = float("inf")
            yield batch


def image(phase: int, epoch: int, position: int) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 [3, 16, 16], boxes [N, 4], classes [N, C]; every third image has no box."""
    generator = torch.Generator().manual_seed(phase * 1_000_003 + epoch * 10_007 + position)
    pixels = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=generator)
    count = position % 3
    boxes = torch.rand(count, 4, generator=generator) * 16
    return pixels, boxes, torch.randint(0, 2, (count, CLASSES), generator=generator).float()


def collate(images: list[tuple[Tensor, Tensor, Tensor]], first: int) -> Batch:
    counts = torch.tensor([len(boxes) for _, boxes, _ in images])
    count, boxes = len(images), int(counts.sum())
    sizes = torch.full((count, 2), 16)
    return Batch(
        images=torch.stack([pixels for pixels, _, _ in images]),
        sizes=sizes,
        targets=Targets(
            boxes=torch.cat([b for _, b, _ in images]),
            box_image=torch.repeat_interleave(torch.arange(count), counts),
            classes=torch.cat([c for _, _, c in images]),
            classes_known=torch.ones(boxes, CLASSES, dtype=torch.bool),
            region=torch.zeros(boxes, dtype=torch.bool),
            absence_known=torch.ones(count, CLASSES, dtype=torch.bool),
        ),
        image_ids=[str(first + index) for index in range(count)],
        positions=torch.arange(first, first + count),
        scales=torch.ones(count, 2),
        original_sizes=sizes,
    )


def save_weights(model: nn.Module, folder: Path) -> None:
    save_model(model, str(folder / "model.safetensors"))


def recipe(*phases: Phase, **changes: object) -> Recipe:
    chosen = phases or (Phase(epochs=2, lr=0.05, optimizer=SGD()),)
    fingerprints = tuple(f"toy{number}" for number in range(len(chosen) + 1))
    common = {"seed": 3, "checkpoint_every": 2, "classes": tuple("abcde"), "fingerprints": fingerprints}
    return Recipe(**{"phases": chosen, **common, **changes})  # type: ignore[arg-type]

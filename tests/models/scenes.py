"""Small batches with truth for the model tests."""

import torch

from xray_det.data.batch import Targets
from xray_det.models import FasterRCNN, RetinaNet
from xray_det.models.backbones import Backbone
from xray_det.models.rpn import Proposals
from xray_det.models.sampling import SampleKey

CLASSES = 5


def targets(boxes: list[list[list[float]]], *, classes: int = CLASSES, regions: tuple[int, ...] = ()) -> Targets:
    """Boxes an image; box n (counted over the batch) has class n mod C; ``regions`` names those that are regions."""
    image = torch.tensor([b for b, own in enumerate(boxes) for _ in own], dtype=torch.int64)
    region = torch.zeros(len(image), dtype=torch.bool)
    region[list(regions)] = True
    one_hot = torch.nn.functional.one_hot(torch.arange(len(image)) % classes, classes).bool()
    return Targets(
        boxes=torch.tensor([box for own in boxes for box in own], dtype=torch.float32).reshape(-1, 4),
        box_image=image,
        classes=one_hot.float(),
        classes_known=~(one_hot & region[:, None]),
        region=region,
        absence_known=torch.ones(len(boxes), classes, dtype=torch.bool),
    )


def scene(
    images: int, *, height: int = 96, width: int = 128, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, Targets]:
    """Random images of different sizes on one canvas with 0 to 4 boxes each: images, sizes, targets."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8, generator=generator)
    sizes = torch.stack([torch.tensor([height - 8 * (b % 3), width - 16 * (b % 2)]) for b in range(images)])
    boxes = []
    for b in range(images):
        corner = torch.rand(b % 5, 2, generator=generator) * 50
        boxes.append(torch.cat([corner, corner + 12 + torch.rand(b % 5, 2, generator=generator) * 30], 1).tolist())
    return pixels, sizes, targets(boxes)


def key(images: int, *, first: int = 0, epoch: int = 0) -> SampleKey:
    return SampleKey(seed=0, phase=0, epoch=epoch, positions=torch.arange(first, first + images))


def tiny_retinanet() -> RetinaNet:
    return RetinaNet(backbone=Backbone(name="resnet18"), channels=32, head_layers=1, levels=(3, 5))


def tiny_faster_rcnn() -> FasterRCNN:
    proposals = Proposals(candidates_train=100, candidates_test=50, kept_train=60, kept_test=30, sampled=32)
    return FasterRCNN(
        backbone=Backbone(name="resnet18"), channels=32, levels=(3, 5), proposals=proposals, head_channels=64, rois=32
    )

"""Suppression against torchvision's, and against plain loops."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from xray_det.models.suppression import best, suppress

IMAGES = 3


def scene(count: int, *, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes around a few places, scores of which many are equal, classes, images; the last image has few boxes."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randint(0, 4, (count, 2), generator=generator) * 20 + torch.randn(count, 2, generator=generator) * 4
    half = torch.rand(count, 2, generator=generator) * 8 + 4
    boxes = torch.cat([centre - half, centre + half], 1).double()
    scores = torch.randint(0, 50, (count,), generator=generator) / 50
    labels = torch.randint(0, classes, (count,), generator=generator)
    image = torch.randint(0, IMAGES - 1, (count,), generator=generator)
    image[: count // 20] = IMAGES - 1
    return boxes, scores, labels, image


@pytest.mark.parametrize("classes", [1, 5, 200])
@pytest.mark.parametrize("count", [0, 1, 300, 2000])
def test_the_boxes_of_torchvision_stay(count: int, classes: int) -> None:
    boxes, scores, labels, image = scene(count, classes=classes, seed=count)
    group = image * classes + labels
    for iou in (0.3, 0.5, 1.0):
        kept = suppress(boxes, scores, group, iou=iou)
        # shifted by their rank, so that torchvision knows no ties: it does not say how it breaks them
        distinct = scores.double() - torch.arange(count) * 1e-6
        assert kept.tolist() == batched_nms(boxes, distinct, group, iou).tolist()


def plainly(boxes: Tensor, scores: Tensor, labels: Tensor, image: Tensor, iou: float, most: int) -> list[int]:
    """One box after another."""
    overlap, kept = box_iou(boxes, boxes), list[int]()
    for number in range(IMAGES):
        own: list[int] = []
        for row in scores.argsort(descending=True, stable=True).tolist():
            rivals = [other for other in own if labels[other] == labels[row]]
            if image[row] == number and all(overlap[row, other] <= iou for other in rivals):
                own.append(row)
        kept += own[:most]
    return kept


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("most", [1, 7, 30, 1000])
def test_the_best_of_each_image(most: int, classes: int) -> None:
    """With few classes most boxes overlap a better one: an image's best ``4 * most`` do not leave enough."""
    scenes = [scene(400, classes=classes, seed=seed) for seed in range(3)]
    for boxes, scores, labels, image in scenes:
        kept = best(boxes, scores, labels, image, images=IMAGES, iou=0.2, most=most)
        assert kept.tolist() == plainly(boxes, scores, labels, image, 0.2, most)


def test_no_box_at_all() -> None:
    boxes, scores, labels, image = scene(0, classes=1, seed=0)
    assert best(boxes, scores, labels, image, images=IMAGES, iou=0.5, most=5).tolist() == []

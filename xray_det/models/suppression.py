"""Non-maximum suppression of many groups at once.

torchvision's ``batched_nms`` goes through the groups one at a time where there are many boxes, and looks at all boxes
each time: too slow for hundreds of classes and a low score threshold. Letters: M boxes, B images.
"""

import torch
from torch import Tensor


def best(boxes: Tensor, scores: Tensor, labels: Tensor, image: Tensor, *, images: int, iou: float, most: int) -> Tensor:
    """The ``most`` best boxes of each image that suppression class by class leaves.

    Whether a box stays is decided by better ones alone. So an image's best boxes are looked at first, and more of them
    only where too few stay: the number of boxes hardly matters.

    Args:
        boxes: float [M, 4], x1 y1 x2 y2.
        scores: float [M].
        labels: int64 [M].
        image: int64 [M], in [0, B).
        images: B.
        iou: a box is dropped that overlaps more than this with a better one of its class.
        most: boxes of an image that are kept.

    Returns:
        int64 [kept], rows by image, then by falling score; equal scores keep their order.
    """
    group = labels * images + image
    order = scores.argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]
    rank = _rank(image[order])
    waiting = torch.ones(images, dtype=torch.bool, device=boxes.device)
    found, take = [], 4 * most
    while True:
        at = waiting[image[order]] & (rank < take)
        rows = order[at]
        kept = rows[suppress(boxes[rows], scores[rows], group[rows], iou=iou)]
        kept = kept[image[kept].argsort(stable=True)]
        kept = kept[_rank(image[kept]) < most]
        more = image.bincount(minlength=images) > take
        short = waiting & more & (image[kept].bincount(minlength=images) < most)
        found.append(kept[~short[image[kept]]])
        if not short.any():
            kept = torch.cat(found)
            return kept[image[kept].argsort(stable=True)]
        waiting, take = short, 4 * take


def suppress(boxes: Tensor, scores: Tensor, group: Tensor, *, iou: float) -> Tensor:
    """Greedy suppression inside groups: the best box of each stays and drops those that overlap it, round by round.

    All groups take each round together: as many rounds as a group keeps boxes.

    Args:
        boxes: float [M, 4], x1 y1 x2 y2.
        scores: float [M].
        group: int64 [M].
        iou: a box is dropped that overlaps more than this with a better one of its group.

    Returns:
        int64 [kept], rows by falling score; equal scores keep their order.
    """
    by_score = scores.argsort(descending=True, stable=True)
    order = by_score[group[by_score].argsort(stable=True)]
    group, (left, top, right, bottom) = group[order], boxes[order].T.contiguous()
    area = (right - left) * (bottom - top)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    rest = torch.arange(len(order), device=order.device)
    while len(rest):
        own = group[rest]
        first = torch.ones_like(own, dtype=torch.bool)
        first[1:] = own[1:] != own[:-1]
        leaders = rest[first]
        kept[order[leaders]] = True
        rest, better = rest[~first], leaders[(first.cumsum(0) - 1)[~first]]
        width = torch.minimum(right[rest], right[better]) - torch.maximum(left[rest], left[better])
        height = torch.minimum(bottom[rest], bottom[better]) - torch.maximum(top[rest], top[better])
        shared = width.clamp(min=0) * height.clamp(min=0)
        rest = rest[~(shared / (area[rest] + area[better] - shared) > iou)]
    return by_score[kept[by_score]]


def _rank(image: Tensor) -> Tensor:
    """int64 [M], the place of each row among those of its image; ``image`` never falls."""
    return torch.arange(len(image), device=image.device) - torch.searchsorted(image, image)

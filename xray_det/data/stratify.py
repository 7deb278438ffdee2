"""Which images make a small dataset like the large one: each class keeps its share of the boxes, and none is lost."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_det.data.sampling import Floats, ImageClasses, Ints
from xray_det.errors import InputError

#: Exchanges of images are tried so many times at most; each passes over all labels once.
_ROUNDS: Final = 400


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxLabels:
    """The labels of each image's boxes, one entry a (box, label) pair.

    Args:
        labels: int32 [L].
        offsets: int64 [N + 1]; image k has ``labels[offsets[k]:offsets[k + 1]]``.
    """

    labels: npt.NDArray[np.int32]
    offsets: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sums(self, of_label: Floats) -> Floats:
        """The sum over each image's labels: float64 [N]."""
        ends = np.concatenate([[0.0], np.cumsum(of_label[self.labels])])[self.offsets]
        return np.diff(ends)


def choose(boxes: BoxLabels, count: int, *, seed: int) -> Ints:
    """A part of the images in which every class has about its share of the boxes, and every class that occurs an image.

    First an image for each class, the rarest first; then the others evenly along the images ordered by their rarest
    class; then images are exchanged, a few at a time, as long as that lowers sum over classes of (b - t)^2 / t with b
    the boxes of a class and t what its share would be.

    Args:
        count: how many images; 1 to N.
        seed: of the choice among equals.

    Returns:
        int64 [count], image numbers, rising.

    Raises:
        InputError: more images than there are, or too few for the classes.
    """
    if not 1 <= count <= len(boxes):
        raise InputError("images", f"{count} of {len(boxes)}", f"Give 1 to {len(boxes)}")
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(len(boxes)), np.diff(boxes.offsets))
    held = ImageClasses.of(image, boxes.labels, len(boxes))
    taken = np.zeros(len(boxes), bool)
    taken[_one_of_each(held, rng)] = True
    if (least := int(taken.sum())) > count:
        raise InputError(
            "images", f"{count} images cannot hold every class; {least} were found that do", f"Give {least} or more"
        )
    counts = held.counts()
    rank = np.empty(len(counts), np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    rest = rng.permutation(np.flatnonzero(~taken))
    rest = rest[np.argsort(held.fold(rank, np.minimum, len(counts))[rest], kind="stable")]
    taken[rest[((np.arange(count - least) + rng.random()) * (len(rest) / max(count - least, 1))).astype(np.int64)]] = (
        True
    )
    return np.flatnonzero(_exchanged(boxes, held, taken))


def _one_of_each(held: ImageClasses, rng: np.random.Generator) -> list[int]:
    """Images that hold every class that occurs: for each one, the rarest first, unless an earlier choice holds it."""
    counts = held.counts()
    image = np.repeat(np.arange(len(held)), np.diff(held.offsets))
    by_class = image[np.argsort(held.classes, kind="stable")]
    starts = np.concatenate([[0], np.cumsum(counts)])
    missing, chosen = counts > 0, []
    for c in np.argsort(counts, kind="stable").tolist():
        if missing[c]:
            chosen.append(int(by_class[rng.integers(starts[c], starts[c + 1])]))
            missing[held.part(chosen[-1], chosen[-1] + 1).classes] = False
    return chosen


def _exchanged(boxes: BoxLabels, held: ImageClasses, taken: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """``taken`` after exchanges that bring the classes nearer to their shares."""
    total = np.bincount(boxes.labels).astype(np.float64)
    target = total * (taken.sum() / len(taken))
    weight = np.divide(1.0, target, out=np.zeros_like(target), where=target > 0)

    def state(chosen: npt.NDArray[np.bool_]) -> tuple[Floats, float]:
        off = np.bincount(boxes.labels[np.repeat(chosen, np.diff(boxes.offsets))], minlength=len(total)) - target
        return off, float((weight * off**2).sum())

    # what an image's own boxes, c of a class, add to the sum whichever way it moves: sum of c^2 / t
    several = _repeats(boxes, held)
    own = np.diff(np.concatenate([[0.0], np.cumsum(weight[held.classes] * several**2)])[held.offsets])
    off, cost = state(taken)
    together = max(1, int(taken.sum()) // 16)
    for _ in range(_ROUNDS):
        pull = 2 * boxes.sums(weight * off)
        images = np.bincount(held.classes[np.repeat(taken, np.diff(held.offsets))], minlength=len(total))
        free = held.fold(images, np.minimum, 2) > 1  # no class would go with it
        outside, inside = np.flatnonzero(~taken), np.flatnonzero(taken & free)
        together = min(together, len(outside), len(inside))
        if not together:
            break
        moved = taken.copy()
        moved[outside[np.argpartition((own + pull)[outside], together - 1)[:together]]] = True
        moved[inside[np.argpartition((own - pull)[inside], together - 1)[:together]]] = False
        new_off, new_cost = state(moved)
        if new_cost < cost and ((new_off + target > 0) | (total == 0)).all():
            taken, off, cost = moved, new_off, new_cost
        else:
            together //= 2
    return taken


def _repeats(boxes: BoxLabels, held: ImageClasses) -> Ints:
    """How many of an image's labels each entry of ``held.classes`` stands for: int64 [nnz]."""
    image = np.repeat(np.arange(len(boxes)), np.diff(boxes.offsets))
    pairs = np.sort(image << 32 | boxes.labels)
    first = np.flatnonzero(np.diff(pairs, prepend=-1) > 0)
    return np.diff(np.append(first, len(pairs)))

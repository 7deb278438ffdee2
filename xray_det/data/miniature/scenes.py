"""Which objects lie in which image: exact class counts along Zipf's law, dealt at random."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xray_det.data.miniature.glyphs import RELEASES
from xray_det.data.miniature.parameters import Miniature
from xray_det.errors import InputError

SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One image to be rendered.

    Args:
        classes: the class of each object, rows of the line-up.
        seed: of everything random about the image.
        cut: the first object reaches over the image's edge.
    """

    classes: tuple[int, ...]
    seed: tuple[int, ...]
    cut: bool = False


def image_count(parameters: Miniature, release: str, split: str) -> int:
    """Images of one release and split; the first release has the odd one."""
    total = parameters.images if split == "train" else parameters.validation_images
    return (total + 1 - RELEASES.index(release)) // 2


def deal(parameters: Miniature, release: str, split: str) -> list[Scene]:
    """The scenes of one split. Every class, also one that the release does not label, has its share of objects.

    Raises:
        InputError: the images hold too few objects for ``least`` of every class.
    """
    where = (RELEASES.index(release), SPLITS.index(split))
    rng = np.random.default_rng((parameters.seed, 1, *where))
    low, high = parameters.objects
    sizes = rng.integers(low, high + 1, image_count(parameters, release, split))
    zipf = parameters.zipf if split == "train" else parameters.zipf_validation
    counts = class_counts(int(sizes.sum()), parameters.classes, zipf, parameters.least if split == "train" else 0)
    classes = rng.permutation(np.repeat(np.arange(parameters.classes), counts))
    ends = np.cumsum(sizes)
    return [
        Scene(classes=tuple(classes[end - size : end].tolist()), seed=(parameters.seed, 2, *where, number))
        for number, (end, size) in enumerate(zip(ends, sizes, strict=True))
    ]


def class_counts(objects: int, classes: int, zipf: float, least: int) -> npt.NDArray[np.int64]:
    """Objects of each class, int64 [classes]: in proportion to 1 / rank^zipf but not below ``least``, summing up to
    ``objects``; what the least takes comes from the most frequent classes.

    Raises:
        InputError: ``least`` of every class is more than there are objects.
    """
    if least * classes > objects:
        problem = f"{least} objects of each of {classes} classes do not fit into {objects} objects"
        raise InputError("Miniature.least", problem, "Give more images or fewer classes")
    share = np.arange(1, classes + 1) ** -zipf
    exact = np.maximum(objects * share / share.sum(), least)
    free = exact - least
    exact = least + free * ((objects - least * classes) / free.sum()) if free.any() else exact
    counts: npt.NDArray[np.int64] = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: objects - counts.sum()]] += 1
    return counts

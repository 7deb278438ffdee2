"""How often each image is shown: the sampling rules, and what they promise on average. data/plan.py keeps the promise.

Letters: N images of all datasets, N_d of dataset d, C classes, M draws of an epoch (N rounded up to whole batches),
n_i images that hold class i, E[m(x)] how often image x is drawn on average over seeds.

Class balance is computed inside each dataset and scaled to the dataset's share of the draws (the mixing ratio). A rule
gives an image a width, an integer in proportion to E[m(x)] that follows from its own classes and the n_i of the whole
dataset: so a shard computes those of its images alone, and sums of widths are exact in whatever order they are taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from xray_det.data.distinct import distinct
from xray_det.data.ragged import related
from xray_det.errors import InputError

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Integer = TypeVar("Integer", bound=np.integer)


@dataclass(frozen=True, kw_only=True)
class Natural:
    """Every image once, in random order; draws beyond N start the next round through the images."""


@dataclass(frozen=True, kw_only=True)
class SoftBalance:
    """Soft-balance sampling (paper 002, eqs 6-8): lam 0 follows the label counts, 1 is class-aware, above 1 is legal.

    lam = 0 only approximates ``Natural``: it draws images in proportion to their classes, and never an empty one.

    Args:
        lam: a number, or two: lambda in a phase's first epoch and in its last, in even steps between (``at``).
    """

    lam: float | tuple[float, float] = 0.7

    def __post_init__(self) -> None:
        for lam in self.course:
            if not 0 <= lam < float("inf"):
                raise InputError("SoftBalance.lam", f"{lam} is not 0 or more", "Give lambda as 0 to about 1.5")

    @property
    def course(self) -> tuple[float, float]:
        """Lambda in the first and in the last epoch of a phase."""
        return self.lam if isinstance(self.lam, tuple) else (self.lam, self.lam)

    def at(self, epoch: int, epochs: int) -> "SoftBalance":
        """The rule of one epoch of a phase: its lambda is a number."""
        first, last = self.course
        return SoftBalance(lam=first + (last - first) * epoch / max(epochs - 1, 1))


@dataclass(frozen=True, kw_only=True)
class RepeatFactor:
    """Repeat-factor sampling (LVIS): image x has weight max(1, max over its classes of sqrt(threshold / f_i)), where
    f_i is the share of the dataset's images that hold class i. The epoch keeps its M draws."""

    threshold: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError("RepeatFactor.threshold", f"{self.threshold} is not a share", "Give more than 0, up to 1")


@dataclass(frozen=True, kw_only=True)
class Cap:
    """Down-sampling of frequent classes (paper 003): an image whose classes are all held by more than ``max_images``
    images has weight max_images / n_i of its rarest class; every other image has weight 1. Images are dropped, never
    boxes. The epoch keeps its M draws."""

    max_images: int

    def __post_init__(self) -> None:
        if self.max_images < 1:
            raise InputError("Cap.max_images", f"{self.max_images} is below 1", "Give a number of images")


Sampling: TypeAlias = Natural | SoftBalance | RepeatFactor | Cap


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageClasses:
    """Which classes the images of one dataset hold: unified rows of its trained boxes, each at most once an image.

    Args:
        classes: int32 [nnz].
        offsets: int64 [N_d + 1]; image k holds ``classes[offsets[k]:offsets[k + 1]]``.
    """

    classes: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def of(cls, image: npt.NDArray[np.integer], label: npt.NDArray[np.integer], images: int) -> "ImageClasses":
        """From labels and the number of the image that each lies in, both [L], of ``images`` images."""
        pairs = distinct(image.astype(np.int64) << 32 | label)  # one number a pair
        held = np.bincount(pairs >> 32, minlength=images)
        return cls(classes=(pairs & (2**32 - 1)).astype(np.int32), offsets=np.cumsum(np.concatenate([[0], held])))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def part(self, start: int, stop: int) -> "ImageClasses":
        """Images ``start`` to ``stop`` - 1."""
        offsets = self.offsets[start : stop + 1]
        return ImageClasses(classes=self.classes[offsets[0] : offsets[-1]], offsets=offsets - offsets[0])

    def counts(self, num_classes: int = 0) -> Ints:
        """n_i, the number of images that hold class i: int64 [C], at least ``num_classes`` long."""
        return np.bincount(self.classes, minlength=num_classes)

    def fold(self, of_class: npt.NDArray[Integer], ufunc: np.ufunc, empty: int) -> npt.NDArray[Integer]:
        """``ufunc`` over the values of each image's classes, ``empty`` for an image without: [N_d]."""
        values = np.append(of_class[self.classes], of_class.dtype.type(empty))  # the last offset points behind classes
        out: npt.NDArray[Integer] = ufunc.reduceat(values, self.offsets)[:-1]
        out[self.offsets[1:] == self.offsets[:-1]] = empty
        return out

    def restricted(self, stands_for: npt.NDArray[np.bool_]) -> tuple["ImageClasses", Ints]:
        """The images that hold one of some classes, and those classes of them.

        Args:
            stands_for: bool [C, L], the rows of the L classes that an object of each class is counted as.

        Returns:
            the images in rows of the L classes, and their numbers int64 [N'], rising.
        """
        entry, rows = related(self.classes, stands_for)
        image = np.repeat(np.arange(len(self)), np.diff(self.offsets))[entry]
        found = ImageClasses.of(image, rows, len(self))
        held = np.diff(found.offsets) > 0
        return ImageClasses(classes=found.classes, offsets=found.offsets[np.append(True, held)]), np.flatnonzero(held)


def joined(parts: Sequence[ImageClasses]) -> ImageClasses:
    """The images of several parts, one after another."""
    return ImageClasses(
        classes=np.concatenate([np.empty(0, np.int32), *(part.classes for part in parts)]),
        offsets=np.cumsum(np.concatenate([np.zeros(1, np.int64), *(np.diff(part.offsets) for part in parts)])),
    )


def expected_multiplicity(
    datasets: Sequence[ImageClasses], sampling: Sampling, *, draws: int, ratio: Sequence[float] | None = None
) -> Floats:
    """E[m(x)], how often each image is drawn in an epoch of ``draws``, on average over seeds: float64 [N]."""
    shares = whole_draws([len(dataset) for dataset in datasets], ratio, draws)
    if isinstance(sampling, Natural) and ratio is None:
        total = sum(map(len, datasets))
        return np.full(total, draws / total)
    parts = []
    for dataset, share in zip(datasets, shares, strict=True):
        width = widths(dataset, sampling, dataset.counts(), len(dataset)) if share else np.zeros(len(dataset), np.int64)
        parts.append(width * (share / max(int(width.sum()), 1)))
    return np.concatenate(parts)


def exposure(datasets: Sequence[ImageClasses], multiplicity: npt.NDArray[np.number], num_classes: int) -> Floats:
    """How many drawn images hold each class, repeats counted: float64 [C].

    Args:
        multiplicity: [N], expected (``expected_multiplicity``) or of one plan (``np.bincount(plan, minlength=N)``).
            Through co-occurrence the exposure of a class is more than the draws that its own probability asks for.
    """
    out, first = np.zeros(num_classes), 0
    for dataset in datasets:
        weight = np.repeat(multiplicity[first : first + len(dataset)], np.diff(dataset.offsets))
        out += np.bincount(dataset.classes, weights=weight, minlength=num_classes)
        first += len(dataset)
    return out


def class_probability(counts: npt.NDArray[np.integer], lam: float) -> Floats:
    """P_s*(i), eqs 6-8: (1/C)^lam (n_i / sum n)^(1 - lam), normalised over the classes that occur: float64 [C].

    The factor (1/C)^lam is the same for all classes and cancels. Classes without an image get 0 at every lam.
    """
    out = np.zeros(len(counts))
    if (occurring := counts > 0).any():
        power = (1 - lam) * np.log(counts[occurring])
        out[occurring] = np.exp(power - power.max())  # so that no lam overflows
        out /= out.sum()
    return out


def widths(images: ImageClasses, sampling: Sampling, counts: Ints, total: int) -> Ints:
    """Integers in proportion to the images' E[m(x)] under a rule: int64 [n]; over a dataset they sum to 2^62 at most.

    Args:
        images: any part of a dataset.
        counts: int64 [C], n_i over the whole dataset.
        total: N_d, images of the whole dataset.

    Raises:
        InputError: a class balance, and no image of the dataset holds a class.
    """
    held = np.maximum(counts, 1)
    if isinstance(sampling, Natural):
        return np.full(len(images), 2**62 // total)
    if isinstance(sampling, SoftBalance):
        if not counts.any():
            problem = "no image of a dataset holds a labelled object, so no class can be drawn"
            raise InputError("SoftBalance", problem, "Use Natural, or give that dataset the ratio 0")
        # a class by P_s*, then one of its n_i images: E[m(x)] = M * sum over i in x of P_s*(i) / n_i
        first, last = sampling.course
        if first != last:
            raise InputError("SoftBalance.lam", f"moves from {first} to {last}", "Plan an epoch with SoftBalance.at")
        of_class = class_probability(counts, first) / held
        return images.fold((of_class * 2.0**62).round().astype(np.int64), np.add, 0)
    if isinstance(sampling, RepeatFactor):
        of_class = np.maximum(np.sqrt(sampling.threshold * total / held), 1.0)
    else:
        of_class = np.minimum(sampling.max_images / held, 1.0)
    unit = 2.0**62 / (total * max(of_class.max(initial=0.0), 1.0))
    return images.fold((of_class * unit).astype(np.int64), np.maximum, int(unit))


def whole_draws(sizes: Sequence[int], ratio: Sequence[float] | None, draws: int) -> list[int]:
    """The draws of each dataset, by largest remainder: the same in every epoch.

    Args:
        sizes: images of each dataset.
        ratio: the share of each (any scale); None: in proportion to its images.

    Raises:
        InputError: no images, a ratio that does not fit, or draws from a dataset without images.
    """
    images = np.array(sizes, np.float64)
    if not images.sum():
        raise InputError("plan", "there are no images", "Choose a dataset and split that have some")
    weights = images if ratio is None else np.array(ratio, np.float64)
    if weights.shape != images.shape or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum():
        problem = f"{ratio} does not fit {len(images)} datasets"
        raise InputError("ratio", problem, "Give one number of 0 or more a dataset, not all 0")
    if (empty := np.flatnonzero((weights > 0) & (images == 0))).size:
        raise InputError("ratio", f"dataset number {empty[0]} has no images to draw", "Give it the ratio 0")
    exact = draws * (weights / weights.sum())
    whole = np.floor(exact)
    order = np.argsort(np.round(whole - exact, 9), kind="stable")  # equal remainders: the dataset that is named first
    whole[order[: draws - int(whole.sum())]] += 1
    return [int(share) for share in whole]

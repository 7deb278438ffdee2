"""The plan: which images an epoch shows, and in which order. A pure function; it knows no worker and no world size.

Letters: N images of all datasets, N_d of dataset d, C classes, M draws of an epoch (N rounded up to whole batches),
n_i images that hold class i, E[m(x)] how often image x is drawn on average over seeds.

Every rule gives each image an expected multiplicity; the plan then draws each image floor(E) or ceil(E) times, so that
what a rule promises on average nearly holds in every single epoch. Class balance is computed inside each dataset and
scaled to the dataset's share of the draws (the mixing ratio).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from xray_det.errors import InputError

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Natural:
    """Every image once, in random order; draws beyond N start the next round through the images."""


@dataclass(frozen=True, kw_only=True)
class SoftBalance:
    """Soft-balance sampling (paper 002, eqs 6-8): lam 0 follows the label counts, 1 is class-aware, above 1 is legal.

    lam = 0 only approximates ``Natural``: it draws images in proportion to their classes, and never an empty one.
    """

    lam: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.lam < float("inf"):
            raise InputError("SoftBalance.lam", f"{self.lam} is not 0 or more", "Give lambda as 0 to about 1.5")


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

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def counts(self, num_classes: int = 0) -> Ints:
        """n_i, the number of images that hold class i: int64 [C], at least ``num_classes`` long."""
        return np.bincount(self.classes, minlength=num_classes)


def plan(
    datasets: Sequence[ImageClasses],
    sampling: Sampling,
    *,
    ratio: Sequence[float] | None = None,
    batch: int,
    seed: int,
    phase: int,
    epoch: int,
) -> Ints:
    """The images of an epoch in order.

    Args:
        datasets: their images are numbered through, in this order.
        ratio: the share of the draws that each dataset gets (any scale); None: in proportion to its images.
        batch: images of a global batch, over all workers.
        seed, phase, epoch: 0 or more; together with the other arguments they determine the plan.

    Returns:
        int64 [M]: image numbers; M is N rounded up to a multiple of ``batch``. An image is drawn floor or ceil of its
        expected number of times, its repeats spread over the epoch. With ``Natural`` and no ratio the first N are a
        permutation of all images.

    Raises:
        InputError: no images, a ratio that does not fit, or a dataset without labels under a class balance.
    """
    if batch < 1 or min(seed, phase, epoch) < 0:
        numbers = f"batch {batch}, seed {seed}, phase {phase}, epoch {epoch}"
        raise InputError("plan", f"{numbers} must be 0 or more, and the batch 1 or more", "Give other numbers")
    total = sum(map(len, datasets))
    draws = -(-total // batch) * batch
    shares = _draws(datasets, ratio, draws)
    if isinstance(sampling, Natural) and ratio is None:  # one sequence through everything
        shares, datasets = [draws], [ImageClasses(classes=np.empty(0, np.int32), offsets=np.zeros(total + 1, np.int64))]
    images, places, first = [], [], 0
    for number, (dataset, share) in enumerate(zip(datasets, shares, strict=True)):
        if share:
            key = (seed, phase, number)
            if isinstance(sampling, Natural):
                image, place = _rounds(len(dataset), share, key, epoch)
            else:
                image, place = _resampled(dataset, share, sampling, np.random.default_rng((*key, epoch)))
            images.append(image + first)
            places.append(place)
        first += len(dataset)
    # Places lie in [0, 1): sorting them mixes the datasets evenly and puts each copy where it belongs.
    return np.concatenate(images)[np.argsort(np.concatenate(places), kind="stable")]


def expected_multiplicity(
    datasets: Sequence[ImageClasses], sampling: Sampling, *, draws: int, ratio: Sequence[float] | None = None
) -> Floats:
    """E[m(x)], how often each image is drawn in an epoch of ``draws``, on average over seeds: float64 [N]."""
    shares = _draws(datasets, ratio, draws)
    if isinstance(sampling, Natural) and ratio is None:
        total = sum(map(len, datasets))
        return np.full(total, draws / total)
    parts = [_expected(d, sampling, share) for d, share in zip(datasets, shares, strict=True)]
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


def _draws(datasets: Sequence[ImageClasses], ratio: Sequence[float] | None, draws: int) -> list[int]:
    """Whole draws of each dataset, by largest remainder: the same in every epoch."""
    sizes = np.array([len(dataset) for dataset in datasets], np.float64)
    if not sizes.sum():
        raise InputError("plan", "there are no images", "Choose a dataset and split that have some")
    weights = sizes if ratio is None else np.array(ratio, np.float64)
    if weights.shape != sizes.shape or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum():
        problem = f"{ratio} does not fit {len(sizes)} datasets"
        raise InputError("ratio", problem, "Give one number of 0 or more a dataset, not all 0")
    if (empty := np.flatnonzero((weights > 0) & (sizes == 0))).size:
        raise InputError("ratio", f"dataset number {empty[0]} has no images to draw", "Give it the ratio 0")
    exact = draws * (weights / weights.sum())
    whole = np.floor(exact)
    order = np.argsort(np.round(whole - exact, 9), kind="stable")  # equal remainders: the dataset that is named first
    whole[order[: draws - int(whole.sum())]] += 1
    return [int(share) for share in whole]


def _expected(dataset: ImageClasses, sampling: Sampling, draws: int) -> Floats:
    """E[m(x)] in one dataset, summing to ``draws``: float64 [N_d]."""
    if not draws:
        return np.zeros(len(dataset))
    counts = dataset.counts()
    if isinstance(sampling, Natural):
        weight = np.ones(len(dataset))
    elif isinstance(sampling, SoftBalance):
        if not len(dataset.classes):
            problem = "no image of a dataset holds a labelled object, so no class can be drawn"
            raise InputError("SoftBalance", problem, "Use Natural, or give that dataset the ratio 0")
        # a class by P_s*, then one of its n_i images: E[m(x)] = M * sum over i in x of P_s*(i) / n_i
        weight = _fold(dataset, class_probability(counts, sampling.lam) / np.maximum(counts, 1), np.add, 0.0)
    elif isinstance(sampling, RepeatFactor):
        factor = np.sqrt(sampling.threshold * len(dataset) / np.maximum(counts, 1))
        weight = np.maximum(_fold(dataset, factor, np.maximum, 1.0), 1.0)
    else:
        weight = _fold(dataset, np.minimum(sampling.max_images / np.maximum(counts, 1), 1.0), np.maximum, 1.0)
    expected: Floats = weight * (draws / weight.sum())
    return expected


def _fold(dataset: ImageClasses, of_class: npt.NDArray[np.generic], ufunc: np.ufunc, empty: float) -> Floats:
    """``ufunc`` over the values of each image's classes, ``empty`` for an image without: [N_d]."""
    out = np.full(len(dataset), empty, of_class.dtype)
    held = np.diff(dataset.offsets) > 0
    if held.any():
        out[held] = ufunc.reduceat(of_class[dataset.classes], dataset.offsets[:-1][held])
    return out


def _resampled(dataset: ImageClasses, draws: int, sampling: Sampling, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Systematic resampling: int64 [draws] images and their places in [0, 1).

    The images stand in a row, by their rarest class, ties shuffled, each as wide as its expectation; one random comb
    with teeth 1 apart is laid over the row. So an image, and nearly so the images of a rare class together, gets floor
    or ceil of its expectation. One number (where a part of the row begins) lets a shard do its part alone.
    """
    expected = _expected(dataset, sampling, draws)
    counts = dataset.counts()
    rank = np.empty(len(counts), np.uint16 if len(counts) < 65535 else np.int64)  # radix sort of the former
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    rarest = _fold(dataset, rank, np.minimum, len(counts))
    shuffled = rng.permutation(len(dataset))
    row = shuffled[np.argsort(rarest[shuffled], kind="stable")]
    ends = np.cumsum(expected[row])
    ends[ends == ends[-1]] = draws  # whatever the rounding; images without width come last and get nothing
    times = np.diff(np.minimum(np.floor(ends + rng.random()), draws), prepend=0).astype(np.int64)
    image = np.repeat(row, times)
    # Copy j of m lies at (j + u) / m: m copies are 1 / m apart, and a single one lies anywhere.
    copy = np.arange(draws) - np.repeat(np.cumsum(times) - times, times)
    return image, (copy + np.repeat(rng.random(len(row)), times)) / np.repeat(times, times)


def _rounds(images: int, draws: int, key: tuple[int, ...], epoch: int) -> tuple[Ints, Floats]:
    """Without replacement, round after round: int64 [draws] images and their places in [0, 1).

    The last round is partial: it takes the next ``draws mod images`` of an order that stays through the phase's
    epochs, so that over the epochs every image has its turn equally often.
    """
    rounds, rest = divmod(draws, images)
    rng = np.random.default_rng((*key, epoch))
    half = rng.integers(0, 2, images)
    turn = np.random.default_rng(key).permutation(images)[(epoch * rest + np.arange(rest)) % images]
    half[turn] = 0
    # An image keeps its half of every round, so its repeats are half a round apart or more.
    at = [number + (half + rng.random(images)) / 2 for number in range(rounds)]
    at.append(rounds + rng.random(rest) * (rest / images))
    every = np.tile(np.arange(images), rounds)
    return np.concatenate([every, turn]), np.concatenate(at) * (images / draws)

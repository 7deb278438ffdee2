"""The plan: which images an epoch shows, and in which order. A pure function; it knows no worker and no world size.

A rule (data/sampling.py) promises each image an expected number of draws; the plan draws it floor or ceil of that many
times, so that what holds on average nearly holds in every single epoch.

An epoch is drawn by parts, any runs of images: shards on many machines, or blocks that bound the memory of one. A part
needs its own images, a ``Drawing`` (the n_i, the rule, the seed) and where in the row below its images begin, one
number a group. However the images are cut, the parts together are the same plan, bit for bit:

    drawing, = drawings([counts], [images], rule, ...)                  # from sums over the shards
    row = drawing.row(shard, start)                                     # each shard, once a phase
    begins = before([row.tally for ...])                                # from one number a group and shard
    draws = drawing.draws(row, begins[number])                          # each shard, each epoch
    plan = in_order([draws for ...])
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_det.data.randomness import Key, Purpose, uniforms
from xray_det.data.sampling import ImageClasses, Ints, Natural, Sampling, whole_draws, widths
from xray_det.errors import InputError

Words = npt.NDArray[np.uint64]

#: Images that are drawn together in memory: large enough for numpy, small enough for a processor's cache.
BLOCK: Final = 2**17
#: Steps of this share of a turn fill a circle as evenly as any (the golden ratio).
_GOLDEN: Final = (math.sqrt(5) - 1) / 2
_PLACES: Final = 2**32


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """The images of a part in the row's order; by ``Natural`` in published order, without widths and groups.

    Attributes:
        start: number of the part's first image among all images.
        image: int32 [n], numbers within the part.
        ends: int64 [n], where each image ends in the part's own row.
        heads: int64 [G + 1], where in ``image`` each group begins.
    """

    start: int
    image: npt.NDArray[np.int32]
    ends: Ints
    heads: Ints

    @property
    def tally(self) -> Ints:
        """The widths of the images, summed by group: int64 [G]."""
        return np.diff(np.concatenate([[0], self.ends])[self.heads])


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """How the images of one dataset are drawn in one epoch: all that a part needs to know beside its own images.

    By ``Natural`` they are drawn without replacement, round after round. By any other rule they stand in a row, each
    as wide as its expectation, and a comb with teeth 1 apart is laid over it, one draw a tooth (systematic resampling).
    In the row images with the same rarest class stand together, so that not only an image but nearly also the images
    of a rare class together get floor or ceil of their expectation. Among these a random half comes first, each half
    in published order: neighbours in the row are not the neighbours of a video, and no common step of the order
    remains. The row stays through a phase while the comb moves on in even steps: over the epochs images take turns.

    Attributes:
        sampling: the rule.
        counts: int64 [C], n_i.
        first: number of the dataset's first image among all images; images: how many it has.
        size: draws of an epoch.
        number: of the dataset.
        key: seed, phase, epoch.
    """

    sampling: Sampling
    counts: Ints
    first: int
    images: int
    size: int
    number: int
    key: Key

    @property
    def groups(self) -> int:
        """G: two for each rarest class and for images without one; none by ``Natural``."""
        return 0 if isinstance(self.sampling, Natural) else 2 * (len(self.counts) + 1)

    def row(self, part: ImageClasses, start: int) -> Row:
        """Line up the images of a part; the same in all epochs of a phase with one lambda.

        Args:
            start: number of the part's first image among all images.
        """
        if not self.groups or not self.size:
            heads = np.zeros(self.groups + 1, np.int64)
            return Row(start=start, image=np.arange(len(part), dtype=np.int32), ends=heads[:0], heads=heads)
        kind: type[np.integer] = np.uint16 if self.groups < 2**16 else np.int64
        rank = np.empty(len(self.counts), kind)
        rank[np.argsort(self.counts, kind="stable")] = np.arange(len(self.counts))
        phase = Key(seed=self.key.seed, phase=self.key.phase)
        half = _uniforms(phase, Purpose.ROW, start, len(part)) < 0.5
        group = 2 * part.fold(rank, np.minimum, len(self.counts)) + half
        image = np.argsort(group, kind="stable")  # a radix sort, as groups are 16-bit numbers
        ends = np.cumsum(widths(part, self.sampling, self.counts, self.images)[image])
        heads = np.cumsum(np.concatenate([[0], np.bincount(group, minlength=self.groups)]))
        return Row(start=start, image=image.astype(np.int32), ends=ends, heads=heads)

    def draws(self, row: Row, before: Ints) -> Words:
        """The draws of a part's images, in no order: uint64, the place in the epoch in the upper half, 2^32 places an
        epoch, the image in the lower.

        Args:
            before: int64 [G + 1], where in the whole row the part's images of each group begin, and its length.
        """
        if not self.size:
            return np.zeros(0, np.uint64)
        if isinstance(self.sampling, Natural):
            return self._rounds(row.start, len(row.image))
        own = np.concatenate([[0], row.ends])
        shift = np.repeat(before[:-1] - own[row.heads[:-1]], np.diff(row.heads))
        teeth = self._teeth(row.ends + shift, before[-1])
        times = teeth - self._teeth(own[:-1] + shift, before[-1])
        image, times = row.image[times > 0], times[times > 0]
        # Copy j of m lies at (j + u) / m: m copies are 1 / m apart, and a single one lies anywhere.
        copy = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        u = (_uniforms(self.key, Purpose.PLACE, row.start, len(row.image))[image] * _PLACES).astype(np.int64)
        place = (copy * _PLACES + np.repeat(u, times)) // np.repeat(times, times)
        return _packed(place, np.repeat(image + row.start, times))

    def _teeth(self, at: Ints, length: np.int64) -> Ints:
        """How many teeth of the comb lie before a point of the row."""
        start = uniforms(Key(seed=self.key.seed, phase=self.key.phase), Purpose.COMB, np.array([self.number]), 1)
        offset = (start.item() + self.key.epoch * _GOLDEN) % 1.0
        teeth: Ints = np.minimum(np.floor(at / length * self.size + offset), self.size).astype(np.int64)
        return teeth

    def _rounds(self, start: int, images: int) -> Words:
        """Without replacement, round after round.

        The last round is partial: it takes the next ``size mod images`` of an order that stays through the phase's
        epochs, so that over the epochs every image has its turn equally often.
        """
        rounds, rest = divmod(self.size, self.images)
        rng = np.random.default_rng((self.key.seed, self.key.phase, self.number))
        step, begin = _coprime(self.images, rng), int(rng.integers(self.images))
        number = np.arange(start - self.first, start - self.first + images)
        turn = (number * step + begin - self.key.epoch * rest) % self.images < rest
        u = uniforms(self.key, Purpose.PLACE, np.arange(start, start + images), rounds + 2)
        # An image keeps its half of every round, so its repeats are half a round apart or more.
        half = (u[:, -1] < 0.5) & ~turn
        at = (half[:, None] + u[:, :-1]) / 2
        at[:, -1] = u[:, -2] * (rest / self.images)
        # Rounds do not touch: the last place of one lies before the first of the next.
        length = _PLACES * self.images // self.size
        place = np.arange(rounds + 1) * _PLACES * self.images // self.size + (at * (length - 1)).astype(np.int64)
        drawn = np.ones((images, rounds + 1), bool)
        drawn[:, -1] = turn
        return _packed(place[drawn], np.repeat(np.arange(start, start + images), drawn.sum(axis=1)))


def drawings(
    counts: Sequence[Ints],
    images: Sequence[int],
    sampling: Sampling,
    *,
    ratio: Sequence[float] | None = None,
    batch: int,
    seed: int,
    phase: int,
    epoch: int,
) -> list[Drawing]:
    """One drawing a dataset.

    Args:
        counts: int64 [C] a dataset: n_i.
        images: N_d of each dataset.
        ratio, batch, seed, phase, epoch: see ``plan``, and for what it raises.
    """
    if batch < 1 or min(seed, phase, epoch) < 0:
        numbers = f"batch {batch}, seed {seed}, phase {phase}, epoch {epoch}"
        raise InputError("plan", f"{numbers} must be 0 or more, and the batch 1 or more", "Give other numbers")
    total, key = sum(images), Key(seed=seed, phase=phase, epoch=epoch)
    size = -(-total // batch) * batch
    shares = whole_draws(images, ratio, size)
    if isinstance(sampling, Natural) and ratio is None:  # one sequence through everything
        return [
            Drawing(sampling=sampling, counts=n, first=0, images=total, size=size, number=0, key=key) for n in counts
        ]
    first = np.cumsum([0, *images]).tolist()
    return [
        Drawing(sampling=sampling, counts=n, first=first[d], images=images[d], size=shares[d], number=d, key=key)
        for d, n in enumerate(counts)
    ]


def before(tallies: Sequence[Ints]) -> Ints:
    """Where in the row each part's images of each group begin, and the length of the row: int64 [S, G + 1].

    Args:
        tallies: int64 [G] of each of the S parts of a dataset, in order.
    """
    table = np.stack(tallies)
    ends = np.cumsum(table.T).reshape(table.T.shape).T  # groups one after another, in each the parts
    return np.column_stack([ends - table, np.full(len(table), table.sum())])


def in_order(draws: Sequence[Words]) -> Ints:
    """The draws of all parts of all datasets as image numbers in the epoch's order: int64 [M]."""
    words = np.concatenate(draws)
    words.sort()
    words &= np.uint64(_PLACES - 1)
    return words.view(np.int64)


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
    counts, images = [dataset.counts() for dataset in datasets], [len(dataset) for dataset in datasets]
    of_dataset = drawings(counts, images, sampling, ratio=ratio, batch=batch, seed=seed, phase=phase, epoch=epoch)
    draws, first = [], 0
    for dataset, drawing in zip(datasets, of_dataset, strict=True):
        starts = range(0, max(len(dataset), 1), BLOCK)
        rows = [drawing.row(dataset.part(start, start + BLOCK), first + start) for start in starts]
        begins = before([row.tally for row in rows])
        draws += [drawing.draws(row, begin) for row, begin in zip(rows, begins, strict=True)]
        first += len(dataset)
    return in_order(draws)


def _uniforms(key: Key, purpose: Purpose, start: int, images: int) -> npt.NDArray[np.float64]:
    """One number in [0, 1) an image; a counter value yields the numbers of four neighbours."""
    quads = np.arange(start // 4, -(-(start + images) // 4))
    return uniforms(key, purpose, quads, 4).reshape(-1)[start % 4 : start % 4 + images]


def _packed(place: Ints, image: Ints) -> Words:
    return (place << 32 | image).view(np.uint64)


def _coprime(number: int, rng: np.random.Generator) -> int:
    """A random number from 1 to ``number`` that has no common divisor with it."""
    while math.gcd(found := int(rng.integers(1, number + 1)), number) > 1:
        pass
    return found

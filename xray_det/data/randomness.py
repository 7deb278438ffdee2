"""Random numbers as a function of a key: seed, phase, epoch, position in the plan, purpose. Nothing is ever saved.

Philox is a counter-based generator: number k of position p is read off directly, whatever was drawn before, by
whichever process. So one image is augmented alike on every rank, in every world size, after every restart.
"""

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np

from xray_det.errors import InputError


class Purpose(IntEnum):
    """What the numbers are for; each purpose has a stream of its own."""

    GEOMETRY = 0
    CROP = 1
    PHOTOMETRIC = 2
    ROW = 3
    COMB = 4
    PLACE = 5


@dataclass(frozen=True, kw_only=True)
class Key:
    """Of one epoch: ``seed`` of the experiment, ``phase`` and ``epoch`` counted from 0."""

    seed: int
    phase: int = 0
    epoch: int = 0

    def __post_init__(self) -> None:
        for name, bits in (("seed", 64), ("phase", 31), ("epoch", 32)):
            value = getattr(self, name)
            if not 0 <= value < 2**bits:
                raise InputError(name, f"{value} lies outside 0 to 2**{bits} - 1", "Give a number inside")


def uniforms(key: Key, purpose: Purpose, positions: np.ndarray, count: int, *, attempt: int = 0) -> np.ndarray:
    """``count`` numbers in [0, 1) for each position.

    Args:
        positions: int64 [P], places in the plan; runs of consecutive ones are drawn in one call.
        attempt: a stream of its own for each attempt at the same thing.

    Returns:
        float64 [P, count].
    """
    blocks = -(-count // 4)  # one counter value yields four 64-bit words
    words = np.empty((len(positions), blocks * 4), np.uint64)
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    bounds = [0, *breaks.tolist(), len(positions)]
    for start, stop in pairwise(bounds):
        if start == stop:
            continue
        counter = np.array([int(positions[start]) * blocks, int(purpose), attempt, 0], np.uint64)
        philox = np.random.Philox(counter=counter, key=np.array([key.seed, key.phase << 32 | key.epoch], np.uint64))
        words[start:stop] = philox.random_raw((stop - start) * blocks * 4).reshape(stop - start, -1)
    return (words[:, :count] >> np.uint64(11)) * 2.0**-53

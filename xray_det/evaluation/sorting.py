"""Stable orders by counting: on millions of numbers a third to a half of the time of numpy's stable sort.

numpy counts (radix sort) only numbers of up to 16 bits; longer ones are sorted here 16 bits at a time, the last first.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def rising(numbers: NDArray[np.integer]) -> Ints:
    """int64 [M], the rows by rising number; equal ones as they stand.

    Args:
        numbers: [M], none below 0.
    """
    order = np.arange(len(numbers))
    if not len(numbers) or np.all(numbers[1:] >= numbers[:-1]):
        return order
    for bits in range(0, int(numbers.max()).bit_length(), 16):
        digits = (numbers >> numbers.dtype.type(bits)).astype(np.uint16)
        if digits.min() != digits.max():  # the last digits of what was float32 are all 0
            order = order[np.argsort(digits[order], kind="stable")]
    return order


def falling(scores: Floats) -> Ints:
    """int64 [M], the rows by falling score; equal ones as they stand.

    Args:
        scores: float64 [M], none NaN.
    """
    bits = (scores + 0.0).view(np.uint64)  # -0 becomes 0
    sign = np.uint64(1 << 63)
    # as numbers the bits of floats rise with them above 0, and fall below
    return rising(np.where(bits & sign, bits, ~bits & ~sign))

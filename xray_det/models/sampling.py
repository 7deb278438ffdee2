"""Random choice of rows, the same whatever the device, the number of ranks, or what was drawn before.

Every draw is a hash of (seed, phase, epoch, plan position, row): nothing has a state that a resume would need.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SampleKey:
    """What the random draws for a batch depend on.

    Attributes:
        seed, phase, epoch: of the training.
        positions: int64 [B], each image's place in the epoch's plan.
    """

    seed: int
    phase: int
    epoch: int
    positions: Tensor


def priorities(key: SampleKey, rows: int, stream: str) -> Tensor:
    """float32 [B, rows], uniform in [0, 1); ``stream`` names the purpose, so that purposes draw independently."""
    text = f"{key.seed}/{key.phase}/{key.epoch}/{stream}".encode()
    salt = int.from_bytes(hashlib.sha256(text).digest()[:4], "little")
    image = _mix(_mix((key.positions + salt) & _LOW) + (key.positions >> 32 & _LOW) & _LOW)
    row = torch.arange(rows, device=key.positions.device)
    return (_mix((image[:, None] + row * 0x9E3779B1) & _LOW) >> 8).float() * 2.0**-24


def choose(candidates: Tensor, priority: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Draw up to ``count`` candidates of every image.

    Args:
        candidates: bool [B, R].
        priority: float32 [B, R] in [0, 1); the highest are taken.

    Returns:
        int64 [B, k] rows by falling priority, k = min(count, R), and bool [B, k]: which of them are candidates at
        all (candidates come first).
    """
    value, row = torch.where(candidates, priority, -1.0).topk(min(count, candidates.shape[1]), dim=1)
    return row, value >= 0


_LOW = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """A 32-bit finaliser on int64 that hold 32 bits; the products fit into 63."""
    for _ in range(2):
        x = (x ^ (x >> 16)) * 0x45D9F3B & _LOW
    return x ^ (x >> 16)

"""Normalisation for small per-device batches: group, frozen batch statistics, or synchronised batch statistics."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from xray_det.errors import InputError
from xray_det.losses.targets import at_least_float32

Norm = Literal["group", "frozen", "sync"]


def norm_layer(norm: Norm) -> Callable[[int], nn.Module]:
    """channels -> layer. ``frozen`` layers work only after ``fold_frozen``."""
    layers: dict[Norm, Callable[[int], nn.Module]] = {"group": group_norm, "frozen": FrozenNorm, "sync": SyncNorm}
    return layers[norm]


class GroupNorm(nn.GroupNorm):
    """Never in bfloat16, as autocast has it on CUDA; on a CPU that gradient takes several times as long."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(at_least_float32(input)).to(input.dtype)


def group_norm(channels: int) -> GroupNorm:
    """Up to 32 groups, of at least 4 channels each where the number of channels allows it."""
    groups = math.gcd(32, channels)
    while groups > 1 and channels // groups < 4:
        groups //= 2
    return GroupNorm(groups, channels)


class SyncNorm(nn.SyncBatchNorm):
    """Batch norm with statistics over all ranks. PyTorch has it for CUDA alone.

    Raises:
        InputError: trained on another device.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and not input.is_cuda:
            raise InputError(
                "norm",
                f"sync statistics exist on CUDA devices alone, this is {input.device.type}",
                'Give norm "group", or "frozen" with pretrained weights',
            )
        return super().forward(input)


class FrozenNorm(nn.Module):
    """Batch norm with statistics and affine that never change; keys as ``nn.BatchNorm2d`` writes them.

    It only holds its numbers: the convolution before it applies them (``fold_frozen``), which saves two passes over
    every feature map.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def scale_shift(self) -> tuple[Tensor, Tensor]:
        """The norm as x -> x * scale + shift, float32 [channels] each."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, input: Tensor) -> Tensor:
        return input


class _FoldedConv(nn.Conv2d):
    """A convolution that applies the ``FrozenNorm`` after it; its parameter stays the plain weight."""

    _norm: tuple[FrozenNorm]  # in a tuple: the norm is registered where torchvision's names expect it, not here

    def forward(self, input: Tensor) -> Tensor:
        scale, shift = (each[:, None, None, None] for each in self._norm[0].scale_shift())
        height, width = (side // stride for side, stride in zip(input.shape[2:], self.stride, strict=True))
        if self.weight.numel() <= input.shape[0] * self.out_channels * height * width:
            folded: Tensor = self._conv_forward(input, self.weight * scale, shift.flatten())
            return folded
        # Late layers have more weights than outputs, and then one pass over the outputs is the cheaper one.
        output: Tensor = self._conv_forward(input, self.weight, None)
        scale, shift = (each.transpose(0, 1).to(output.dtype) for each in (scale, shift))
        return torch.addcmul(shift, output, scale)


def fold_frozen(module: nn.Module) -> None:
    """Let every convolution apply the ``FrozenNorm`` registered right after it; changes ``module`` in place.

    Raises:
        ValueError: a frozen norm follows no convolution without bias.
    """
    for parent in module.modules():
        previous: nn.Module | None = None
        for name, child in parent.named_children():
            if isinstance(child, FrozenNorm):
                if type(previous) is not nn.Conv2d or previous.bias is not None:
                    raise ValueError(f"frozen norm {name} follows no plain convolution")
                previous.__class__ = _FoldedConv
                previous._norm = (child,)  # type: ignore[assignment]
            previous = child

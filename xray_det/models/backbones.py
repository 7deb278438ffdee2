"""Image -> feature pyramid: a torchvision classification network's stages under torchvision's FPN.

Level l has a stride of 2^l pixels: P3 sees an 800 px image as 100 cells.

torchvision is imported where a network is built or boxes are suppressed, never with a module: it brings torch's
compiler along, 2.5 s of a core, and most of the ten or so processes of a training on Ray know a detector's
configuration alone.
"""

from collections import OrderedDict
from dataclasses import dataclass
from dataclasses import replace as _replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from xray_det.errors import InputError
from xray_det.models.norm import FrozenNorm, Norm, SyncNorm, fold_frozen, norm_layer

#: Of ImageNet, in [0, 1], RGB: every torchvision backbone was trained with them.
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)

BackboneName = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"
]


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A torchvision network by name.

    Attributes:
        name: of the network.
        norm: "auto" is group without weights and frozen with them; a training that starts from a detector takes that
            detector's. What batch norms counted goes into frozen and sync ones alike, and never into group norms.
        weights: "none", "library" (torchvision's ImageNet weights, downloaded), or a file (.safetensors, .pth) with
            every tensor of the network, alone or in a detector, under torchvision's names or those of models/naming.py.
        partial: take what fits of the weights, and leave the rest of the network as it was drawn.
    """

    name: BackboneName = "resnet50"
    norm: Literal["auto", "group", "frozen", "sync"] = "auto"
    weights: str = "none"
    partial: bool = False

    def __post_init__(self) -> None:
        if not self.weights:
            raise InputError("backbone.weights", "is empty", 'Give "none", "library" or a file')

    def resolved_norm(self) -> Norm:
        if self.norm != "auto":
            return self.norm
        return "group" if self.weights == "none" else "frozen"

    def without_weights(self) -> "Backbone":
        """The same network, to be filled from elsewhere; its norm is named."""
        return _replace(self, norm=self.resolved_norm(), weights="none", partial=False)


class Pyramid(nn.Module):
    """Backbone and FPN.

    Args:
        config: the network; its weights are *not* loaded here (weights.load_backbone does).
        levels: lowest and highest level, lowest in 2..5. Levels above 5 are made from P5.
        channels: of every level.
        extra: how levels above 5 are made: "conv" (two at most, as RetinaNet), "pool" (one, as Faster R-CNN).

    Attributes:
        strides: pixels a cell of each level.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self, config: Backbone, *, levels: tuple[int, int], channels: int, extra: Literal["conv", "pool"]
    ) -> None:
        from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

        super().__init__()
        low, high = levels
        highest = 7 if extra == "conv" else 6
        if not 2 <= low <= 5 or high not in (5, highest):
            raise InputError("levels", f"{levels} is not possible here", f"Give [2 to 5, 5 or {highest}]")
        self.strides = tuple(2**level for level in range(low, high + 1))
        self.body = _Body(config)
        self._first = low - 2
        blocks = None
        if high > 5:
            blocks = LastLevelP6P7(channels, channels) if extra == "conv" else LastLevelMaxPool()
        self.fpn = FeaturePyramidNetwork(self.body.channels[self._first :], channels, blocks)
        # No file fills them, so they hold their numbers in a detector that is built without memory too.
        mean, std = (torch.tensor(values, device="cpu")[:, None, None] * 255 for values in (PIXEL_MEAN, PIXEL_STD))
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)

    def forward(self, images: Tensor, sizes: Tensor) -> list[Tensor]:
        """Feature maps [B, channels, ceil(H / stride), ceil(W / stride)] of every level.

        Args:
            images: uint8 [B, 3, H, W]; what lies beyond an image's size is set to 0 *after* normalisation, so that
                padding is the mean colour whatever the loader wrote there.
            sizes: int64 [B, 2] (height, width).
        """
        # channels_last is the layout that CPU and GPU convolutions compute in.
        x = images.to(dtype=self.pixel_mean.dtype, memory_format=torch.channels_last)
        x = (x - self.pixel_mean) / self.pixel_std
        height, width = (torch.arange(n, device=x.device) < sizes[:, i, None] for i, n in enumerate(x.shape[-2:]))
        x = x * (height[:, None, :, None] & width[:, None, None, :])
        stages = self.body(x)[self._first :]
        named = OrderedDict((str(i), stage) for i, stage in enumerate(stages))
        return list(self.fpn(named).values())


class _Body(nn.Module):
    """Stages C2 to C5 of a classification network, under torchvision's parameter names.

    Attributes:
        channels: of C2, C3, C4 and C5.
    """

    def __init__(self, config: Backbone) -> None:
        import torchvision

        super().__init__()
        norm = config.resolved_norm()
        network = torchvision.models.get_model(config.name, weights=None, norm_layer=norm_layer(norm))
        if config.name.startswith("resnet"):
            for name, child in network.named_children():
                if name not in ("avgpool", "fc"):
                    self.add_module(name, child)
            after = list(self.children())
            cuts = [0, *(after.index(getattr(self, f"layer{n}")) for n in (2, 3, 4)), len(after)]
        else:
            self.features = network.features
            if config.name.startswith("mobilenet_v3"):  # its published statistics were gathered with another epsilon
                for module in self.modules():
                    if isinstance(module, FrozenNorm | SyncNorm):
                        module.eps = 1e-3
            # torchvision marks the blocks that halve the resolution; the second of them begins C3.
            halving = [i for i, block in enumerate(self.features) if getattr(block, "_is_cn", False)]
            cuts = [0, *halving[1:], len(self.features)]
        self._cuts = tuple(cuts)
        if norm == "frozen":
            fold_frozen(self)
        with torch.no_grad():
            training = self.training
            self.channels = [stage.shape[1] for stage in self.eval()(torch.zeros(1, 3, 32, 32))]
            self.train(training)

    def forward(self, x: Tensor) -> list[Tensor]:
        layers = list(self.features if hasattr(self, "features") else self.children())
        stages = []
        for start, stop in pairwise(self._cuts):
            for layer in layers[start:stop]:
                x = layer(x)
            stages.append(x)
        return stages

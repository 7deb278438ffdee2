"""What one training step is fed: a padded batch of images with its ragged targets, as torch tensors.

Shape letters: B images of this rank, H x W the canvas of the global batch (the same on every rank), N boxes of the B
images together, C classes of the unified label space.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

_TARGETS = ("boxes", "box_image", "classes", "classes_known", "region", "absence_known")


@dataclass(kw_only=True)
class Targets:
    """The truth of a batch, boxes of all images in one list.

    Attributes:
        boxes: float32 [N, 4], x1 y1 x2 y2 in canvas pixels; N may be 0.
        box_image: int64 [N], image of the batch each box lies in; never falls.
        classes: float32 [N, C] in [0, 1]; several ones where a box has several labels, ancestors on.
        classes_known: bool [N, C]; False where the box says nothing of a class. Of a region, False on its classes.
        region: bool [N]; a region (crowd, group-of, difficult, ignore) matches nothing: background on it (IoA of the
            row's box with the region at least 0.5) learns the classes of ``classes_known`` alone.
        absence_known: bool [B, C]; background of the image may learn "not c".
        inside_unknown: bool [N, C]; classes of which a row on the box (IoA as above) learns nothing unless they are its
            own; None where there are none.
        counts: boxes an image (regions too), on the host, so that padding a batch on a device needs no
            synchronisation; worked out here when not given.
        regions: how many of the N boxes are regions, likewise.
    """

    boxes: Tensor
    box_image: Tensor
    classes: Tensor
    classes_known: Tensor
    region: Tensor
    absence_known: Tensor
    inside_unknown: Tensor | None = None
    counts: tuple[int, ...] | None = None
    regions: int | None = None

    def __post_init__(self) -> None:
        if self.counts is None:
            self.counts = tuple(torch.bincount(self.box_image, minlength=len(self.absence_known)).tolist())
        if self.regions is None:
            self.regions = int(self.region.sum())

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> "Targets":
        return _moved(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Targets":
        """In page-locked memory, from which a copy to a CUDA device runs beside computation."""
        return _moved(self, Tensor.pin_memory)


@dataclass(kw_only=True)
class Batch:
    """This rank's part of one global batch.

    Attributes:
        images: uint8 [B, 3, H, W], RGB, in channels-last memory; the picture lies in the upper left corner, the rest is
            the augmentation's fill colour (about ImageNet's mean: near 0 once normalised).
        sizes: int64 [B, 2], (height, width) of the part of the canvas that is image.
        targets: the truth.
        image_ids: as published, B of them.
        positions: int64 [B], place in the epoch's plan: the key of every random draw for this image.
        scales: float32 [B, 2], canvas pixels a pixel of the original, (vertical, horizontal).
        original_sizes: int64 [B, 2], (height, width) of the upright image before any transform.
    """

    images: Tensor
    sizes: Tensor
    targets: Targets
    image_ids: list[str]
    positions: Tensor
    scales: Tensor
    original_sizes: Tensor

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], image_ids: list[str], *, pin: bool = False) -> "Batch":
        """Tensors over the memory of the arrays of data/assemble.py, or with ``pin`` copies in page-locked memory.

        ``images`` of the arrays is [B, H, W, 3].
        """

        def tensor(name: str) -> Tensor:
            found = torch.from_numpy(arrays[name])
            return found.pin_memory() if pin else found

        box_image = arrays["box_image"]
        targets = Targets(
            **{name: tensor(name) for name in _TARGETS},
            inside_unknown=tensor("inside_unknown") if "inside_unknown" in arrays else None,
            counts=tuple(np.bincount(box_image, minlength=len(image_ids)).tolist()),
            regions=int(arrays["region"].sum()),
        )
        return cls(
            images=tensor("images").permute(0, 3, 1, 2),
            targets=targets,
            image_ids=image_ids,
            **{name: tensor(name) for name in ("sizes", "positions", "scales", "original_sizes")},
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> "Batch":
        return _moved(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """In page-locked memory, from which a copy to a CUDA device runs beside computation."""
        return _moved(self, Tensor.pin_memory)


_T = TypeVar("_T", Targets, Batch)


def _moved(value: _T, move: Callable[[Tensor], Tensor]) -> _T:
    """A copy of a dataclass with ``move`` applied to its tensors, also those of dataclasses within."""
    changed: dict[str, Any] = {}
    for field in fields(value):
        item = getattr(value, field.name)
        if isinstance(item, Tensor):
            changed[field.name] = move(item)
        else:
            changed[field.name] = _moved(item, move) if isinstance(item, Targets) else item
    return type(value)(**changed)

"""Targets of rows for the loss tests, and the dense tables they stand for."""

import torch
from torch import Tensor

from xray_det.losses.targets import RowTargets


def random_targets(
    images: int, rows: int, classes: int, *, known: float = 1.0, soft: bool = False, seed: int = 0
) -> RowTargets:
    """A third of the rows plain background, some listed with one or two classes or none, the rest silent."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.rand(images, rows, generator=generator)
    image, row = (kind < 0.3).nonzero(as_tuple=True)
    values = torch.zeros(len(image), classes)
    for listed in range(len(image)):
        for _ in range(listed % 3):  # every third is background on a region
            which = int(torch.randint(classes, (1,), generator=generator))
            values[listed, which] = float(torch.rand(1, generator=generator)) if soft else 1.0
    return RowTargets(
        background=kind > 0.6,
        background_known=torch.rand(images, classes, generator=generator) < known,
        image=image,
        row=row,
        values=values,
        known=(torch.rand(len(image), classes, generator=generator) < known) | (values > 0),
    )


def dense(targets: RowTargets) -> tuple[Tensor, Tensor]:
    """The same as tables: values float [B, R, C], known bool [B, R, C] (nothing known in silent rows)."""
    images, rows = targets.background.shape
    values = torch.zeros(images, rows, targets.values.shape[1])
    known = torch.zeros(values.shape, dtype=torch.bool)
    for b in range(images):
        for r in range(rows):
            if targets.background[b, r]:
                known[b, r] = targets.background_known[b]
    for place, (b, r) in enumerate(zip(targets.image.tolist(), targets.row.tolist(), strict=True)):
        values[b, r], known[b, r] = targets.values[place], targets.known[place]
    return values, known

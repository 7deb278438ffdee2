"""RoIAlign and its gradient against torchvision's kernel, level by level."""

import pytest
import torch
from torchvision.ops import roi_align as reference
from torchvision.ops.poolers import LevelMapper

from xray_det.models.roi_align import level_of, roi_align


@pytest.mark.parametrize(("size", "samples"), [(7, 2), (3, 1)])
def test_equals_torchvision_with_its_gradient(size: int, samples: int) -> None:
    generator = torch.Generator().manual_seed(0)
    strides = (8, 16, 32)
    maps = [torch.randn(2, 6, 96 // s, 128 // s, generator=generator).requires_grad_() for s in strides]
    corner = torch.rand(2, 40, 2, generator=generator) * 140 - 15  # some reach beyond the canvas, some lie beside it
    boxes = torch.cat([corner, corner + torch.rand(2, 40, 2, generator=generator) * 90], 2)
    level = torch.randint(0, 3, (2, 40), generator=generator)
    pooled = roi_align(maps, strides, boxes, level, size=size, samples=samples)
    outer = torch.randn(pooled.shape, generator=generator)
    slopes = torch.autograd.grad((pooled * outer).sum(), maps)

    image = torch.arange(2).repeat_interleave(40)[:, None].float()
    expected = torch.zeros(80, 6, size, size)
    for number, (f, stride) in enumerate(zip(maps, strides, strict=True)):
        theirs = reference(f, torch.cat([image, boxes.view(-1, 4)], 1), size, 1 / stride, samples, aligned=True)
        expected = expected + theirs * (level.flatten() == number)[:, None, None, None]
    expected = expected.permute(0, 2, 3, 1).reshape(2, 40, -1)
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(slopes, torch.autograd.grad((expected * outer).sum(), maps), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_many_small_gradients_in_bfloat16_do_not_vanish() -> None:
    """4,000 boxes on one cell: a running sum in bfloat16 would stop growing at 256 times the summand."""
    table = torch.ones(1, 4, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    boxes = torch.tensor([20.0, 20, 28, 28]).expand(1, 4000, 4)
    roi_align([table], (8,), boxes, torch.zeros(1, 4000, dtype=torch.int64), size=1).sum().backward()
    assert table.grad is not None
    assert table.grad[0, 0].float().sum().item() == pytest.approx(4000, rel=0.01)


def test_levels_equal_torchvision() -> None:
    side = torch.rand(500, generator=torch.Generator().manual_seed(0)) * 900
    boxes = torch.stack([torch.zeros(500), torch.zeros(500), side, side * 0.7], 1)
    theirs = LevelMapper(2, 5)([boxes])
    assert torch.equal(level_of(boxes, (4, 8, 16, 32)), theirs)

"""Box codes and box losses against torchvision's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_area, box_iou, generalized_box_iou_loss

from xray_det.losses.box import BoxCode, GIoU, SmoothL1, area, intersection


def boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 100
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 80], 1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_code_equals_torchvision(weights: tuple[float, float, float, float]) -> None:
    references, goal, code = boxes(50, 0), boxes(50, 1), BoxCode(weights=weights)
    theirs = BoxCoder(weights)
    deltas = code.encode(references, goal)
    torch.testing.assert_close(deltas, theirs.encode_single(goal, references))
    wild = deltas * 20  # beyond the bound on sizes as well
    torch.testing.assert_close(code.decode(references, wild), theirs.decode_single(wild, references))


@given(st.integers(0, 10_000))
def test_decode_inverts_encode(seed: int) -> None:
    references, goal = boxes(20, seed).double(), boxes(20, seed + 1).double()
    code = BoxCode(weights=(10.0, 10.0, 5.0, 5.0))
    inside = code.decode(references, code.encode(references, goal))
    small = (goal[:, 2:] - goal[:, :2] < 50 * (references[:, 2:] - references[:, :2])).all(1)
    torch.testing.assert_close(inside[small], goal[small])


def test_losses_equal_torch() -> None:
    references, goal, code = boxes(50, 0), boxes(50, 1), BoxCode()
    deltas = torch.randn(50, 4, generator=torch.Generator().manual_seed(2)) * 0.3
    for beta in (0.0, 1 / 9):
        ours = SmoothL1(beta=beta).loss_each(deltas, references, goal, code)
        error = (deltas - code.encode(references, goal)).abs()
        expected = torch.where(error < beta, error**2 / (2 * max(beta, 1e-9)), error - beta / 2).sum(1)
        torch.testing.assert_close(ours, expected)
    ours = GIoU().loss_each(deltas, references, goal, code)
    torch.testing.assert_close(
        ours, generalized_box_iou_loss(code.decode(references, deltas), goal), rtol=1e-4, atol=1e-5
    )


def test_area_and_intersection() -> None:
    a, b = boxes(10, 3), boxes(12, 4)
    torch.testing.assert_close(area(a), box_area(a))
    shared = intersection(a[:, None], b)
    torch.testing.assert_close(shared / (area(a)[:, None] + area(b) - shared), box_iou(a, b))
    assert area(torch.tensor([5.0, 5.0, 1.0, 9.0])) == 0

"""Anchors against torchvision's generator and against the definition of a ratio."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from xray_det.errors import InputError
from xray_det.models.anchors import Anchors, anchor_rows, inside


def test_equals_torchvision_up_to_its_rounding() -> None:
    anchors = Anchors(scales=(4.0, 8.0))
    grids, strides = [(12, 16), (6, 8)], (8, 16)
    ours = anchors.boxes(grids, strides, torch.device("cpu"))
    generator = AnchorGenerator(sizes=((32, 64), (64, 128)), aspect_ratios=((0.5, 1.0, 2.0),) * 2)
    maps = [torch.zeros(1, 1, *grid) for grid in grids]
    (theirs,) = generator(ImageList(torch.zeros(1, 3, 96, 128), [(96, 128)]), maps)
    order = torch.arange(6).view(3, 2).T.flatten()  # torchvision goes through the ratios first
    theirs = theirs.view(-1, 6, 4)[:, order].reshape(-1, 4)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 0.5


def test_ratio_is_height_over_width_and_scale_is_in_strides() -> None:
    box = Anchors(scales=(3.0,), ratios=(2.44,), offset=0.5).boxes([(1, 2)], (16,), torch.device("cpu"))
    size = box[:, 2:] - box[:, :2]
    assert (size[:, 1] / size[:, 0]).tolist() == pytest.approx([2.44] * 2)
    assert size.prod(1).sqrt().tolist() == pytest.approx([48.0] * 2)
    assert ((box[:, :2] + box[:, 2:]) / 2).tolist() == [[8, 8], [24, 8]]


def test_rows_of_a_head_are_in_the_anchors_order() -> None:
    anchors, grid = Anchors(), (3, 4)
    cells = torch.zeros(1, 9 * 2, *grid)
    for a in range(9):
        for y in range(3):
            for x in range(4):
                cells[0, 2 * a, y, x], cells[0, 2 * a + 1, y, x] = x * 8, anchors.shapes()[a][0] * 8
    boxes = anchors.boxes([grid], (8,), torch.device("cpu"))
    rows = anchor_rows(cells, 2)[0]
    torch.testing.assert_close(rows[:, 0], (boxes[:, 0] + boxes[:, 2]) / 2)
    torch.testing.assert_close(rows[:, 1], boxes[:, 3] - boxes[:, 1])


def test_anchors_on_padding_are_told() -> None:
    anchors = Anchors(scales=(1.0,), ratios=(1.0,)).boxes([(2, 3)], (8,), torch.device("cpu"))
    valid = inside(anchors, torch.tensor([[16, 24], [8, 16]]))
    assert valid.tolist() == [[True] * 6, [True, True, False, False, False, False]]


def test_bad_values() -> None:
    for bad in ({"scales": ()}, {"ratios": (1.0, 0.0)}):
        with pytest.raises(InputError, match=next(iter(bad))):
            Anchors(**bad)

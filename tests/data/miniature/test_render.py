"""Pixels: what is drawn lies in its box, looks different every time, and depends on the seed alone."""

import numpy as np
import pytest

from xray_det.data.miniature.parameters import Miniature
from xray_det.data.miniature.render import render
from xray_det.data.miniature.scenes import Scene

CHARS = "ABΔ"


def test_the_change_that_an_object_makes_fills_its_box_and_stays_inside() -> None:
    """The same seed without the object gives the background: what differs is the object."""
    parameters = Miniature(size=160)
    for seed in range(30):
        scene = Scene(classes=(seed % 3,), seed=(seed,))
        pixels, boxes = render(scene, CHARS, parameters)
        bare, none = render(Scene(classes=(), seed=(seed,)), CHARS, parameters)
        assert none.shape == (0, 4)
        assert pixels.shape == bare.shape
        changed = abs(pixels.astype(int) - bare).sum(axis=2) > 24
        ys, xs = np.nonzero(changed)
        x1, y1, x2, y2 = boxes[0]
        assert xs.min() >= x1
        assert ys.min() >= y1
        assert xs.max() < x2
        assert ys.max() < y2
        slack = 3  # the faint rim of an antialiased stroke
        assert xs.min() - x1 <= slack
        assert ys.min() - y1 <= slack
        assert x2 - 1 - xs.max() <= slack
        assert y2 - 1 - ys.max() <= slack
        assert 0 <= x1 < x2 <= pixels.shape[1]
        assert 0 <= y1 < y2 <= pixels.shape[0]
        assert 0.1 * 160 < max(x2 - x1, y2 - y1) < 0.6 * 160


def test_a_cut_object_reaches_over_the_edge() -> None:
    for seed in range(10):
        pixels, boxes = render(Scene(classes=(0, 1), seed=(seed,), cut=True), CHARS, Miniature())
        width = pixels.shape[1]
        assert boxes[0, 0] < width - 4 < width + 4 < boxes[0, 2]
        assert boxes[1, 2] <= width


def test_pixels_depend_on_the_seed_and_on_nothing_else() -> None:
    scene = Scene(classes=(0, 2), seed=(5, 1))
    first, boxes = render(scene, CHARS, Miniature())
    np.random.default_rng().random(7)
    again, same = render(scene, CHARS, Miniature())
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(boxes, same)
    other, _ = render(Scene(classes=(0, 2), seed=(5, 2)), CHARS, Miniature())
    assert other.shape != first.shape or (other != first).mean() > 0.5


@pytest.mark.parametrize("size", [32, 96, 320])
def test_sizes_scale(size: int) -> None:
    shapes = [render(Scene(classes=(0,), seed=(s,)), CHARS, Miniature(size=size))[0].shape for s in range(20)]
    assert {max(shape) for shape in shapes} == {size}
    assert all(min(shape[:2]) >= round(0.75 * size) for shape in shapes)
    assert len({shape[0] > shape[1] for shape in shapes}) == 2, "upright and wide ones"

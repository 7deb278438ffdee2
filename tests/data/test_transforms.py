"""Pixels go where geometry says, for every way a decoder may shrink; colours change as written."""

import io

import numpy as np
import pytest
from PIL import Image

from xray_det.data.augmentation import Augmentation
from xray_det.data.geometry import Placement
from xray_det.data.images import BadImage
from xray_det.data.randomness import Key
from xray_det.data.transforms import _matrix, distort, distortions, draw

SIZE = (120, 160)  # height, width


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    return sink.getvalue()


def ramp() -> np.ndarray:
    """Red tells x, green tells y: linear interpolation at any scale gives the place it looked at."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    return np.stack([x / SIZE[1] * 255, y / SIZE[0] * 255, np.full(SIZE, 128)], axis=2).round().astype(np.uint8)


def placement(crop: list[int], place: list[int], size: tuple[int, int], *, flip: bool = False) -> Placement:
    return Placement(crop=np.array([crop]), place=np.array([place]), sizes=np.array([size]), flip=np.array([flip]))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("crop", "place", "size"),
    [
        ([0, 0, 160, 120], [0, 0, 160, 120], (120, 160)),  # as it is
        ([0, 0, 160, 120], [0, 0, 400, 300], (300, 400)),  # enlarged
        ([0, 0, 160, 120], [0, 0, 100, 75], (75, 100)),  # shrunk a little
        ([0, 0, 160, 120], [0, 0, 40, 30], (30, 40)),  # to a quarter: the decoder does it all
        ([0, 0, 160, 120], [0, 0, 33, 25], (25, 33)),  # and more
        ([0, 0, 160, 120], [10, 5, 70, 50], (80, 90)),  # zoomed out
        ([40, 24, 160, 96], [0, 0, 60, 36], (36, 60)),  # a window
        ([40, 24, 160, 96], [7, 3, 22, 12], (20, 30)),  # a window, zoomed out, to an eighth
    ],
)
def test_a_pixel_shows_the_place_that_geometry_gives_it(
    kind: str, flip: bool, crop: list[int], place: list[int], size: tuple[int, int]
) -> None:
    canvas = np.full((320, 420, 3), 77, np.uint8)
    draw(canvas, encoded(ramp(), kind), SIZE, placement(crop, place, size, flip=flip), 0)
    (x1, y1, x2, y2), (left, top, right, bottom) = crop, place
    if flip:
        canvas[: size[0], : size[1]] = canvas[: size[0], : size[1]][:, ::-1].copy()
    shown = canvas[top:bottom, left:right].astype(float)
    y, x = np.mgrid[: bottom - top, : right - left] + 0.5
    expected_x = (x1 + x / (right - left) * (x2 - x1)) / SIZE[1] * 255
    expected_y = (y1 + y / (bottom - top) * (y2 - y1)) / SIZE[0] * 255
    # where the border is repeated, linear interpolation cannot follow the ramp: half a source pixel, or half of one
    # that was decoded at an eighth
    inner = (slice(1, -1), slice(1, -1))
    for channel, expected in ((0, expected_x), (1, expected_y)):
        error = (shown[..., channel] - expected)[inner]
        assert abs(error).max() < 4  # of a JPEG; a pixel of the original is 1.6 or 2.1, one at a quarter 6 or 8
        assert abs(error.mean()) < 0.4
    outside = np.ones(canvas.shape[:2], bool)
    outside[top:bottom, left:right] = False
    assert (canvas[outside] == 77).all()


def test_a_picture_of_fill_alone_is_left_alone() -> None:
    canvas = np.full((20, 20, 3), 9, np.uint8)
    draw(canvas, b"never decoded", SIZE, placement([0] * 4, [0] * 4, (20, 20)), 0)
    assert (canvas == 9).all()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (encoded(ramp()[:, ::2], "JPEG"), "80x120, at ingest it was 160x120"),
        (encoded(ramp(), "JPEG")[:-300], "Premature end"),
        (b"", "empty"),
    ],
)
def test_an_image_that_is_not_what_was_ingested_is_refused(data: bytes, says: str) -> None:
    canvas = np.zeros((120, 160, 3), np.uint8)
    with pytest.raises(BadImage, match=says):
        draw(canvas, data, SIZE, placement([0, 0, 160, 120], [0, 0, 160, 120], SIZE), 0)


OFF = 0.9


@pytest.mark.parametrize("factor", [0.875, 1.0, 1.125])
def test_brightness_is_a_factor(factor: float) -> None:
    u = np.array([0, 0, OFF, OFF, OFF, OFF, (factor - 0.875) / 0.25, 0, 0, 0, 0, 0])
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    changed = pixels.copy()
    distort(changed, _matrix(u))
    assert abs(np.clip(pixels * factor, 0, 255) - changed).max() <= 1


def test_contrast_and_saturation_blend_with_grey() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    luma = pixels @ [0.299, 0.587, 0.114]
    for which, grey in ((1, np.full((40, 50), luma.mean())), (2, luma)):
        u = np.full(12, OFF)
        u[1 + which], u[6 + which] = 0, 0.2  # a factor of 0.7
        canvas = np.zeros((60, 60, 3), np.uint8)
        view = canvas[3:43, 5:55]  # lines of it are not contiguous
        view[...] = pixels
        distort(view, _matrix(u))
        assert abs(0.7 * pixels + 0.3 * grey[..., None] - view).max() <= 1.01
        assert canvas[:3].sum() == canvas[43:].sum() == canvas[:, :5].sum() == canvas[:, 55:].sum() == 0


def test_hue_turns_colours_and_leaves_grey_and_luma() -> None:
    u = np.full(12, OFF)
    u[4], u[9] = 0, 1.0  # 18 degrees
    pixels = np.array([[[90, 90, 90], [160, 100, 100], [100, 160, 100]]], np.uint8)
    changed = pixels.copy()
    distort(changed, _matrix(u))
    assert abs(changed[0, 0].astype(int) - 90).max() <= 1
    assert (abs(changed[0, 1:].astype(int) - pixels[0, 1:]).max(axis=1) > 5).all()
    weights = [0.299, 0.587, 0.114]
    assert changed @ weights == pytest.approx(pixels @ weights, abs=1)


def test_colours_are_drawn_by_position_and_chance() -> None:
    key, positions = Key(seed=5), np.arange(4000)
    found = distortions(Augmentation(photometric=0.25), key, positions)
    share = np.mean([matrix is not None for matrix in found])
    assert abs(share - 0.25) < 4.5 * 0.5 / np.sqrt(4000)
    alone = distortions(Augmentation(photometric=1), key, positions[123:124])[0]
    everyone = distortions(Augmentation(photometric=1), key, positions)
    np.testing.assert_array_equal(alone, everyone[123])
    orders = {tuple(np.argmax(abs(matrix[:, :3]), axis=1)) for matrix in everyone if matrix is not None}
    assert len(orders) == 6

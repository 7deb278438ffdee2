"""Where boxes go, against pixel masks warped one pixel at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray_det.data.augmentation import Augmentation
from xray_det.data.geometry import GRID, LEAST_SIDE, Placement, clip, place
from xray_det.data.randomness import Key
from xray_det.errors import InputError

NO_BOXES = np.empty((0, 4), np.float32), np.empty(0, np.int64)

sides = st.integers(1, 700)
augmentations = st.builds(
    Augmentation,
    short_side=st.lists(st.integers(8, 200), min_size=1, max_size=3).map(tuple),
    max_side=st.integers(200, 400),
    scale_jitter=st.none() | st.sampled_from([(0.1, 2.0), (0.5, 0.5), (1.0, 3.0)]),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    iou_crop=st.sampled_from([0.0, 1.0]),
    zoom_out=st.sampled_from([0.0, 1.0]),
    multiple=st.sampled_from([1, 32]),
)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes [B, 2], boxes [N, 4] inside their images, box_image [N]."""
    sizes = np.array(draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=5)))
    boxes, images = [], []
    for image, (height, width) in enumerate(sizes):
        for _ in range(draw(st.integers(0, 3))):
            x = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
            y = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
            boxes.append([x[0] * width, y[0] * height, x[1] * width, y[1] * height])
            images.append(image)
    return sizes, np.array(boxes, np.float32).reshape(-1, 4), np.array(images, np.int64)


@given(scenes(), augmentations, st.integers(0, 2**32), st.integers(0, 10**7))
@settings(max_examples=150, deadline=None)
def test_placements_hold_what_they_promise(
    scene: tuple[np.ndarray, np.ndarray, np.ndarray], augmentation: Augmentation, seed: int, first: int
) -> None:
    sizes, boxes, image = scene
    positions = np.arange(first, first + len(sizes))
    placed = place(augmentation, Key(seed=seed), positions, sizes, boxes, image)
    assert (placed.sizes >= 1).all()
    assert placed.sizes.max() <= augmentation.max_side
    assert (placed.sizes.min(axis=1) <= max(augmentation.short_side)).all()
    seen = placed.crop[:, 2] > placed.crop[:, 0]
    assert (placed.crop[:, :2] >= 0).all()
    assert (placed.crop[:, 2:] <= sizes[:, ::-1]).all()
    assert (placed.place[:, :2] >= 0).all()
    assert (placed.place[:, 2:] <= placed.sizes[:, ::-1]).all()
    assert (placed.place[seen, 2:] > placed.place[seen, :2]).all()
    if augmentation.zoom_out == 0:  # windows on the grid, or at the image's far edge
        assert (placed.crop[:, :2] % GRID == 0).all()
        assert ((placed.crop[:, 2:] % GRID == 0) | (placed.crop[:, 2:] == sizes[:, ::-1])).all()
    height, width = placed.canvas(augmentation.multiple)
    assert height % augmentation.multiple == width % augmentation.multiple == 0
    assert (placed.sizes <= [height, width]).all()
    moved = placed.move(boxes, image)
    limits = placed.sizes[image][:, [1, 0, 1, 0]]
    assert ((moved >= 0) & (moved <= limits)).all()
    assert (moved[:, 2:] >= moved[:, :2]).all()
    # one image alone goes where it went among its neighbours
    for row in range(len(sizes)):
        own = image == row
        alone = place(
            augmentation, Key(seed=seed), positions[row : row + 1], sizes[row : row + 1], boxes[own], image[own] - row
        )
        for field in ("crop", "place", "sizes", "flip"):
            np.testing.assert_array_equal(getattr(alone, field)[0], getattr(placed, field)[row])


def by_pixel(placed: Placement, box: np.ndarray) -> np.ndarray:
    """bool [h, w]: the picture's pixels on which a box of the original falls, worked out pixel by pixel."""
    height, width = placed.sizes[0]
    (x1, y1, x2, y2), (left, top, right, bottom) = placed.crop[0], placed.place[0]
    mask = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            across = width - 1 - column if placed.flip[0] else column
            if left <= across < right and top <= row < bottom:
                x = x1 + (across + 0.5 - left) / (right - left) * (x2 - x1)
                y = y1 + (row + 0.5 - top) / (bottom - top) * (y2 - y1)
                mask[row, column] = box[0] < x < box[2] and box[1] < y < box[3]
    return mask


@given(scenes(), augmentations, st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_boxes_go_where_their_pixels_go(
    scene: tuple[np.ndarray, np.ndarray, np.ndarray], augmentation: Augmentation, seed: int
) -> None:
    sizes, boxes, image = scene
    small = Augmentation(
        **{**vars(augmentation), "short_side": tuple(min(s, 24) for s in augmentation.short_side), "max_side": 48}
    )
    boxes, image = boxes[image == 0], image[image == 0]
    placed = place(small, Key(seed=seed), np.array([3]), sizes[:1], boxes, image)
    moved = placed.move(boxes, image)
    height, width = placed.sizes[0]
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    for box, (x1, y1, x2, y2) in zip(boxes, moved, strict=True):
        inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
        # a pixel's centre on the very edge may fall to either side by rounding
        on_edge = (np.minimum(abs(x - x1), abs(x - x2)) < 1e-3) | (np.minimum(abs(y - y1), abs(y - y2)) < 1e-3)
        assert ((inside == by_pixel(placed, box)) | on_edge).all()


def test_two_flips_are_none() -> None:
    boxes = np.random.default_rng(0).uniform(0, 640, (50, 2, 2)).astype(np.float32)
    boxes = np.sort(boxes, axis=1).reshape(-1, 4)
    image = np.zeros(50, np.int64)
    whole = np.array([[0, 0, 640, 640]])
    flipped = Placement(crop=whole, place=whole, sizes=np.array([[640, 640]]), flip=np.array([True]))
    once = flipped.move(boxes, image)
    assert abs(once - boxes).max() > 1
    np.testing.assert_allclose(flipped.move(once, image), boxes, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((200, 1000), (267, 1333))]
)
def test_the_shorter_side_is_resized_within_the_longest(size: tuple[int, int], expected: tuple[int, int]) -> None:
    placed = place(Augmentation(), Key(seed=0), np.arange(1), np.array([size]), *NO_BOXES)
    assert tuple(placed.sizes[0]) == expected
    assert placed.scales()[0] == pytest.approx(np.array(expected) / size)


def test_chances_are_kept() -> None:
    count = 20_000
    sizes = np.full((count, 2), 100)
    augmentation = Augmentation(short_side=(50, 60, 70), max_side=100, flip=0.3, zoom_out=0.25)
    placed = place(augmentation, Key(seed=1), np.arange(count), sizes, *NO_BOXES)
    zoomed = (placed.place[:, 2:] - placed.place[:, :2] < placed.sizes[:, ::-1]).any(axis=1)
    for share, expected in (
        (placed.flip.mean(), 0.3),
        (zoomed.mean(), 0.25 * 0.99),  # a scene hardly larger than the image rounds to it
        *(((placed.sizes.min(axis=1) == side).mean(), 1 / 3) for side in (50, 60, 70)),
    ):
        assert abs(share - expected) < 4.5 * 0.5 / np.sqrt(count)


def test_iou_crops_hold_an_object_and_keep_their_shape() -> None:
    count = 500
    sizes = np.full((count, 2), 640)
    boxes = np.tile(np.array([[100, 120, 220, 260], [400, 380, 560, 600]], np.float32), (count, 1))
    image = np.repeat(np.arange(count), 2)
    augmentation = Augmentation(short_side=(320,), max_side=640, flip=0, iou_crop=1)
    placed = place(augmentation, Key(seed=0), np.arange(count), sizes, boxes, image)
    extent = placed.crop[:, 2:] - placed.crop[:, :2]
    whole = (extent == 640).all(axis=1)
    assert 1 / 7 < whole.mean() < 0.45  # one least IoU in seven is "the whole", and high ones seldom succeed
    assert (extent >= 0.3 * 640 - 1).all()
    aspect = extent[:, 0] / extent[:, 1]
    assert (aspect > 0.5 * 0.9).all()
    assert (aspect < 2 / 0.9).all()
    kept, region = placed.seen(boxes, image, np.zeros(len(boxes), bool))
    held = (kept & ~region).reshape(-1, 2)
    assert held.any(axis=1).all()
    assert not held.all()


def test_what_a_crop_cuts_off_is_neither_object_nor_background() -> None:
    crop = np.array([[0, 0, 80, 80]])
    placed = Placement(crop=crop, place=crop, sizes=np.array([[80, 80]]), flip=np.array([False]))
    boxes = np.array(
        [
            [10, 10, 20, 20],  # whole
            [70, 10, 85, 20],  # centre inside
            [70, 10, 100, 20],  # centre outside, a part inside: becomes a region
            [90, 10, 100, 20],  # outside
            [70, 10, 100, 20],  # a region: a part of it is enough
            [90, 10, 100, 20],  # a region outside
            [10, 10, 10 + LEAST_SIDE / 2, 20],  # too thin to be learnt
        ],
        np.float32,
    )
    kept, region = placed.seen(boxes, np.zeros(7, np.int64), np.array([0, 0, 0, 0, 1, 1, 0], bool))
    assert kept.tolist() == [True, True, True, False, True, False, False]
    assert region[kept].tolist() == [False, False, True, True]


def test_boxes_are_clipped_to_their_own_image() -> None:
    boxes = np.array([[-5, -5, 30, 30], [10, 10, 100, 100]], np.float32)
    clipped = clip(boxes, np.array([[20, 25], [50, 40]]))
    assert clipped.tolist() == [[0, 0, 25, 20], [10, 10, 40, 50]]


def test_evaluation_leaves_nothing_to_chance() -> None:
    augmentation = Augmentation(
        short_side=(200, 300), max_side=400, scale_jitter=(0.1, 2), iou_crop=1, zoom_out=1, photometric=1
    ).evaluation()
    sizes = np.full((64, 2), [300, 400])
    placed = place(augmentation, Key(seed=0), np.arange(64), sizes, *NO_BOXES)
    assert (placed.sizes == [300, 400]).all()
    assert (placed.crop == [0, 0, 400, 300]).all()
    assert not placed.flip.any()
    assert augmentation.photometric == 0


def test_the_sizes_at_test_are_the_largest_of_training_unless_set() -> None:
    def sides(**test: int) -> tuple[tuple[int, ...], int]:
        at_test = Augmentation(short_side=(200, 300), max_side=400, **test).evaluation()
        assert at_test.evaluation() == at_test
        return at_test.short_side, at_test.max_side

    assert sides() == ((300,), 400)
    assert sides(test_short_side=250) == ((250,), 400)
    assert sides(test_max_side=350) == ((300,), 350)
    assert sides(test_short_side=500, test_max_side=900) == ((500,), 900)
    training = Augmentation(short_side=(50,), max_side=80, test_short_side=20, test_max_side=30, flip=0)
    plain = Augmentation(short_side=(50,), max_side=80, flip=0)
    shown = [place(a, Key(seed=0), np.arange(1), np.full((1, 2), [60, 90]), *NO_BOXES) for a in (training, plain)]
    np.testing.assert_array_equal(shown[0].sizes, shown[1].sizes)


@pytest.mark.parametrize(
    "bad",
    [
        {"short_side": ()},
        {"short_side": (0,)},
        {"short_side": (900,), "max_side": 800},
        {"test_short_side": 0},
        {"test_short_side": 1334},
        {"test_max_side": 799},
        {"test_max_side": 20000},
        {"flip": 1.5},
        {"scale_jitter": (2.0, 1.0)},
        {"zoom_out_sides": (0.5, 2.0)},
        {"multiple": 0},
        {"fill": (0, 0, 256)},
    ],
)
def test_impossible_values_are_refused_by_name(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        Augmentation(**bad)  # type: ignore[arg-type]

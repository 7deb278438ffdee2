"""Pixels: glyphs in several fonts and styles, turned and stretched, on textured backgrounds."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from xray_det.data.miniature.parameters import Miniature
from xray_det.data.miniature.scenes import Scene

Pixels: TypeAlias = npt.NDArray[np.uint8]
Coverage: TypeAlias = npt.NDArray[np.float32]  # [h, w], 0 to 1

_FONTS = (
    "DejaVuSans-Bold",
    "DejaVuSerif",
    "DejaVuSans",
    "DejaVuSerif-Bold",
    "DejaVuSansMono-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSerif-Italic",
    "DejaVuSansMono",
)
_SPRITE_PIXELS = 96  # sprites are shrunk from this height, never enlarged much
_LEAST_CONTRAST = 90  # between glyph and background, of 255


def render(scene: Scene, chars: Sequence[str], parameters: Miniature) -> tuple[Pixels, npt.NDArray[np.float64]]:
    """One image.

    Args:
        chars: the character of each class.

    Returns:
        uint8 [H, W, 3] RGB, and float64 [n, 4]: the tight box of each object as x1, y1, x2, y2 in pixels. The box of a
        cut object reaches over the edge as if the image went on.
    """
    rng = np.random.default_rng(scene.seed)
    sides = [parameters.size, round(parameters.size * rng.uniform(parameters.narrowest, 1))]
    height, width = rng.permutation(sides).tolist()
    canvas = _background(height, width, rng)
    boxes = np.zeros((len(scene.classes), 4))
    for row, label in enumerate(scene.classes):
        alpha, ring = _sprite(chars[label], parameters, rng)
        alpha, ring = alpha[:height, :width], ring[:height, :width]
        x, y = _place(alpha.shape, (height, width), boxes[:row], rng)
        if scene.cut and row == 0:
            x = width - round(alpha.shape[1] * rng.uniform(0.6, 0.8))
        boxes[row] = x, y, x + alpha.shape[1], y + alpha.shape[0]
        part = canvas[y : y + alpha.shape[0], x : x + alpha.shape[1]]
        ink = _contrasting(part.mean(axis=(0, 1)), rng)
        edge = _contrasting(ink, rng)
        alpha, ring = alpha[: part.shape[0], : part.shape[1], None], ring[: part.shape[0], : part.shape[1], None]
        part += ring * (edge - part)
        part += alpha * (ink - part)
    return np.clip(canvas, 0, 255).astype(np.uint8), boxes


@lru_cache(maxsize=4096)
def _mask(font: str, char: str) -> Coverage:
    """A character as coverage in [0, 1], cropped to its ink: float32 [h, w]."""
    import matplotlib  # costs half a second, and only writing a miniature needs it
    from PIL import Image, ImageDraw, ImageFont

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    pen = ImageFont.truetype(str(path), _SPRITE_PIXELS)
    left, top, right, bottom = (round(edge) for edge in pen.getbbox(char))
    image = Image.new("L", (right - left + 4, bottom - top + 4))
    ImageDraw.Draw(image).text((2 - left, 2 - top), char, fill=255, font=pen)
    mask: Coverage = np.asarray(image, np.float32) / np.float32(255)
    return mask[_ink(mask)]


def _ink(coverage: Coverage) -> tuple[slice, slice]:
    """The tight window of what is covered by a quarter or more."""
    inked = coverage > 0.25
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _sprite(char: str, parameters: Miniature, rng: np.random.Generator) -> tuple[Coverage, Coverage]:
    """Coverage of the glyph and of the ring around it (zero where its style has none): float32 [h, w] each."""
    mask = _mask(_FONTS[rng.integers(min(parameters.fonts, len(_FONTS)))], char)
    style = int(rng.integers(parameters.styles))
    low, high = parameters.object_size
    longest = parameters.size * float(np.exp(rng.uniform(np.log(low), np.log(high))))
    scale = longest / max(mask.shape)
    stretch = float(np.exp(rng.uniform(-1, 1) * np.log1p(parameters.stretch)))
    angle = np.deg2rad(rng.uniform(-1, 1) * parameters.rotation_degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([scale * stretch, scale / stretch])
    half = np.array([mask.shape[1], mask.shape[0]]) / 2
    extent = np.abs(matrix) @ half + 4  # room for the ring
    shift = extent - matrix @ half
    blur = cv2.GaussianBlur(mask, (0, 0), 0.4 / scale) if scale < 0.7 else mask  # against aliasing
    size = np.ceil(2 * extent).astype(int)
    glyph = cv2.warpAffine(blur, np.column_stack([matrix, shift]), size.tolist(), flags=cv2.INTER_LINEAR)
    width = max(1, round(longest / 24))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    ring = np.zeros_like(glyph)
    if style == 1:  # outlined: a ring of another colour
        ring = cv2.dilate(glyph, kernel)
    elif style == 2:  # hollow: the outline alone, where the strokes are wide enough to leave one
        inner = cv2.erode(glyph, kernel)
        if inner.sum() > 0.15 * glyph.sum():
            glyph = glyph - inner
    window = _ink(np.maximum(glyph, ring))
    return glyph[window], ring[window]


def _place(
    sprite: tuple[int, ...], image: tuple[int, int], taken: npt.NDArray[np.float64], rng: np.random.Generator
) -> tuple[int, int]:
    """A place inside the image: of some random ones, the one that covers least of the objects before."""
    xs = rng.integers(0, max(1, image[1] - sprite[1] + 1), 16)
    ys = rng.integers(0, max(1, image[0] - sprite[0] + 1), 16)
    wide = np.minimum(xs[:, None] + sprite[1], taken[:, 2]) - np.maximum(xs[:, None], taken[:, 0])
    high = np.minimum(ys[:, None] + sprite[0], taken[:, 3]) - np.maximum(ys[:, None], taken[:, 1])
    best = int(np.argmin((wide.clip(0) * high.clip(0)).sum(axis=1)))
    return int(xs[best]), int(ys[best])


def _background(height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Clouds, stripes and grain around one colour: float32 [H, W, 3]."""
    cells = rng.integers(3, 12, 2)
    knots = rng.uniform(30, 225, 3) + rng.normal(0, 22, (*cells, 3))
    canvas = cv2.resize(knots.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    angle, turns = rng.uniform(0, np.pi), np.float32(2 * np.pi / rng.uniform(6, 40))
    x = np.arange(width, dtype=np.float32) * np.float32(np.cos(angle)) * turns + np.float32(rng.uniform(0, 6))
    y = np.arange(height, dtype=np.float32)[:, None] * np.float32(np.sin(angle)) * turns
    canvas += np.sin(x + y)[..., None] * rng.normal(0, 9, 3).astype(np.float32)
    canvas += rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(1, 7))
    pixels: npt.NDArray[np.float32] = canvas
    return pixels


def _contrasting(colour: npt.NDArray[np.floating], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A colour whose brightness differs from that of ``colour``."""
    brightness = float(np.mean(colour))
    others = rng.uniform(0, 255, (32, 3)).astype(np.float32)
    fitting = np.flatnonzero(np.abs(others.mean(axis=1) - brightness) >= _LEAST_CONTRAST)
    return others[fitting[0]] if fitting.size else np.full(3, 0 if brightness > 127 else 255, np.float32)

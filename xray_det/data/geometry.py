"""Where each image and each box goes, decided before any pixel is read.

A pure function of key, position in the plan, image sizes and boxes. So every rank knows the canvas of the whole global
batch without decoding the other ranks' images.

Shape letters: B images, N boxes of the B images together. Coordinates are continuous, in pixels, origin at the upper
left corner; x1 y1 x2 y2. One image is shown thus: the part ``crop`` of the upright original is resized onto the part
``place`` of a picture of size ``sizes``, the rest of which is fill; then the picture is flipped if ``flip``.
"""

from dataclasses import dataclass

import numpy as np

from xray_det.data.augmentation import Augmentation
from xray_det.data.randomness import Key, Purpose, uniforms
from xray_det.data.schema import NOT_TRAINED, REGION

#: Windows begin and end on multiples of this (or at the image's edge), where an image decoded at a half, a quarter or
#: an eighth of its size still has a pixel boundary.
GRID = 8
#: A trained box whose side is shorter on the canvas is dropped: its regression targets are logarithms of that side.
LEAST_SIDE = 1.0
_CROP_TRIALS, _CROP_ATTEMPTS = 40, 8
_CROP_IOUS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How B images are shown.

    Attributes:
        crop: int64 [B, 4], the part of the original that is seen; empty (x2 = x1) when only fill is seen.
        place: int64 [B, 4], where that part lies in the picture before the flip.
        sizes: int64 [B, 2], (height, width) of the picture.
        flip: bool [B].
    """

    crop: np.ndarray
    place: np.ndarray
    sizes: np.ndarray
    flip: np.ndarray

    def canvas(self, multiple: int) -> tuple[int, int]:
        """(height, width) that holds every picture, each a multiple of ``multiple``."""
        height, width = -(-self.sizes.max(axis=0) // multiple) * multiple
        return int(height), int(width)

    def rows(self, which: slice | np.ndarray) -> "Placement":
        """The same for some of the images."""
        return Placement(crop=self.crop[which], place=self.place[which], sizes=self.sizes[which], flip=self.flip[which])

    def scales(self) -> np.ndarray:
        """float64 [B, 2], picture pixels a pixel of the original, (vertical, horizontal)."""
        seen, shown = self.crop[:, 2:] - self.crop[:, :2], self.place[:, 2:] - self.place[:, :2]
        scales: np.ndarray = np.divide(shown, seen, out=np.ones(seen.shape), where=seen > 0)[:, ::-1]
        return scales

    def move(self, boxes: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Boxes of the originals on the pictures, clipped to the part of the original that is seen.

        Args:
            boxes: [N, 4]; image: int64 [N], the image of each.

        Returns:
            float32 [N, 4]; a box that is not seen comes back without area.
        """
        scale = self.scales()[image][:, ::-1]
        crop, place = self.crop[image], self.place[image]
        corners = boxes.astype(np.float64).reshape(-1, 2, 2)
        corners = (corners - crop[:, None, :2]) * scale[:, None] + place[:, None, :2]
        corners = np.clip(corners, place[:, None, :2], place[:, None, 2:])
        width = self.sizes[image, 1]
        flipped = np.stack([width - corners[:, 1, 0], width - corners[:, 0, 0]], axis=1)
        corners[:, :, 0] = np.where(self.flip[image][:, None], flipped, corners[:, :, 0])
        moved: np.ndarray = corners.reshape(-1, 4).astype(np.float32)
        return moved

    def seen(self, boxes: np.ndarray, image: np.ndarray, region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which boxes are left on the pictures, and as what.

        An object whose centre the crop has cut off is an object no longer (SSD's rule), but neither is what is left of
        it background: it becomes a region. Objects smaller than LEAST_SIDE and regions without area are dropped.

        Args:
            boxes: [N, 4], clipped; image: int64 [N]; region: bool [N], what is a region already.

        Returns:
            kept bool [N], and region bool [N] (of all N).
        """
        crop = self.crop[image]
        centre = (boxes[:, :2].astype(np.float64) + boxes[:, 2:]) / 2
        whole = ((centre >= crop[:, :2]) & (centre <= crop[:, 2:])).all(axis=1)
        moved = self.move(boxes, image)
        least = (moved[:, 2:] - moved[:, :2]).min(axis=1, initial=np.inf)
        region = region | ~whole
        return np.where(region, least > 0, least >= LEAST_SIDE), region


def clip(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Boxes [N, 4] cut at the borders of their images; ``sizes`` [N, 2] (height, width) is of each box's image."""
    limits = sizes[:, [1, 0, 1, 0]].astype(boxes.dtype)
    clipped: np.ndarray = np.clip(boxes, 0, limits)
    return clipped


def trained(flags: np.ndarray) -> np.ndarray:
    """bool [N]: boxes ever shown to a model, as objects or as regions; ``flags`` uint16 [N] of BoxFlag."""
    shown: np.ndarray = (flags & np.uint16(NOT_TRAINED)) == 0
    return shown


def region(flags: np.ndarray) -> np.ndarray:
    """bool [N]: boxes that are regions."""
    regions: np.ndarray = (flags & np.uint16(REGION)) != 0
    return regions


def place(
    augmentation: Augmentation,
    key: Key,
    positions: np.ndarray,
    sizes: np.ndarray,
    boxes: np.ndarray,
    box_image: np.ndarray,
) -> Placement:
    """Decide how images are shown.

    Args:
        positions: int64 [B], places in the plan.
        sizes: int64 [B, 2], (height, width) of the upright originals.
        boxes: float [N, 4], the objects (clipped, without regions); only the IoU crop looks at them.
        box_image: int64 [N], the image of each, never falling.
    """
    u = uniforms(key, Purpose.GEOMETRY, positions, 12)
    width, height = sizes[:, 1], sizes[:, 0]
    extent = np.stack([width, height], axis=1)
    origin = np.zeros_like(extent)

    # The window of the original that is shown; it may reach outside the image.
    low, high = augmentation.zoom_out_sides
    side = np.where(u[:, 0] < augmentation.zoom_out, low + (high - low) * u[:, 1], 1.0)
    scene = (extent * side[:, None]).astype(np.int64)
    origin -= ((scene - extent) * u[:, 2:4]).astype(np.int64)
    window = np.concatenate([origin, origin + scene], axis=1)
    starts = np.searchsorted(box_image, np.arange(len(positions) + 1))
    for row in np.flatnonzero(u[:, 4] < augmentation.iou_crop):
        own = boxes[starts[row] : starts[row + 1]]
        window[row] = _iou_crop(window[row], own, key, positions[row : row + 1])

    # Its size on the picture, before jitter.
    extent = window[:, 2:] - window[:, :2]
    choices = np.array(augmentation.short_side)
    short = choices[(u[:, 5] * len(choices)).astype(np.int64)]
    scale = np.minimum(short / extent.min(axis=1), augmentation.max_side / extent.max(axis=1))
    if augmentation.scale_jitter is not None:
        low, high = augmentation.scale_jitter
        factor = low + (high - low) * u[:, 6]
        part = (extent / np.maximum(factor, 1)[:, None]).astype(np.int64).clip(1)
        origin = window[:, :2] + ((extent - part) * u[:, 7:9]).astype(np.int64)
        window = _on_grid(np.concatenate([origin, origin + part], axis=1), window)
        # Zooming in, the window takes the size that the whole had; a grid cell more of it may not make it larger.
        grown = window[:, 2:] - window[:, :2]
        scale = np.minimum(scale * factor, ((extent * scale[:, None]) / grown).min(axis=1))
        extent = grown
    shown = np.clip(np.rint(extent * scale[:, None]).astype(np.int64), 1, augmentation.max_side)

    image = np.concatenate([np.zeros_like(extent), width[:, None], height[:, None]], axis=1)
    crop = np.concatenate([np.maximum(window[:, :2], image[:, :2]), np.minimum(window[:, 2:], image[:, 2:])], axis=1)
    seen = np.asarray((crop[:, 2:] > crop[:, :2]).all(axis=1))
    crop = np.where(seen[:, None], crop, 0)
    exact = (crop.reshape(-1, 2, 2) - window[:, None, :2]) * (shown / extent)[:, None]
    corner = np.clip(np.rint(exact[:, 0]).astype(np.int64), 0, shown - 1)
    far = np.clip(np.rint(exact[:, 1]).astype(np.int64), corner + 1, shown)
    target = np.where(seen[:, None], np.concatenate([corner, far], axis=1), 0)
    return Placement(crop=crop, place=target, sizes=shown[:, ::-1].copy(), flip=u[:, 9] < augmentation.flip)


def _on_grid(window: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Windows [..., 4] widened to multiples of GRID, as far as the bounds allow."""
    first = np.maximum(window[..., :2] // GRID * GRID, bounds[..., :2])
    last = np.minimum(-(-window[..., 2:] // GRID) * GRID, bounds[..., 2:])
    return np.concatenate([first, last], axis=-1)


def _iou_crop(scene: np.ndarray, boxes: np.ndarray, key: Key, position: np.ndarray) -> np.ndarray:
    """SSD's crop (Liu et al. 2016, section 3.2) with torchvision's parameters: int64 [4], a window in the scene.

    A least IoU is drawn (1: the whole scene); then up to 40 windows with sides of 0.3 to 1 of the scene's and an
    aspect of 1/2 to 2 of them; the first wins that holds a box's centre and overlaps one such box by that IoU at least.
    Without success another IoU is drawn, 8 times at most. Without boxes it is the whole scene.
    """
    if len(boxes) == 0:
        return scene
    extent = (scene[2:] - scene[:2]).astype(np.float64)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for attempt in range(_CROP_ATTEMPTS):
        u = uniforms(key, Purpose.CROP, position, 1 + 4 * _CROP_TRIALS, attempt=attempt)[0]
        least = _CROP_IOUS[int(u[0] * len(_CROP_IOUS))]
        if least >= 1:
            return scene
        trial = u[1:].reshape(_CROP_TRIALS, 4)
        sides = np.floor(extent * (0.3 + 0.7 * trial[:, :2]))
        corner = scene[:2] + np.floor((extent - sides) * trial[:, 2:])
        windows = np.concatenate([corner, corner + sides], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            aspect = sides[:, 0] / sides[:, 1]
        inside = ((centre > windows[:, None, :2]) & (centre < windows[:, None, 2:])).all(axis=2)  # [trials, boxes]
        shared = np.minimum(boxes[:, 2:], windows[:, None, 2:]) - np.maximum(boxes[:, :2], windows[:, None, :2])
        overlap = np.prod(np.maximum(shared, 0), axis=2)
        iou = overlap / np.maximum(area + np.prod(sides, axis=1)[:, None] - overlap, 1e-9)
        # NaN or a zero side fails the comparisons
        fits = (aspect >= 0.5) & (aspect <= 2) & (np.where(inside, iou, -1).max(axis=1) >= least)
        if fits.any():
            return _on_grid(windows[int(fits.argmax())].astype(np.int64), scene)
    return scene

"""What happens to pixels: decode, crop, resize, flip, distort, written straight into the batch's canvas.

Torch-free: it runs in data tasks, where importing torch would cost seconds a process.
"""

import cv2
import numpy as np

from xray_det.data.augmentation import Augmentation
from xray_det.data.defect import Defect
from xray_det.data.geometry import Placement
from xray_det.data.images import BadImage, decode
from xray_det.data.randomness import Key, Purpose, uniforms

#: Shrinking by more than this, pixels are averaged; up to it, bilinear interpolation skips no pixel and is faster.
_LINEAR_LIMIT = 2.0
_LUMA = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_ORDERS = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])


def draw(
    canvas: np.ndarray,
    data: bytes,
    original: tuple[int, int],
    placement: Placement,
    row: int,
    colours: np.ndarray | None = None,
) -> None:
    """Decode one image and write it into its place on the canvas.

    Args:
        canvas: uint8 [H, W, 3], changed within the picture's size; outside its place it is left alone.
        data: the encoded image.
        original: (height, width) of the upright image, as ingested.
        placement: of the batch; row: which of its images this is.
        colours: how its colours are distorted, a matrix of ``distortions``.

    Raises:
        BadImage: the bytes cannot be decoded, or their size is another one than at ingest.
    """
    x1, y1, x2, y2 = placement.crop[row].tolist()
    left, top, right, bottom = placement.place[row].tolist()
    if x2 <= x1:
        return
    width, height = right - left, bottom - top
    # the decoder may give half, a quarter or an eighth of the size as long as nothing has to be enlarged for it
    scale = max(width / (x2 - x1), height / (y2 - y1))
    image = decode(data, min_short_side=int(np.ceil(min(original) * scale)))
    sizes = {factor: (-(-original[0] // factor), -(-original[1] // factor)) for factor in (1, 2, 4, 8)}
    reduction = next((factor for factor, size in sizes.items() if image.shape[:2] == size), None)
    if reduction is None:
        found = f"{image.shape[1]}x{image.shape[0]}"
        raise BadImage(Defect.WRONG_SIZE, f"{found}, at ingest it was {original[1]}x{original[0]}")
    source = image[y1 // reduction : -(-y2 // reduction), x1 // reduction : -(-x2 // reduction)]
    mirrored = bool(placement.flip[row])
    if mirrored:
        left = int(placement.sizes[row, 1]) - right
    target = canvas[top : top + height, left : left + width]
    smaller = source.size < target.size
    if mirrored and smaller:
        source = cv2.flip(source, 1)
    if source.shape == target.shape:
        target[...] = source
    else:
        shrink = max(source.shape[1] / width, source.shape[0] / height)
        method = cv2.INTER_AREA if shrink > _LINEAR_LIMIT else cv2.INTER_LINEAR
        cv2.resize(source, (width, height), dst=target, interpolation=method)
    if mirrored and not smaller:
        cv2.flip(target, 1, dst=target)
    if colours is not None:
        distort(target, colours)


def distortions(augmentation: Augmentation, key: Key, positions: np.ndarray) -> list[np.ndarray | None]:
    """For each position the colour matrix float32 [3, 4] of ``distort``, or None where colours stay.

    As torchvision's RandomPhotometricDistort, each change with a chance of a half: brightness 7/8 to 9/8, contrast and
    saturation 1/2 to 3/2, hue by up to 18 degrees (as a rotation in YIQ, which makes every change linear), and the
    order of the channels.
    """
    u = uniforms(key, Purpose.PHOTOMETRIC, positions, 12)
    chosen = u[:, 0] < augmentation.photometric
    return [_matrix(numbers) if yes else None for numbers, yes in zip(u, chosen, strict=True)]


def _matrix(u: np.ndarray) -> np.ndarray:
    on, amount = u[1:6] < 0.5, u[6:11]
    brightness = 0.875 + 0.25 * amount[0] if on[0] else 1.0
    contrast = 0.5 + amount[1] if on[1] else 1.0
    saturation = 0.5 + amount[2] if on[2] else 1.0
    angle = 2 * np.pi * 0.05 * (2 * amount[3] - 1) if on[3] else 0.0
    turn = saturation * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    chroma = np.eye(3)
    chroma[1:, 1:] = turn
    colours = brightness * np.linalg.inv(_TO_YIQ) @ chroma @ _TO_YIQ
    # contrast blends with the mean luma, which saturation and hue leave alone
    matrix = np.concatenate([contrast * colours, (1 - contrast) * brightness * np.ones((3, 1))], axis=1)
    order = _ORDERS[int(amount[4] * len(_ORDERS))] if on[4] else _ORDERS[0]
    result: np.ndarray = matrix[order].astype(np.float32)
    return result


def distort(picture: np.ndarray, matrix: np.ndarray) -> None:
    """Change the colours of a picture uint8 [h, w, 3] in place.

    Args:
        matrix: float32 [3, 4]; column 3 is multiplied by the picture's mean luma, the others by red, green, blue.
    """
    luma = float(_LUMA @ np.array(cv2.mean(picture)[:3]))
    affine = np.concatenate([matrix[:, :3], matrix[:, 3:] * luma], axis=1)
    cv2.transform(picture, affine, dst=picture)

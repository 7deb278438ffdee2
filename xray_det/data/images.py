"""Encoded images as facts and as pixels: upright, RGB, and guarded against files that are not what they say.

Shapes: H, W of the upright image. Free of torch, whose import costs a worker process seconds.
"""

import io
import re
import struct
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
import simplejpeg
from PIL import Image

from xray_det.data.defect import Defect

#: More than this is taken for a decompression bomb (PIL's own limit; 536 MB as RGB).
MAX_PIXELS: Final = 178_956_970
#: Of a file: as many pixels uncompressed, and a header.
MAX_BYTES: Final = 3 * MAX_PIXELS + (1 << 20)
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000")
#: How many bits the sensors and writers of deep images use; the values of an image tell how many it does.
_DEPTHS: Final = (8, 10, 12, 14, 16, 24, 32)
#: ISO base media brands of HEIC and HEIF, which neither PIL nor OpenCV reads.
_HEIF: Final = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
_ORIENTATION: Final = 0x0112
#: PIL and OpenCV turn these upright themselves, and PIL gives the upright size.
_TURNED: Final = ("TIFF",)
#: libjpeg warns of these in files that show nothing of it; PIL reads them.
_HARMLESS: Final = "extraneous bytes"


class BadImage(Exception):
    """Bytes that cannot be read as an image.

    Args:
        reason: TRUNCATED_IMAGE, UNREADABLE_IMAGE or IMAGE_BOMB.
        detail: what the decoder said.
    """

    def __init__(self, reason: Defect, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type, tuple[Defect, str]]:
        return type(self), (self.reason, self.detail)


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What a file's header says.

    Attributes:
        width: of the upright image, in pixels.
        height: likewise.
        orientation: how to turn the stored image upright, EXIF's 1 to 8; 1 where the tag is missing or invalid.
        published_orientation: the tag as it stands in the file; None: missing.
        grey: it has one channel.
        deep: it stores more than 8 bits a channel.
        format: PIL's name, e.g. ``JPEG``.
    """

    width: int
    height: int
    orientation: int
    published_orientation: int | None
    grey: bool
    deep: bool
    format: str

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height before the image is turned upright."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def inspect(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageFacts:
    """Read the header, decode nothing (but a PNG, whose orientation may stand behind its pixels).

    Raises:
        BadImage: empty, not an image, or with more than ``max_pixels``.
    """
    with _open(data, max_pixels) as image:
        return _facts(image, data)


def verify(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageFacts:
    """As ``inspect``, and decode all of the file, at an eighth of its size where the format allows.

    Raises:
        BadImage: also where the file ends too early or is damaged, or its values have no range: negative or not finite.
    """
    with _open(data, max_pixels) as image:
        facts = _facts(image, data)
        if facts.format == "JPEG":
            try:
                simplejpeg.decode_jpeg(data, "GRAY", fastdct=True, **_reduced(image.size, 8))
                return facts
            except ValueError as error:
                _refuse_damage(error)  # else a kind of JPEG that PIL knows
        _load(image)
        if facts.deep:
            _rgb(image, data, facts.deep)  # its values may have no range to be scaled by
        return facts


def decode(data: bytes, *, min_short_side: int | None = None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Pixels of the upright image.

    Args:
        data: the encoded file.
        min_short_side: the shorter side may be decoded this small. A JPEG is then decoded at 1/2, 1/4 or 1/8 (each side
            rounded up) where its shorter side stays at least as long; None: at full size.

    Returns:
        uint8 [H, W, 3] RGB, contiguous. Of more than 8 bits a channel the upper 8 of those that the image uses are
        kept: 12 bits in 16 are 12 bits. Floating point numbers are taken for 0 to 1, for 0 to 255 or for such bits.

    Raises:
        BadImage: as ``verify``.
    """
    size = _plain_jpeg(data)
    if size is not None and size[0] * size[1] <= max_pixels:
        with suppress(ValueError):  # what is wrong with it is found out below
            return _jpeg(data, size, min_short_side)
    with _open(data, max_pixels) as image:
        facts = _facts(image, data)
        pixels: np.ndarray | None = None
        if facts.format == "JPEG" and image.mode in ("L", "RGB"):
            try:
                pixels = _jpeg(data, image.size, min_short_side)
            except ValueError as error:
                _refuse_damage(error)
        if pixels is None:
            pixels = _rgb(_load(image), data, facts.deep)
    return upright(pixels, 1 if facts.format in _TURNED else facts.orientation)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels [h, w, 3] upright by EXIF orientation 1 to 8, contiguous [H, W, 3]."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def boxes_upright(boxes: np.ndarray, orientation: int, stored_size: tuple[int, int]) -> np.ndarray:
    """Boxes of the stored image as boxes of the upright one.

    Args:
        boxes: [N, 4] x1, y1, x2, y2 in pixels of the stored image.
        orientation: EXIF's 1 to 8.
        stored_size: width and height of the stored image.
    """
    x1, y1, x2, y2 = boxes.T
    width, height = stored_size
    if orientation >= 5:
        x1, y1, x2, y2 = y1, x1, y2, x2
        width, height = height, width
    if orientation in (3, 4, 7, 8):
        y1, y2 = height - y2, height - y1
    if orientation in (2, 3, 6, 7):
        x1, x2 = width - x2, width - x1
    return np.stack([x1, y1, x2, y2], axis=1)


def _plain_jpeg(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG that needs nothing but decoding: no CMYK, nothing that could turn it (EXIF, XMP).

    Most are such, and opening one with PIL takes a third of the time of decoding it.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    place = 2
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] not in (b"\xda", b""):  # to the first scan
        if data[place + 1] == 0xE1:  # APP1 holds EXIF and XMP
            return None
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (width, height) if space in ("YCbCr", "Gray") else None


def _jpeg(data: bytes, size: tuple[int, int], min_short_side: int | None) -> np.ndarray:
    """Stored pixels [h, w, 3] of a JPEG of this width and height; ValueError if the decoder dislikes it."""
    pixels: np.ndarray = simplejpeg.decode_jpeg(data, "RGB", **_reduced(size, _factor(size, min_short_side)))
    return pixels


def _reduced(size: tuple[int, int], factor: int) -> dict[str, int]:
    """The decoder's arguments for 1/factor of the size: it reduces only to a least size that it is given."""
    if factor == 1:
        return {}
    width, height = size
    return {"min_width": -(-width // factor), "min_height": -(-height // factor), "min_factor": factor}


def _factor(size: tuple[int, int], min_short_side: int | None) -> int:
    """The largest of 1, 2, 4, 8 that leaves the shorter side at least ``min_short_side`` long."""
    if min_short_side is None:
        return 1
    return next((f for f in (8, 4, 2) if -(-min(size) // f) >= min_short_side), 1)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():  # PIL warns of half the pixels it refuses, and of broken EXIF
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise BadImage(Defect.IMAGE_BOMB, str(error)) from error
    except Exception as error:  # PIL's readers raise what they please on bytes that are no image
        detail = "the file is empty" if not data else str(error) or type(error).__name__
        if data[4:8] == b"ftyp" and data[8:12] in _HEIF:
            detail = "HEIC: no library here reads it; convert it to JPEG or PNG"
        raise BadImage(_reason(error), detail.split(" <_io")[0]) from error
    if image.width * image.height > max_pixels:
        raise BadImage(Defect.IMAGE_BOMB, f"{image.width} x {image.height} pixels, the limit is {max_pixels}")
    return image


def _facts(image: Image.Image, data: bytes) -> ImageFacts:
    deep = _deep(image, data)  # before getexif, which loads a PNG and with it forgets how it was stored
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tag = image.getexif().get(_ORIENTATION)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):  # EXIF that is not EXIF
        tag = None
    published = tag if isinstance(tag, int) else None
    orientation = published if published is not None and 1 <= published <= 8 else 1
    width, height = image.size
    if orientation >= 5 and image.format not in _TURNED:
        width, height = height, width
    kind = "JPEG" if image.format == "MPO" else str(image.format)  # MPO: a JPEG with more pictures after it
    grey = image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;")
    return ImageFacts(
        width=width,
        height=height,
        orientation=orientation,
        published_orientation=published,
        grey=grey,
        deep=deep,
        format=kind,
    )


def _refuse_damage(error: ValueError) -> None:
    """Raise for a JPEG that is damaged; return for one that this decoder only does not know or grumbles at."""
    text = str(error)
    if "Premature end" in text:
        raise BadImage(Defect.TRUNCATED_IMAGE, text) from error
    if "Corrupt" in text and _HARMLESS not in text:
        raise BadImage(Defect.UNREADABLE_IMAGE, text) from error


def _load(image: Image.Image) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except Exception as error:  # as in _open
        raise BadImage(_reason(error), str(error) or type(error).__name__) from error
    return image


def _reason(error: Exception) -> Defect:
    """PIL says in words alone that a file ends too early."""
    truncated = "truncated" in str(error).lower() or isinstance(error, EOFError)
    return Defect.TRUNCATED_IMAGE if truncated else Defect.UNREADABLE_IMAGE


#: The start of a codestream, its sizes, the number of components, and the bits less one of the first component.
_JPEG2000_DEPTH: Final = re.compile(rb"\xff\x4f\xff\x51.{38}(.)", re.DOTALL)


def _deep(image: Image.Image, data: bytes) -> bool:
    """Whether the file stores more than 8 bits a channel and PIL keeps or drops them, by the header."""
    if image.mode.startswith(("I", "F")):
        return True
    if image.format == "TIFF":
        return any(bits > 8 for bits in getattr(image, "tag_v2", {}).get(258, ()))  # BitsPerSample
    if image.format == "JPEG2000":
        depth = _JPEG2000_DEPTH.search(data)
        return depth is not None and (depth[1][0] & 0x7F) + 1 > 8
    tiles = getattr(image, "tile", ()) if image.format == "PNG" else ()
    return any(isinstance(tile.args, str) and ";16" in tile.args for tile in tiles)  # PIL's name of the stored mode


def _rgb(image: Image.Image, data: bytes, deep: bool) -> np.ndarray:
    """uint8 [H, W, 3] of a loaded image of any mode; ``data``: of which; ``deep``: of its facts.

    Raises:
        BadImage: values without a range that could be scaled.
    """
    if image.mode.startswith(("I", "F")):
        return np.repeat(_eight_bits(np.asarray(image))[:, :, None], 3, axis=2)
    if deep:  # PIL has kept the upper 8 of 16 bits, whether the image uses them or not
        import cv2

        wide = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if wide is not None and wide.dtype == np.uint16 and wide.ndim == 3:
            return np.asarray(_eight_bits(wide[:, :, 2::-1]))
    with warnings.catch_warnings():  # PIL warns of a palette with transparency
        warnings.simplefilter("ignore")
        return np.asarray(image.convert("RGB"))


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """The upper 8 bits of those that an image's values use (_DEPTHS), as uint8 of the same shape.

    No header says how many of 16 bits a sensor filled, so the largest value does: a dark image of many bits may pass
    for one of fewer, and becomes brighter, where taking the upper 8 of 16 would make most such images black.
    """
    low, high = float(values.min()), float(values.max())
    if not (0 <= low <= high < 2**32):  # NaN is not either
        raise BadImage(Defect.UNREADABLE_IMAGE, f"values from {low:g} to {high:g} have no range to be scaled by")
    if values.dtype.kind == "f" and high <= 1:
        eight: np.ndarray = np.rint(values * 255)
    else:
        eight = values.astype(np.int64) >> (next(bits for bits in _DEPTHS if high < 2**bits) - 8)
    return eight.astype(np.uint8)

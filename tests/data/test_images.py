"""Encoded images: upright once, RGB, guarded; PIL is the oracle for pixels, paint for boxes."""

import io
import pickle
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from xray_det.data.defect import Defect
from xray_det.data.images import BadImage, boxes_upright, decode, inspect, upright, verify


def picture(width: int = 40, height: int = 24) -> Image.Image:
    """Smooth, and different in every corner."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, (x + y) / 2], axis=2).astype(np.uint8))


def encoded(image: Image.Image, format: str = "JPEG", orientation: int | None = None, **options: object) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    sink = io.BytesIO()
    image.save(sink, format, exif=exif, **({"quality": 95} if format == "JPEG" else {}), **options)
    return sink.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "MPO"])
def test_orientation_is_applied_once_as_pil_applies_it(orientation: int, format: str) -> None:
    data = encoded(picture(), format, orientation)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    facts = inspect(data)
    assert (facts.height, facts.width) == expected.shape[:2]
    assert facts.orientation == facts.published_orientation == orientation
    assert facts.stored_size == (40, 24)
    pixels = decode(data)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert np.abs(pixels - expected).max() <= 2  # two versions of libjpeg
    assert verify(data) == facts


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_their_image(orientation: int) -> None:
    box = np.array([5, 2, 12, 20])
    stored = np.zeros((24, 40, 3), np.uint8)
    stored[box[1] : box[3], box[0] : box[2]] = 1
    turned = upright(stored, orientation)
    ((x1, y1, x2, y2),) = boxes_upright(box[None].astype(float), orientation, (40, 24))
    expected = np.zeros_like(turned)
    expected[int(y1) : int(y2), int(x1) : int(x2)] = 1
    np.testing.assert_array_equal(turned, expected)


@pytest.mark.parametrize("orientation", [0, 9, 65537])
def test_an_orientation_that_does_not_exist_is_none(orientation: int) -> None:
    tag = struct.pack("<HHIHH", 0x0112, 3, 1, orientation & 0xFFFF, 0)
    if orientation > 0xFFFF:
        tag = struct.pack("<HHII", 0x0112, 4, 1, orientation)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + tag + b"\0\0\0\0"
    sink = io.BytesIO()
    picture().save(sink, "JPEG", exif=exif)
    facts = inspect(sink.getvalue())
    assert (facts.width, facts.height, facts.orientation) == (40, 24, 1)
    assert facts.published_orientation == orientation
    assert decode(sink.getvalue()).shape == (24, 40, 3)


def test_broken_exif_is_none() -> None:
    sink = io.BytesIO()
    picture().save(sink, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\0\0")
    assert inspect(sink.getvalue()).orientation == 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    format = {"CMYK": "JPEG"}.get(mode, "PNG")
    image = picture().convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    data = encoded(image, format)
    facts = inspect(data)
    assert facts.grey == (mode in ("L", "1", "LA", "I;16"))
    expected = np.asarray((picture().convert("L") if mode == "I;16" else image).convert("RGB")).astype(int)
    assert np.abs(decode(data) - expected).max() <= (4 if format == "JPEG" else 0)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000"])
def test_every_format_opens(format: str) -> None:
    facts = verify(encoded(picture(), format))
    assert (facts.width, facts.height, facts.format) == (40, 24, format)


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((1600, 1200), None, (1600, 1200)),
        ((1600, 1200), 600, (800, 600)),
        ((1600, 1200), 601, (1600, 1200)),
        ((1600, 1200), 300, (400, 300)),
        ((1200, 1600), 150, (150, 200)),
        ((1600, 1200), 1, (200, 150)),
        ((1601, 1203), 301, (401, 301)),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_reduced_decoding_keeps_the_shorter_side(
    size: tuple[int, int], side: int | None, expected: tuple[int, int], orientation: int
) -> None:
    pixels = decode(encoded(picture(*size), "JPEG", orientation), min_short_side=side)
    width, height = expected if orientation == 1 else expected[::-1]
    assert pixels.shape == (height, width, 3)


@pytest.mark.parametrize(
    ("format", "missing"), [("JPEG", 1), ("JPEG", 2), ("JPEG", 20), ("JPEG", 1000), ("PNG", 200), ("PNG", 5000)]
)
def test_a_file_that_ends_too_early_is_refused(format: str, missing: int) -> None:
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), format)
    for read in (verify, decode):
        with pytest.raises(BadImage) as caught:
            read(data[:-missing])
        assert caught.value.reason == Defect.TRUNCATED_IMAGE


def test_the_real_truncated_file(shared_data: Path) -> None:
    data = (shared_data / "real_defects/kangaroo/00090.jpg").read_bytes()
    assert inspect(data).width > 0  # the header alone says nothing of it
    with pytest.raises(BadImage, match="truncated_image"):
        verify(data)


def test_a_damaged_scan_is_refused_and_harmless_bytes_are_not() -> None:
    data = bytearray(encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))))
    harmless = bytes(data[:-2]) + b"\0\0\0\0" + bytes(data[-2:])  # between the scan and the end marker
    assert verify(harmless).width == 64
    assert decode(harmless).shape == (64, 64, 3)
    data[len(data) // 2 : len(data) // 2 + 2] = b"\xff\xd9"  # an end marker in the middle
    with pytest.raises(BadImage):
        verify(bytes(data))


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8\xff", b"<svg/>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    for read in (inspect, verify, decode):
        with pytest.raises(BadImage) as caught:
            read(data)
        assert caught.value.reason == Defect.UNREADABLE_IMAGE
    if not data:
        assert "empty" in caught.value.detail


def bomb_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bomb_jpeg(width: int, height: int) -> bytes:
    data = bytearray(encoded(picture()))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("data", [bomb_png(50_000, 50_000), bomb_jpeg(50_000, 50_000), bomb_jpeg(14_000, 14_000)])
def test_bombs_are_refused_by_their_header(data: bytes) -> None:
    for read in (inspect, verify, decode):
        with pytest.raises(BadImage) as caught:
            read(data)
        assert caught.value.reason == Defect.IMAGE_BOMB


def test_the_limit_is_an_argument() -> None:
    data = encoded(picture())
    assert inspect(data, max_pixels=40 * 24).width == 40
    for read in (inspect, verify, decode):
        with pytest.raises(BadImage, match="40 x 24 pixels, the limit is 959"):
            read(data, max_pixels=40 * 24 - 1)


def test_reasons_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(BadImage(Defect.IMAGE_BOMB, "too large")))
    assert (error.reason, error.detail, str(error)) == (Defect.IMAGE_BOMB, "too large", "image_bomb: too large")


def png(pixels: np.ndarray, bits: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG written by hand: bits a sample and the standard's colour type; ``chunks`` stand before the pixels."""
    samples = pixels.reshape(len(pixels), -1)
    rows = (
        samples.astype(">u2").view(np.uint8) if bits == 16 else np.packbits(samples, axis=1) if bits == 1 else samples
    )

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", pixels.shape[1], len(pixels), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in rows))
    before = b"".join(chunk(one[:4], one[4:]) for one in chunks)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff(pixels: np.ndarray) -> bytes:
    """A TIFF as OpenCV writes it, whose modes are more than PIL's."""
    done, data = cv2.imencode(".tiff", pixels)
    assert done
    return bytes(data)


RAMP = np.arange(24 * 40).reshape(24, 40) / (24 * 40 - 1)  # 0 to 1


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["png", "tiff", "pgm"])
def test_deep_grey_keeps_the_bits_that_are_used(bits: int, kind: str) -> None:
    wide = np.rint(RAMP * (2**bits - 1)).astype(np.uint16)
    pgm = f"P5 40 24 {max(2**bits - 1, 256)}\n".encode() + wide.astype(">u2").tobytes()
    data = {"png": png(wide, 16, 0), "tiff": tiff(wide), "pgm": pgm}[kind]
    facts = verify(data)
    assert (facts.grey, facts.deep) == (True, True)
    expected = np.repeat((wide >> (bits - 8)).astype(np.uint8)[:, :, None], 3, axis=2)
    assert np.abs(decode(data).astype(int) - expected).max() <= 1  # PIL scales a PGM by the largest value it names
    assert decode(data).max() >= 254


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("kind", ["rgb png", "rgba png", "grey and alpha png", "rgb tiff"])
def test_deep_colour_keeps_the_bits_that_are_used(bits: int, kind: str) -> None:
    """PIL alone takes the upper 8 of 16 bits: 12-bit colour would be nearly black."""
    wide = np.rint(np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1], RAMP], axis=2) * (2**bits - 1)).astype(np.uint16)
    rgb = wide[:, :, :3] if kind.startswith("rgb") else wide[:, :, [0, 0, 0]]
    data = {
        "rgb png": png(rgb, 16, 2),
        "rgba png": png(wide, 16, 6),
        "grey and alpha png": png(wide[:, :, [0, 3]], 16, 4),
        "rgb tiff": tiff(rgb[:, :, ::-1]),
    }[kind]
    assert verify(data).deep
    np.testing.assert_array_equal(decode(data), (rgb >> (bits - 8)).astype(np.uint8))


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_jpeg_2000_keeps_the_bits_that_are_used(bits: int, channels: int) -> None:
    wide = np.resize(np.rint(RAMP * (2**bits - 1)).astype(np.uint16), (96, 80, channels))
    done, data = cv2.imencode(".jp2", wide[:, :, ::-1], [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])  # lossless
    assert done
    assert verify(bytes(data)).deep
    np.testing.assert_array_equal(decode(bytes(data)), np.broadcast_to(wide >> (bits - 8), (96, 80, 3)))
    assert not verify(encoded(picture(), "JPEG2000")).deep


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 255), (0.5, 127.5), (255.0, 255), (4095.0, 255), (65535.0, 255)])
def test_floating_point_is_taken_for_shares_or_for_whole_numbers(scale: float, expected: float) -> None:
    data = tiff((RAMP * scale).astype(np.float32))
    assert verify(data).deep
    np.testing.assert_allclose(decode(data)[:, :, 1], RAMP * expected, atol=1)


@pytest.mark.parametrize(
    "values",
    [
        RAMP.astype(np.float32) - 0.5,
        np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32),
        (RAMP * 9 - 5).astype(np.int16),
    ],
    ids=["negative", "NaN", "signed"],
)
def test_values_without_a_range_are_refused_by_every_reader(values: np.ndarray) -> None:
    for read in (verify, decode):
        with pytest.raises(BadImage, match="have no range to be scaled by") as caught:
            read(tiff(values))
        assert caught.value.reason == Defect.UNREADABLE_IMAGE


def moving(format: str, **options: object) -> bytes:
    """A first picture, then its negative."""
    sink = io.BytesIO()
    first = picture()
    first.save(sink, format, save_all=True, append_images=[ImageOps.invert(first)], **options)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("format", "atol"), [("GIF", 40), ("PNG", 0), ("WEBP", 40), ("MPO", 40), ("TIFF", 0), ("AVIF", 40)]
)
def test_of_several_pictures_the_first_is_read(format: str, atol: int) -> None:
    data = moving(format)
    assert (verify(data).width, verify(data).height) == (40, 24)
    assert np.abs(decode(data).astype(int) - np.asarray(picture())).mean() <= atol / 8


def test_one_bit_and_palettes_with_transparency() -> None:
    black_and_white = (RAMP > 0.5).astype(np.uint8)
    np.testing.assert_array_equal(decode(png(black_and_white, 1, 0))[:, :, 0], black_and_white * 255)
    rows = (np.arange(24 * 40).reshape(24, 40) % 3).astype(np.uint8)
    palette = np.array([[255, 0, 0], [0, 255, 0], [9, 8, 7]], np.uint8)
    data = png(rows, 8, 3, b"PLTE" + palette.tobytes(), b"tRNS" + bytes([0, 128, 255]))
    np.testing.assert_array_equal(decode(data), palette[rows])


def test_transparency_leaves_the_colours_as_they_are_stored() -> None:
    rgba = np.dstack([np.asarray(picture()), np.zeros((24, 40), np.uint8)])
    np.testing.assert_array_equal(decode(png(rgba, 8, 6)), rgba[:, :, :3])


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_name_says_nothing_of_the_bytes(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"a{suffix}"
    for format in ("PNG", "JPEG", "WEBP"):
        file.write_bytes(encoded(picture(), format))
        assert verify(file.read_bytes()).format == format


def test_an_avif_is_turned_upright_as_pil_turns_it() -> None:
    data = encoded(picture(), "AVIF", orientation=6)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert (inspect(data).width, inspect(data).height) == (24, 40)
    np.testing.assert_array_equal(decode(data), expected)


def deep_tiff(pixels: np.ndarray, orientation: int) -> bytes:
    """A TIFF of one strip of 16-bit samples, written by hand: PIL and OpenCV write none that is turned."""
    height, width, channels = pixels.shape
    body, start = pixels.astype("<u2").tobytes(), 8
    bits = start + len(body)
    tags = [
        *[(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, bits if channels > 2 else 16), (259, 3, 1, 1)],
        *[(262, 3, 1, 2 if channels > 2 else 1), (273, 4, 1, start), (274, 3, 1, orientation)],
        *[(277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(body))],
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", bits + 6) + body + struct.pack("<3H", 16, 16, 16) + directory


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["plain", "deep grey", "deep colour"])
def test_a_tiff_is_turned_upright_once(orientation: int, kind: str) -> None:
    """Its decoders turn it, and PIL's size of it is the upright one before it is loaded."""
    if kind == "plain":
        stored = np.asarray(picture())
        sink = io.BytesIO()
        picture().save(sink, "TIFF", tiffinfo={0x0112: orientation})
        data = sink.getvalue()
    else:
        wide = np.asarray(picture())[:, :, : 1 if "grey" in kind else 3].astype(np.uint16) * 256
        stored, data = np.broadcast_to(wide >> 8, (24, 40, 3)).astype(np.uint8), deep_tiff(wide, orientation)
    facts = verify(data)
    expected = upright(stored, orientation)
    np.testing.assert_array_equal(decode(data), expected)
    assert (facts.height, facts.width) == expected.shape[:2]
    assert (facts.stored_size, facts.orientation) == ((40, 24), orientation)
    assert inspect(data) == facts


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_deep_png_is_turned_upright_once(orientation: int) -> None:
    exif = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)
    wide = np.asarray(picture()).astype(np.uint16) * 256
    np.testing.assert_array_equal(decode(png(wide, 16, 2, b"eXIf" + exif)), upright(np.asarray(picture()), orientation))


def test_field_images_are_read_or_named(shared_data: Path) -> None:
    folder = shared_data / "field_cases/deep_images/d/images"
    said = {}
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        try:
            facts = verify(data)
        except BadImage as error:
            said[file.name] = error.detail
            with pytest.raises(BadImage):
                decode(data)
            continue
        pixels = decode(data)
        assert pixels.shape == (facts.height, facts.width, 3) == (48, 64, 3)
        assert 120 < pixels.mean() < 140, file.name  # neither black nor white
        assert pixels.max() > 220
    assert said == {"h.heic": "HEIC: no library here reads it; convert it to JPEG or PNG"}

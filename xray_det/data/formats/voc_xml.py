"""One VOC annotation file as numbers."""

import math
import re
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from xray_det.data.formats.layout import wide_encoding
from xray_det.data.schema import BoxFlag
from xray_det.errors import InputError
from xray_det.storage import read_file

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_TURNED = ("cx", "cy", "w", "h", "angle")
_FLAGS = {"difficult": BoxFlag.DIFFICULT, "truncated": BoxFlag.TRUNCATED, "occluded": BoxFlag.OCCLUDED}
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.-]+)["']""")
_OF_AN_IMAGE = {"object", "filename", "size"}

Box = tuple[float, float, float, float]


@dataclass(kw_only=True)
class VocFile:
    """What one file says. ``boxes`` are x1, y1, x2, y2 as published: in VOC pixels are counted from 1.

    ``of_shapes`` is how many of them are drawn around a polygon or a turned box: no upright one is published.
    """

    file_name: str
    width: int | None
    height: int | None
    boxes: list[Box] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    of_shapes: int = 0

    @property
    def fractions(self) -> bool:
        """Whether all boxes lie in 0 to 1, but for rounding, and are not all empty: no pixels are meant."""
        inside = all(-0.001 <= side <= 1.001 for box in self.boxes for side in box)
        return inside and any(x2 > x1 for x1, _, x2, _ in self.boxes)

    @property
    def zero_based(self) -> int:
        """How many boxes have a first coordinate of 0, which a file that counts from 1 cannot hold."""
        return sum(box[0] == 0 or box[1] == 0 for box in self.boxes)


def read_voc_xml(path: Path) -> VocFile | None:
    """Read one file; None when it is another kind of XML: without an ``annotation`` as root, or alone in another root.

    Raises:
        InputError: a file that cannot be read, malformed XML, entities (an entity bomb), annotations of several images,
            an object without a name or place, text in a coordinate.
    """
    root = _annotation(_parsed(read_file(path), path), path)
    if root is None:
        return None
    size = root.find("size")
    read = VocFile(
        file_name=(root.findtext("filename") or "").strip(),
        width=_pixels(size, "width"),
        height=_pixels(size, "height"),
    )
    for number, item in enumerate(root.findall("object")):
        where = f"{path}: object {number + 1}"
        name = (item.findtext("name") or "").strip()
        if not name:
            raise InputError(where, "it has no <name>", "Name its class or remove it")
        boxes = [
            (x1, y1, x2, y2)
            for box in item.findall("bndbox")
            for x1, y1, x2, y2 in [[_number(box.findtext(corner), f"{where}.{corner}") for corner in _CORNERS]]
        ]
        if not boxes:
            around = _around(item, where)
            if around is None:
                raise InputError(where, f"the {name!r} has no <bndbox>", "Give it a box or remove it")
            boxes.append(around)
            read.of_shapes += 1
        read.boxes += boxes
        read.flags += [int(sum(flag for tag, flag in _FLAGS.items() if _yes(item.findtext(tag))))] * len(boxes)
        read.names += [name] * len(boxes)
    return read


def looks_like_voc(start: bytes) -> bool:
    """Whether the first bytes of an XML file, in any encoding, open a VOC annotation."""
    return re.search(rb"<([\w.-]+:)?annotation[\s/>]", start.replace(b"\0", b"")) is not None


def _parsed(data: bytes, path: Path) -> Element:
    try:
        try:
            root = _tree(data)
        except (ParseError, ValueError, LookupError):  # an encoding that expat has not, or that there is not at all
            declared = _DECLARED.match(data)
            text = _decoded(data, declared[1].decode() if declared else "utf-8")
            if text is None:
                raise
            root = _tree(text)
    except DefusedXmlException as error:
        raise InputError(
            path, f"the XML declares entities ({type(error).__name__})", "Remove its DOCTYPE, or the file"
        ) from error
    except (ParseError, ValueError, LookupError) as error:
        raise InputError(path, f"not well-formed XML ({error})", "Mend or remove the file") from error
    for element in root.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]  # without the namespace
    return root


def _tree(data: bytes | str) -> Element:
    root: Element = fromstring(data, forbid_dtd=False, forbid_entities=True, forbid_external=True)
    return root


def _decoded(data: bytes, declared: str) -> str | None:
    """The text of a file that begins with blank lines, or whose declaration the parser does not follow, as GB 2312, or
    that does not follow it itself: .NET declares UTF-16 and writes UTF-8. None where it is neither."""
    wide = wide_encoding(data)
    for encoding in ("utf-8-sig", declared) if wide is None else (wide,):
        try:
            text = data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
        return text.lstrip()
    return None


def _annotation(root: Element, path: Path) -> Element | None:
    if root.tag == "annotation":
        return root
    inside = [one for one in root.iter("annotation") if _OF_AN_IMAGE & {child.tag for child in one}]
    if len(inside) > 1:
        problem = f"holds the annotations of {len(inside)} images below <{root.tag}>"
        raise InputError(path, problem, "Write one file an image, called as the image is")
    return inside[0] if inside else None


def _around(item: Element, where: str) -> Box | None:
    """The box around an object's shape: Labelbox's and Roboflow's <polygon><x1>…, LabelMe's <pt><x>…, text of
    coordinates, or roLabelImg's <robndbox> turned by <angle> radians around its centre. None where it has no shape."""
    turned = item.find("robndbox")
    if turned is not None:
        cx, cy, w, h, angle = (_number(turned.findtext(tag), f"{where}.{tag}") for tag in _TURNED)
        cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
        x, y = (w * cos + h * sin) / 2, (w * sin + h * cos) / 2
        return cx - x, cy - y, cx + x, cy + y
    for shape in chain.from_iterable(map(item.findall, ("polygon", "points", "segmentation"))):
        tagged = [(part.tag, part.text) for part in shape.iter() if re.fullmatch(r"[xy]\d*", str(part.tag))]
        xs, ys = ([_number(text, f"{where}.{tag}") for tag, text in tagged if tag[0] == axis] for axis in "xy")
        if not tagged:
            words = re.split(r"[\s,;]+", " ".join(shape.itertext()).strip())
            numbers = [_number(word, f"{where}.{shape.tag}") for word in words if word]
            xs, ys = numbers[::2], numbers[1::2]
        if len(xs) == len(ys) > 1:
            return min(xs), min(ys), max(xs), max(ys)
    return None


def _pixels(size: Element | None, tag: str) -> int | None:
    """A size that is missing, empty, not a number or not positive is not known: the image has the last word."""
    text = "" if size is None else (size.findtext(tag) or "")
    try:
        pixels = float(text)
    except ValueError:
        return None
    return int(pixels) if math.isfinite(pixels) and 0 < pixels < 2**31 else None


def _number(text: str | None, where: str) -> float:
    try:
        return float((text or "").strip())
    except ValueError as error:
        remedy = "Write decimals with a point" if text and "," in text else "Write a number"
        raise InputError(where, f"{text!r} is not a number", remedy) from error


def _yes(text: str | None) -> bool:
    return (text or "").strip().lower() in {"1", "true", "yes"}

"""One VOC annotation file as numbers."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from xray_det.data.schema import BoxFlag
from xray_det.errors import InputError
from xray_det.storage import read_file

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = {"difficult": BoxFlag.DIFFICULT, "truncated": BoxFlag.TRUNCATED, "occluded": BoxFlag.OCCLUDED}


@dataclass(kw_only=True)
class VocFile:
    """What one file says. ``boxes`` are x1, y1, x2, y2 as published: in VOC pixels are counted from 1."""

    file_name: str
    width: int | None
    height: int | None
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    @property
    def zero_based(self) -> int:
        """How many boxes have a first coordinate of 0, which a file that counts from 1 cannot hold."""
        return sum(box[0] == 0 or box[1] == 0 for box in self.boxes)


def read_voc_xml(path: Path) -> VocFile | None:
    """Read one file; None when it is another kind of XML (its root is not ``annotation``).

    Raises:
        InputError: malformed XML, entities (an entity bomb), an object without a name or box, text in a coordinate.
    """
    try:
        root = fromstring(read_file(path), forbid_dtd=False, forbid_entities=True, forbid_external=True)
    except DefusedXmlException as error:
        raise InputError(
            path, f"the XML declares entities ({type(error).__name__})", "Remove its DOCTYPE, or the file"
        ) from error
    except (ParseError, ValueError) as error:  # ValueError: an encoding that does not exist
        raise InputError(path, f"not well-formed XML ({error})", "Mend or remove the file") from error
    if root.tag != "annotation":
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
        box = item.find("bndbox")
        if box is None:
            raise InputError(where, f"the {name!r} has no <bndbox>", "Give it a box or remove it")
        x1, y1, x2, y2 = (_number(box.findtext(corner), f"{where}.{corner}") for corner in _CORNERS)
        read.boxes.append((x1, y1, x2, y2))
        read.flags.append(int(sum(flag for tag, flag in _FLAGS.items() if _yes(item.findtext(tag)))))
        read.names.append(name)
    return read


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

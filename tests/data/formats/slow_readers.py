"""What annotation files say, read the slow way: plain Python, one element after another, after the formats' own rules.

Each reader takes what lies in files and returns what has to be found there, or raises Bad where it has to be refused.
"""

import codecs
import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xray_det.data.schema import BoxFlag

NAN = math.nan


class Bad(Exception):
    """A reader has to refuse this."""


class Dataset(NamedTuple):
    """Classes as (published id, name), and by image id (width, height, split, boxes, present, absent).

    A box is (class id, (x1, y1, x2, y2), flags, area); the last two are class ids, each once, in the classes' order.
    """

    classes: list[tuple[str, str]]
    images: dict[str, tuple[Any, ...]]
    edges: Any = None  # of the hierarchy: parents and parts


def need(true: object, why: str) -> None:
    if not true:
        raise Bad(why)


# JSON

_SKIPPED = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n]*")


class Fields(dict[str, Any]):
    """An object; a key that stands twice has its last value, and the others are in ``before``."""

    before: Sequence[tuple[str, Any]] = ()


def _fields(pairs: list[tuple[str, Any]]) -> Fields:
    made = Fields(pairs)
    made.before = [pair for pair in pairs if made[pair[0]] is not pair[1]]
    return made


def _decoder(text: str) -> json.JSONDecoder:
    """Beside NaN and Infinity, which are not JSON, the first of two values of a key may be anything."""
    return json.JSONDecoder(object_pairs_hook=Fields if "NaN" in text or "Infinity" in text else _fields)


def json_text(data: bytes) -> str:
    """Bytes that are no UTF-8 matter only in text that is read."""
    need(not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)), "UTF-16")
    need(b"\0" not in data, "a zero byte")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


class Walk:
    """A place in JSON text."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.decoder = text, 0, _decoder(text)

    def next(self) -> str:
        found = _SPACE.match(self.text, self.at)
        assert found
        self.at = found.end()
        return self.text[self.at : self.at + 1]

    def take(self, letters: str) -> str:
        letter = self.next()
        need(letter and letter in letters, f"{letter!r} for {letters}")
        self.at += 1
        return letter

    def value(self) -> Any:
        self.next()
        try:
            value, self.at = self.decoder.raw_decode(self.text, self.at)
        except (ValueError, RecursionError) as error:
            raise Bad(str(error)) from error
        return value

    def skip(self) -> None:
        """A value that nobody reads: brackets and texts are closed, the rest may be anything."""
        first = self.next()
        if first not in ("{", "[", '"'):
            found = re.compile(r"[,}\]]").search(self.text, self.at)
            need(first and found, "cut off")
            self.at = found.start()  # type: ignore[union-attr]
            return
        depth = 0
        while True:
            found = _SKIPPED.search(self.text, self.at)
            need(found, "cut off")
            self.at = found.end()  # type: ignore[union-attr]
            token = found.group()  # type: ignore[union-attr]
            depth += (token in "{[") - (token in "]}")
            if depth == 0:
                return


def document(data: bytes, wanted: Sequence[str]) -> dict[str, list[Any]]:
    """The arrays of an object that are wanted."""
    walk, found = Walk(json_text(data)), dict[str, list[Any]]()
    walk.take("{")
    if walk.next() == "}":
        return found
    while True:
        need(walk.next() == '"', "no key")
        key = text(walk.value())
        walk.take(":")
        if key in wanted:
            need(key not in found, "a key stands twice")
            found[key] = walk.value()
            need(isinstance(found[key], list), "no array")
        else:
            walk.skip()
        if walk.take(",}") == "}":
            need(not walk.next(), "more follows")
            return found


def text(value: Any) -> str:
    need(isinstance(value, str), "no text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Bad("half a character") from error
    return str(value)


def whole(value: Any) -> int:
    need(isinstance(value, int) and not isinstance(value, bool), "no whole number")
    return int(value)


def real(value: Any) -> float:
    need(isinstance(value, int | float) and not isinstance(value, bool), "no number")
    try:
        return float(value)
    except OverflowError as error:
        raise Bad("too large") from error


def ident(value: Any) -> int | str:
    return text(value) if isinstance(value, str) else whole(value)


def none_or(read: Any) -> Any:
    return lambda value: None if value is None else read(value)


def listed(read: Any, size: int | None = None) -> Any:
    def items(value: Any) -> list[Any]:
        need(isinstance(value, list) and size in (None, len(value)), "no such list")
        return [read(item) for item in value]

    return items


def switch(value: Any) -> bool:
    return value is not None and bool(value if isinstance(value, bool) else number(value))


def number(value: Any) -> int | float:
    need(isinstance(value, int | float) and not isinstance(value, bool), "no number")
    return value  # type: ignore[no-any-return]


def fields(item: Any, required: Mapping[str, Any], optional: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an object that is read, each by its rule: also of a key that stands twice."""
    need(isinstance(item, dict), "no object")
    rules = {**required, **optional}
    for key, value in item.before:
        if key in rules:
            rules[key](value)
    need(set(required) <= set(item), "a field is missing")
    return {key: rules[key](item[key]) for key in rules if key in item}


ANY = lambda value: value  # noqa: E731


def coco(data: bytes) -> Dataset:
    """COCO, Objects365 and LVIS."""
    arrays = document(data, ("images", "annotations", "categories"))
    need({"images", "categories"} <= set(arrays) and arrays["images"], "arrays are missing")
    categories = [
        fields(item, {"id": ident, "name": text}, {"supercategory": none_or(text), "frequency": ANY})
        for item in arrays["categories"]
    ]
    ids = none_or(listed(ident))
    lists = ("neg_category_ids", "not_exhaustive_category_ids")
    pictures = [
        fields(
            item,
            {"id": ident},
            {"file_name": text, "im_name": text, "coco_url": ANY, "width": none_or(number), "height": none_or(number)}
            | dict.fromkeys(lists, ids),
        )
        for item in arrays["images"]
    ]
    boxes = [
        fields(
            item,
            {"image_id": ident, "category_id": ident},
            {"bbox": none_or(listed(real, 4)), "area": none_or(real), "segmentation": ANY}
            | dict.fromkeys(("iscrowd", "ignore", "isfake"), switch),
        )
        for item in arrays.get("annotations", [])
    ]
    lvis = any(image.get(name) is not None for image in pictures for name in lists)
    groups = [category.get("frequency") for category in categories]
    if lvis:
        need(all(group in ("r", "c", "f", None) for group in map(_hashable, groups)), "a frequency")
        need(all(image.get(name) is not None for image in pictures for name in lists), "an image without lists")
    else:
        need(not groups or not all(g in ("r", "c", "f") for g in map(_hashable, groups)), "no lists")
    used = {str(box["category_id"]) for box in boxes}
    used |= {str(i) for image in pictures if lvis for name in lists for i in image[name]}
    classes = [(str(c["id"]), _category_name(c, categories, used)) for c in categories]
    for column in zip(*classes, strict=True):
        need(len(set(column)) == len(column), "two classes share it")
    known = dict(classes)
    images: dict[str, list[Any]] = {}
    for image in pictures:
        identity, name = str(image["id"]), image.get("file_name") or image.get("im_name") or ""
        if not name and isinstance(image.get("coco_url"), str):
            name = text("/".join(image["coco_url"].split("/")[-2:]))
        need(not leaves(name) or re.match(r"[a-z][a-z0-9+.-]+://|/data/", name, re.I), "it leaves the folder")
        size = [pixels(image.get(side)) for side in ("width", "height")]
        absent = [i for i, _ in classes if i in map(str, image[lists[0]])] if lvis else []
        made = [*size, name, [], absent]
        if identity in images:
            need(images[identity][:3] == made[:3], "an id of two images")
            continue
        images[identity] = made
    for box in boxes:
        image, category = str(box["image_id"]), str(box["category_id"])
        need(image in images, "an unknown image")
        need(category in known, "an unknown class")
        need(category not in images[image][4], "an absent class")
        x, y, w, h = box.get("bbox") or around(box.get("segmentation"))
        flags = (
            BoxFlag.CROWD * box.get("iscrowd", False)
            | BoxFlag.IGNORE * box.get("ignore", False)
            | BoxFlag.DEPICTION * box.get("isfake", False)
        )
        span = (w + x - x) * (h + y - y)  # as corners are
        images[image][3].append((category, (x, y, w + x, h + y), int(flags), box.get("area"), span))
    if lvis:
        need(
            all(str(i) in known for one in pictures for name in lists for i in one[name]), "an unknown class in a list"
        )
    found = {}
    for identity, (width, height, _, own, absent) in images.items():
        areas = [area is not None and math.isfinite(area) for *_, area, _ in own]
        shown = [
            (*box, None if not any(areas) else area if known_area else span)
            for (*box, area, span), known_area in zip(own, areas, strict=True)
        ]
        found[identity] = (width, height, None, shown, [], absent)
    return Dataset(classes, found)


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str | None) else object()


def _category_name(one: dict[str, Any], categories: Sequence[dict[str, Any]], used: set[str]) -> str:
    """Roboflow's root has the name of one of its classes."""
    name = one["name"].strip()
    root = str(one["id"]) not in used and any(
        other is not one and other["name"].strip() == name == (other.get("supercategory") or "").strip()
        for other in categories
    )
    return f"{name} (id {one['id']})" if root else name


def leaves(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    return name[:1] in ("/", "\\") or re.match("[A-Za-z]:", name) is not None or ".." in parts or "\0" in name


def pixels(value: int | float | None) -> int | None:
    return int(value) if value is not None and 0 < value < 2**31 else None


def around(shape: Any) -> tuple[float, float, float, float]:
    """The box around polygons or run lengths."""
    need(shape, "nothing to take a box from")
    if isinstance(shape, dict):
        need(set(shape) == {"size", "counts"}, "no run lengths")
        height, width = listed(whole, 2)(shape["size"])
        need(height > 0 and width > 0, "no size")
        need(isinstance(shape["counts"], list), "a test writes no compressed ones")
        counts = listed(whole)(shape["counts"])
        need(all(count >= 0 for count in counts) and sum(counts) <= height * width, "no run lengths of that size")
        ends = list(accumulate(counts))
        places = [place for start, end in zip(ends[::2], ends[1::2], strict=False) for place in range(start, end)]
        need(places, "nothing in it")
        xs, ys = [place // height for place in places], [place % height for place in places]
        return min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1
    need(isinstance(shape, list), "no shape")
    polygons = shape if isinstance(shape[0], list) else [shape]
    polygons = [listed(real)(polygon) for polygon in polygons]
    need(all(len(polygon) % 2 == 0 for polygon in polygons), "half a point")
    xs, ys = ([n for polygon in polygons for n in polygon[axis::2]] for axis in (0, 1))
    need(xs, "no point")
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def edges(data: bytes) -> Any:
    """Open Images' hierarchy: pairs (child, parent) but for those of the root, and (part, whole)."""
    try:
        root = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Bad(str(error)) from error
    if '"LabelName"' not in data.decode(json.detect_encoding(data), "replace"):
        return None  # JSON of something else
    parents, parts = set(), set()

    def walk(node: Any, above: str | None) -> str:
        need(isinstance(node, dict), "no node")
        name = text(node.get("LabelName"))
        for key, pairs in (("Subcategory", parents), ("Part", parts)):
            children = node.get(key, [])
            need(isinstance(children, list), "no list")
            for child in children:
                pairs.add((walk(child, name), name))
        return name

    try:
        top = walk(root, None)
    except RecursionError as error:
        raise Bad("too deep") from error
    parents = {(child, parent) for child, parent in parents if parent != top}
    above: dict[str, set[str]] = {}
    for child, parent in parents:
        above.setdefault(child, set()).add(parent)
    for start in above:
        reached, new = set[str](), {start}
        while new:
            new = {parent for child in new for parent in above.get(child, ())} - reached
            reached |= new
        need(start not in reached, "its own ancestor")
    return sorted(parents), sorted(parts)


def detections_json(data: bytes) -> list[Any]:
    """COCO results: (image, class, (x1, y1, x2, y2), score) of each."""
    stripped = data.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n")
    if stripped.startswith(b"{"):
        arrays = document(data, ("images", "annotations", "categories"))
        need("annotations" in arrays, "no annotations")
        rows = arrays["annotations"]
        for key, name in (("images", "file_name"), ("categories", "name")):
            for item in arrays.get(key, []):
                fields(item, {"id": ident}, {name: none_or(text)})
    else:
        walk = Walk(json_text(data))
        rows = walk.value()
        need(isinstance(rows, list) and not walk.next(), "no list")
    rules = {"image_id": ident, "category_id": ident, "bbox": listed(real, 4), "score": real}
    found = []
    for row in rows:
        read = fields(row, rules, {})
        x, y, w, h = read["bbox"]
        found.append((str(read["image_id"]), str(read["category_id"]), (x, y, x + w, y + h), read["score"]))
    return finite(found)


def finite(rows: list[Any]) -> list[Any]:
    need(all(math.isfinite(n) for *_, box, score in rows for n in (*box, score)), "not finite")
    return rows


# XML


def voc(data: bytes) -> Dataset:
    """One annotation file, p.xml, whose image is there."""
    root = xml_root(data)
    if root.tag != "annotation":
        inside = [one for one in root.iter("annotation") if {c.tag for c in one} & {"object", "filename", "size"}]
        need(len(inside) == 1, "no annotation, or several")
        root = inside[0]
    name = (root.findtext("filename") or "").strip()
    need(re.match(r"[/\\]|[A-Za-z]:", name) or not leaves(name), "it leaves the folder")
    boxes, classes = [], set()
    for item in root.findall("object"):
        called = (item.findtext("name") or "").strip()
        need(called, "no name")
        classes.add(called)
        flags = sum(
            int(flag)
            for tag, flag in (
                ("difficult", BoxFlag.DIFFICULT),
                ("truncated", BoxFlag.TRUNCATED),
                ("occluded", BoxFlag.OCCLUDED),
            )
            if (item.findtext(tag) or "").strip().lower() in ("1", "true", "yes")
        )
        places = [
            [decimal(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax")] for box in item.findall("bndbox")
        ]
        if not places:
            places = [outline(item)]
        boxes += [(called, tuple(place), flags, None) for place in places]
    size = root.find("size")
    sides = [None if size is None else xml_pixels(size.findtext(tag)) for tag in ("width", "height")]
    return Dataset([(one, one) for one in sorted(classes)], {"p": (*sides, None, boxes, [], [])})


def xml_root(data: bytes) -> Any:
    """In the encoding that the file declares, or has in truth; entities are refused, also where none is used."""
    need(not re.search(rb"<!ENTITY", data.replace(b"\0", b"")), "entities")
    readings: list[Any] = [data]
    declared = re.match(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.-]+)["']""", data)
    names = ["utf-8-sig", *([declared[1].decode()] if declared else [])]
    for name in [wide] if (wide := wide_encoding(data)) else names:
        with suppress(UnicodeDecodeError, LookupError):
            readings.append(data.decode(name).lstrip())
            break
    for reading in readings:
        with suppress(ElementTree.ParseError, ValueError, LookupError):
            root = ElementTree.fromstring(reading)
            for element in root.iter():
                if isinstance(element.tag, str):
                    element.tag = element.tag.rpartition("}")[2]
            return root
    raise Bad("no XML")


def wide_encoding(data: bytes) -> str | None:
    """UTF-16 by its mark, or by the zero byte in its first letter."""
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    return {0: "utf-16-be", 1: "utf-16-le"}.get(data[:2].find(0)) if len(data) > 1 else None


def decimal(said: str | None) -> float:
    try:
        return float((said or "").strip())
    except ValueError as error:
        raise Bad("no number") from error


def xml_pixels(said: str | None) -> int | None:
    try:
        return pixels(float(said or ""))
    except ValueError:
        return None


def outline(item: Any) -> list[float]:
    turned = item.find("robndbox")
    need(turned is None, "no test writes one")
    for tag in ("polygon", "points", "segmentation"):
        for shape in item.findall(tag):
            parts = [part for part in shape.iter() if re.fullmatch(r"[xy]\d*", str(part.tag))]
            if parts:
                xs, ys = ([decimal(p.text) for p in parts if p.tag[0] == axis] for axis in "xy")
            else:
                numbers = [decimal(one) for one in re.split(r"[\s,;]+", " ".join(shape.itertext()).strip()) if one]
                xs, ys = numbers[::2], numbers[1::2]
            if len(xs) == len(ys) > 1:
                return [min(xs), min(ys), max(xs), max(ys)]
    raise Bad("no box")


# Lists of images


def voc_list(data: bytes, stems: Sequence[str]) -> tuple[set[str], int]:
    """Which of some images in one folder a list names, and how many lines of it name none."""
    said, sure = any_text(data)
    names = [cleaned(line) for line in re.split(r"\r\n|\r|\n", said)]
    names = [name for name in names if name]
    folded = {stem.casefold(): stem for stem in stems}

    def exact(name: str) -> str | None:
        *folders, last = name.split("/")
        return last if last in stems and all(f.lower() in ("jpegimages", "annotations", "") for f in folders) else None

    def loosely(name: str) -> str | None:
        *folders, last = name.split("/")
        known = [at for at, folder in enumerate(folders) if folder.lower() in ("..", "annotations", "jpegimages")]
        elsewhere = not known and re.match("/|[A-Za-z]:", name)
        fits = elsewhere or not folders[known[-1] + 1 if known else 0 :]
        return folded.get(last.casefold()) if fits else None

    found = [exact(name) or loosely(name) for name in names]
    if not any(found):
        found = [loosely(cleaned(re.split(r"[\s,;]", name)[0])) for name in names]
    for name, stem in zip(names, found, strict=True):
        need(stem or sure or name.isascii(), "an encoding that was guessed")
    return {stem for stem in found if stem}, sum(stem is None for stem in found)


def any_text(data: bytes) -> tuple[str, bool]:
    wide = wide_encoding(data)
    for encoding in [wide] if wide else ["utf-8-sig", "cp1252"]:
        with suppress(UnicodeDecodeError):
            said = data.decode(encoding)
            need("\0" not in said, "a zero byte")
            return said, encoding != "cp1252"
    raise Bad("no text")


def cleaned(line: str) -> str:
    line = line.strip().lstrip("\ufeff")
    if len(line) > 1 and line[0] == line[-1] and line[0] in "'\"":
        line = line[1:-1].strip()
    line = line.replace("\\", "/")
    while line.startswith("./"):
        line = line[2:]
    return re.sub(r"\.(jpg|jpeg|png|xml|bmp|gif)$", "", line, flags=re.I)


# CSV

CORNERS = ("XMin", "YMin", "XMax", "YMax")
FLAGS = {
    "IsOccluded": BoxFlag.OCCLUDED,
    "IsTruncated": BoxFlag.TRUNCATED,
    "IsGroupOf": BoxFlag.GROUP_OF,
    "IsDepiction": BoxFlag.DEPICTION,
    "IsInside": BoxFlag.INSIDE,
}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|-?(nan|inf|infinity)", re.I | re.A)


def csv_rows(data: bytes) -> list[list[str]]:
    try:
        marked = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        said = data.decode("utf-16") if marked else data.decode("utf-8-sig", "surrogateescape")
        rows = list(csv.reader(io.StringIO(said, newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Bad(str(error)) from error
    need(rows and rows[0], "no header")
    return [row for row in rows if row]


def table(data: bytes, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """The rows by the columns' names in any letter case; each has as many fields as the header."""
    header, *rows = csv_rows(data)
    names = [next((c for c in (*columns, *optional) if c.lower() == name.strip().lower()), name) for name in header]
    need(set(columns) <= set(names), "columns are missing")
    need(all(names.count(column) < 2 for column in (*columns, *optional)), "a column stands twice")
    for row in rows:
        need(len(row) == len(names), "another number of fields")
        yield {name: text(field) for name, field in zip(names, row, strict=True) if name in (*columns, *optional)}


def csv_number(said: str) -> float:
    said = said.strip(" \t")
    if not said:
        return NAN
    need(_NUMBER.fullmatch(said), "no number")
    return float(said)


def open_images(boxes: bytes, labels: bytes, classes: bytes, hierarchy: bytes | None) -> Dataset:
    """A release of one split, train."""
    described = class_table(classes)
    known = dict(described)
    images: dict[str, tuple[list[Any], set[str], set[str]]] = {}
    reach = []
    for row in table(boxes, ("ImageID", "LabelName", *CORNERS), tuple(FLAGS)):
        corners = tuple(csv_number(row[corner]) for corner in CORNERS)
        flags = sum(int(flag) for name, flag in FLAGS.items() if name in row and csv_number(row[name]) > 0)
        need(row["ImageID"], "no image")
        need(not leaves(row["ImageID"]), "it leaves the folder")
        own = images.setdefault(row["ImageID"], ([], set(), set()))
        if not row["LabelName"] and not any(row[corner].strip(" \t") for corner in CORNERS):
            continue
        need(row["LabelName"] in known, "an unknown class")
        own[0].append((row["LabelName"], corners, flags, None))
        reach.append(max((n for n in corners if not math.isnan(n)), default=NAN))
    need(not reach or not all(2 < n < math.inf for n in reach), "pixels")
    for row in table(labels, ("ImageID", "LabelName", "Confidence"), ("Source",)):
        confidence = csv_number(row["Confidence"])
        if confidence not in (0, 1) or row.get("Source") == "machine":
            continue
        need(row["ImageID"], "no image")
        need(not leaves(row["ImageID"]), "it leaves the folder")
        own = images.setdefault(row["ImageID"], ([], set(), set()))
        if row["LabelName"] in known:
            own[1 if confidence == 1 else 2].add(row["LabelName"])
    need(images, "no rows")
    order = {identity: number for number, (identity, _) in enumerate(described)}
    found = {
        identity: (None, None, "train", own, sorted(present, key=order.get), sorted(absent, key=order.get))  # type: ignore[arg-type]
        for identity, (own, present, absent) in images.items()
    }
    return Dataset(described, found, None if hierarchy is None else edges(hierarchy))


def class_table(data: bytes) -> list[tuple[str, str]]:
    said, _ = any_text(data)
    try:
        rows = [row for row in csv.reader(io.StringIO(said, newline=None)) if row]
    except csv.Error as error:
        raise Bad(str(error)) from error
    classes = []
    for row in rows:
        if row[0].strip().lower() == "labelname":
            continue
        need(len(row) > 1 and row[0].strip() and row[1].strip(), "no name")
        classes.append((row[0].strip(), row[1].strip()))
    for column in zip(*classes, strict=True):
        need(len(set(column)) == len(column), "two classes share it")
    return classes


def detections_csv(data: bytes) -> list[Any]:
    columns = ("ImageID", "LabelName", "Score", "XMin", "YMin", "XMax", "YMax")
    found = []
    for row in table(data, columns):
        box = tuple(csv_number(row[side]) for side in columns[3:])
        found.append((row["ImageID"], row["LabelName"], box, csv_number(row["Score"])))
    return finite(found)


# Parquet


def parquet_rows(data: bytes, columns: Sequence[str]) -> tuple[list[dict[str, Any]], Mapping[bytes, bytes]]:
    try:
        read = pq.read_table(io.BytesIO(data), columns=columns)
        need(set(columns) <= set(read.column_names), "columns are missing")
        return read.to_pylist(), read.schema.metadata or {}
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: text that is no UTF-8
        raise Bad(str(error)) from error


def label_space(value: Any) -> list[tuple[str, str]]:
    """(published id, name) of each class."""
    need(isinstance(value, dict) and isinstance(value.get("classes"), list), "no classes")
    text(value.get("name"))
    classes = []
    for one in value["classes"]:
        need(isinstance(one, dict), "no class")
        extra = set(one) - {"name", "source_id", "aliases"}
        need(len(one) - len(extra) == 3 and extra <= {"super_category", "frequency"}, "other keys")
        listed(text)(one["aliases"])
        for key in extra:
            none_or(text)(one[key])
        classes.append((text(one["source_id"]), text(one["name"])))
    for column in zip(*classes, strict=True):
        need(len(set(column)) == len(column), "two classes share it")
    return classes


def detections_parquet(data: bytes) -> list[Any]:
    rows, metadata = parquet_rows(data, ["image_id", "dataset", "boxes", "scores", "labels"])
    try:
        classes = label_space(json.loads(metadata.get(b"classes", b"")))
    except (ValueError, RecursionError) as error:
        raise Bad(str(error)) from error
    found = []
    for row in rows:
        need(all(value is not None for value in row.values()), "a null")
        lists = [row[name] for name in ("boxes", "scores", "labels")]
        need(all(isinstance(one, list) for one in lists), "no lists")
        need(len({*map(len, lists)}) == 1, "lists of other lengths")
        for box, score, label in zip(*lists, strict=True):
            need(None not in (box, score, label) and len(box) == 4 and None not in box, "a null")
            need(label == int(label) and 0 <= label < len(classes), "an unknown class")
            corners = tuple(float(np.float32(number)) for number in box)
            found.append((str(row["image_id"]), classes[int(label)][0], corners, float(np.float32(score))))
    return finite(found)

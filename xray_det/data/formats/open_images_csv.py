"""The files of an Open Images release: told by their headers, streamed as columns.

Headers of v4 to v7 with and without click columns (``XClick1X`` …), of the Challenge, and shorter ones are read: a box
needs ImageID, LabelName, XMin, XMax, YMin, YMax; of the flags those that are there.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from xray_det.data.schema import BoxFlag
from xray_det.errors import InputError
from xray_det.storage import open_file, parse_json, read_file

CORNERS: Final = ("XMin", "YMin", "XMax", "YMax")
_FLAGS: Final = {
    "IsOccluded": BoxFlag.OCCLUDED,
    "IsTruncated": BoxFlag.TRUNCATED,
    "IsGroupOf": BoxFlag.GROUP_OF,
    "IsDepiction": BoxFlag.DEPICTION,
    "IsInside": BoxFlag.INSIDE,
}
_BLOCK: Final = 1 << 18


class Kind(Enum):
    """What a file of a release holds."""

    BOXES = "boxes"
    LABELS = "image-level labels"
    CLASSES = "class descriptions"
    LIST = "a list of images"
    HIERARCHY = "a hierarchy"


def kind_of(file: Path) -> Kind | None:
    """What a CSV or JSON file holds, from its header; None: nothing that belongs to detection.

    Raises:
        InputError: a box file whose header lacks a column.
    """
    if file.suffix.lower() == ".json":
        with open_file(file) as stream:
            return Kind.HIERARCHY if b'"LabelName"' in stream.read(1 << 16) else None
    header = header_of(file)
    columns = set(header)
    if columns & {"LabelName1", "MaskPath"}:  # relationships, segmentation
        return None
    if "ImageID" in columns:
        if columns & set(CORNERS):
            missing = {"LabelName", *CORNERS} - columns
            if missing:
                raise InputError(
                    f"{file}: row 1", f"the header lacks {', '.join(sorted(missing))}", "Give Open Images' columns"
                )
            return Kind.BOXES
        if {"LabelName", "Confidence"} <= columns:
            return Kind.LABELS
        return None if "LabelName" in columns else Kind.LIST
    described = 2 <= len(header) <= 3 and re.match(r"LabelName$|/[a-z]/", header[0]) is not None
    if described or "class-descriptions" in file.name or "classes-description" in file.name:
        return Kind.CLASSES
    return None


def header_of(file: Path) -> list[str]:
    """The fields of the first line; a line without end is cut."""
    with open_file(file) as stream:
        line = stream.readline(1 << 16).decode("utf-8-sig", errors="replace")
    return next(csv.reader([line.rstrip("\r\n")]), [])


def read_boxes(file: Path) -> Iterator[pa.RecordBatch]:
    """Rows as columns ImageID, LabelName, XMin, YMin, XMax, YMax (float64) and flags (uint16), a block at a time.

    A flag of -1 is unknown and counts as not set. An empty field is null.

    Raises:
        InputError: a number that is none (decimal commas), a row with too many or few fields.
    """
    present = [name for name in _FLAGS if name in header_of(file)]
    types = {"ImageID": pa.string(), "LabelName": pa.string()}
    types |= dict.fromkeys(CORNERS, pa.float64()) | dict.fromkeys(present, pa.float32())
    for block in _read_csv(file, types):
        flags = np.zeros(block.num_rows, np.uint16)
        for name in present:
            switched = block.column(name).to_numpy(zero_copy_only=False) > 0  # NaN, an empty field, is not
            flags[switched] |= np.uint16(_FLAGS[name])
        columns = [block.column(name) for name in ("ImageID", "LabelName", *CORNERS)]
        yield pa.RecordBatch.from_arrays([*columns, pa.array(flags)], names=["ImageID", "LabelName", *CORNERS, "flags"])


def read_labels(file: Path) -> Iterator[pa.RecordBatch]:
    """Rows that people verified as columns ImageID, LabelName, positive (bool), a block at a time.

    Confidence is 1 for present and 0 for absent; anything between is a machine's guess and left out.
    """
    types = {"ImageID": pa.string(), "LabelName": pa.string(), "Confidence": pa.float64()}
    machine = "Source" in header_of(file)
    for block in _read_csv(file, types | ({"Source": pa.string()} if machine else {})):
        confidence = block.column("Confidence").to_numpy(zero_copy_only=False)
        verified = (confidence == 0) | (confidence == 1)
        if machine:
            source = block.column("Source").to_numpy(zero_copy_only=False)
            verified &= source != "machine"
        columns = [block.column("ImageID"), block.column("LabelName"), pa.array(confidence == 1)]
        names = ["ImageID", "LabelName", "positive"]
        yield pa.RecordBatch.from_arrays(columns, names=names).filter(pa.array(verified))


def read_list(file: Path, rows: int = 1 << 16) -> Iterator[tuple[list[str], list[str]]]:
    """Image ids and what their ``Subset`` says (empty: nothing). Rows may be ragged, as published ones are."""
    ids: list[str] = []
    subsets: list[str] = []
    with open_file(file) as opened, io.TextIOWrapper(opened, encoding="utf-8-sig", newline="") as stream:
        reader = _rows(stream, file)
        header = next(reader)
        image, subset = header.index("ImageID"), header.index("Subset") if "Subset" in header else None
        for row in reader:
            if len(row) <= image:
                continue
            ids.append(row[image])
            subsets.append(row[subset] if subset is not None and subset < len(row) else "")
            if len(ids) == rows:
                yield ids, subsets
                ids, subsets = [], []
    if ids:
        yield ids, subsets


def read_classes(file: Path) -> list[tuple[str, str]]:
    """Published id and display name of each class, in the file's order; with or without a header.

    Raises:
        InputError: another separator, a class without a name.
    """
    text = read_file(file).decode("utf-8-sig")
    classes: list[tuple[str, str]] = []
    for number, row in enumerate(_rows(io.StringIO(text, newline=None), file), start=1):
        if not row or row[0] == "LabelName":
            continue
        if len(row) < 2:
            problem = f"{row[0][:40]!r} is one field, not an id and a name"
            raise InputError(f"{file}: row {number}", problem, "Separate id and name by a comma")
        if not row[0].strip() or not row[1].strip():
            raise InputError(f"{file}: row {number}", f"the class {row[0]!r} has no name", "Write its display name")
        classes.append((row[0].strip(), row[1].strip()))
    return classes


def _rows(lines: Iterable[str], file: Path) -> Iterator[list[str]]:
    reader = csv.reader(lines)
    try:
        yield from reader
    except csv.Error as error:
        problem, remedy = f"not CSV ({error})", "Close its quotes, and shorten fields"
        raise InputError(f"{file}: line {reader.line_num}", problem, remedy) from error


def read_hierarchy(file: Path) -> dict[str, Any]:
    """The JSON of a hierarchy, undigested.

    Raises:
        InputError: it is not JSON.
    """
    try:
        node: dict[str, Any] = parse_json(read_file(file))
    except ValueError as error:
        raise InputError(file, f"not valid JSON ({error})", "Fetch the hierarchy again") from error
    return node


def _read_csv(file: Path, types: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    try:
        reader = pacsv.open_csv(
            open_file(file),
            read_options=pacsv.ReadOptions(block_size=_BLOCK, use_threads=False),  # one thread knows its row number
            convert_options=pacsv.ConvertOptions(
                column_types=types, include_columns=list(types), strings_can_be_null=True, null_values=[""]
            ),
        )
        yield from reader
    except pa.ArrowInvalid as error:
        _explain(file, error)


def _explain(file: Path, error: pa.ArrowInvalid) -> NoReturn:
    text = str(error)
    found = re.search(r"In CSV column #(\d+): (?:Row #(\d+): )?.*invalid value '(.*)'", text, re.DOTALL)
    if found:
        header = header_of(file)
        column = header[int(found[1])] if int(found[1]) < len(header) else f"column {int(found[1]) + 1}"
        row = f"row {found[2]}, " if found[2] else ""
        comma = re.fullmatch(r"-?\d+,\d+", found[3]) is not None
        raise InputError(
            f"{file}: {row}{column}",
            f"{found[3]!r} is not a number{' (a decimal comma)' if comma else ''}",
            "Write decimals with a point" if comma else "Write a number",
        ) from error
    found = re.search(r"(?:Row #(\d+): )?Expected (\d+) columns, got (\d+)", text)
    if found:
        row = f": row {found[1]}" if found[1] else ""
        raise InputError(
            f"{file}{row}",
            f"{found[3]} fields where the header has {found[2]}",
            "Separate fields by commas and write decimals with a point",
        ) from error
    if "straddling" in text:
        text = f"a row is longer than {_BLOCK:,} bytes"
    raise InputError(file, text, "Give Open Images' CSV") from error

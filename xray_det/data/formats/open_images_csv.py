"""The files of an Open Images release: told by their headers, streamed as columns.

Headers of v4 to v7 with and without click columns (``XClick1X`` …), of the Challenge, and shorter ones are read, in any
letter case: a box needs ImageID, LabelName, XMin, XMax, YMin, YMax; of the flags those that are there. Fields are
separated by commas; the text is UTF-8, or UTF-16 with its byte order mark.
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

from xray_det.data.formats.json_stream import is_utf16
from xray_det.data.formats.layout import read_text
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
_KNOWN: Final = {
    name.lower(): name
    for name in ("ImageID", "LabelName", *CORNERS, *_FLAGS, "Confidence", "Source", "Subset", "LabelName1", "MaskPath")
}


class Kind(Enum):
    """What a file of a release holds."""

    BOXES = "boxes"
    LABELS = "image-level labels"
    CLASSES = "class descriptions"
    LIST = "a list of images"
    HIERARCHY = "a hierarchy"


def kind_of(file: Path) -> Kind | None:
    """What a CSV or JSON file holds, from its header; None: nothing that belongs to detection. A file that is called a
    hierarchy counts where it is no JSON: reading says what is wrong.

    Raises:
        InputError: a box file whose header lacks a column; a header whose fields are not separated by commas.
    """
    if file.suffix.lower() == ".json":
        with open_file(file) as stream:
            nodes = b'"LabelName"' in stream.read(1 << 16).replace(b"\0", b"")  # UTF-16 has zeros between
        damaged = not nodes and "hierarchy" in file.name.lower() and not _is_json(file)
        return Kind.HIERARCHY if nodes or damaged else None
    header, columns = header_of(file), set(columns_of(file))
    for separator, said in _SEPARATORS if "ImageID" not in columns else ():
        if "imageid" in [name.strip().lower() for field in header for name in field.split(separator)]:
            raise InputError(
                f"{file}: row 1",
                f"the header is {','.join(header)[:80]!r}: fields separated by {said}",
                "Separate fields by commas and write decimals with a point",
            )
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
    described = header and re.match(r"(?i:LabelName)(\W|$)|/[a-z]/\w+(\W|$)", header[0]) is not None
    if (described and len(header) <= 3) or _CLASSES.search(f"{file.parent.name}/{file.name}"):
        return Kind.CLASSES
    return None


def _is_json(file: Path) -> bool:
    try:
        parse_json(read_file(file))
    except ValueError:
        return False
    return True


#: Class descriptions by their folder and name: in another encoding or with another separator they show nothing else.
_CLASSES: Final = re.compile(r"(class-descriptions|classes-description)[^/]*$|^metadata/classes\.csv$")
_SEPARATORS: Final = ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"))


def header_of(file: Path) -> list[str]:
    """The fields of the first line; a line without end is cut."""
    encoding = _encoding(file)
    with open_file(file) as opened:
        line = opened.readline(1 << 16) if encoding == "utf-8-sig" else opened.read(1 << 16)
    text = line.decode(encoding, errors="replace")
    return next(csv.reader([re.split(r"[\r\n]", text, maxsplit=1)[0]]), [])


def columns_of(file: Path) -> dict[str, str]:
    """The columns of the header: by the names of Open Images, whatever their letter case, the names as written."""
    return {_KNOWN.get(name.strip().lower(), name): name for name in header_of(file)}


def _encoding(file: Path) -> str:
    return "utf-16" if is_utf16(file) else "utf-8-sig"


def read_boxes(file: Path) -> Iterator[pa.RecordBatch]:
    """Rows as columns ImageID, LabelName, XMin, YMin, XMax, YMax (float64) and flags (uint16), a block at a time.

    A flag of -1 is unknown and counts as not set. An empty field is null.

    Raises:
        InputError: a number that is none (decimal commas), a row with too many or few fields.
    """
    present = [name for name in _FLAGS if name in columns_of(file)]
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
    machine = "Source" in columns_of(file)
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
    """Image ids and what their ``Subset`` says (empty: nothing). Rows may be ragged, as published ones are.

    Raises:
        InputError: the text is in another encoding.
    """
    try:
        yield from _listed(file, rows)
    except UnicodeDecodeError as error:
        raise InputError(file, f"is not UTF-8 ({error})", "Save it as UTF-8") from error


def _listed(file: Path, rows: int) -> Iterator[tuple[list[str], list[str]]]:
    ids: list[str] = []
    subsets: list[str] = []
    names = list(columns_of(file))
    with open_file(file) as opened, io.TextIOWrapper(opened, encoding=_encoding(file), newline="") as stream:
        reader = _rows(stream, file)
        next(reader)
        image, subset = names.index("ImageID"), names.index("Subset") if "Subset" in names else None
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
        InputError: another separator or encoding, a class without a name.
    """
    text, _ = read_text(file)
    classes: list[tuple[str, str]] = []
    for number, row in enumerate(_rows(io.StringIO(text, newline=None), file), start=1):
        if not row or row[0].strip().lower() == "labelname":
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
    written = columns_of(file)
    try:
        reader = pacsv.open_csv(
            open_file(file),
            read_options=pacsv.ReadOptions(
                block_size=_BLOCK,
                use_threads=False,  # one thread knows its row number
                encoding="utf8" if _encoding(file) == "utf-8-sig" else "utf-16",
            ),
            convert_options=pacsv.ConvertOptions(
                column_types={written[name]: kind for name, kind in types.items()},
                include_columns=[written[name] for name in types],
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
        for block in reader:
            yield block.rename_columns(list(types))
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
    remedy = "Save it as UTF-8" if "UTF8" in text else "Give Open Images' CSV"
    raise InputError(file, text, remedy) from error

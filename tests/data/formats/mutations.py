"""Damage to annotation files: to their bytes, and to what JSON, XML and CSV mean by them. A seed gives one damage."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq

Mutation = Callable[[Random, bytes], bytes]

_BYTES = (b"\0", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\x1b[31m", b"\xe2\x80\xae", b'"', b"\\", b"\n", b",", b"<", b"}")
_WORDS = (
    *("", " ", "..", "../x", "/x", "a/b", "a,b", "a\tb", "\u202ex", "\U0001f600", "ü", "\u0663"),
    *("x" * 5000, "7", "nan"),
)
_NUMBERS = (
    *("", " 7 ", "-1", "+1", "0", "-0", ".5", "5.", "1e3", "1e400", "9" * 25, "9" * 400, "0x10", "1,5", "1_0", "007"),
    *("NaN", "nan", "Infinity", "-inf", "null", "true", "\u0663", "1.0", "1e-400"),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 1.0, 1.5, 2**31, 2**63, 10**25, float("nan"), float("inf"), float("-inf")),
    *("", " ", "7", "007", "x", "../x", "\u202ex\x1b[31m\x00", "\ud800", "x" * 5000, [], {}, [1], [[1, 2]], ["x"]),
    *({"id": 1}, [None] * 4, [1, 2, 3, 4], [1, 2, 3], {"size": [2, 2], "counts": [1, 2, 1]}),
)


# Of bytes


def flip(rng: Random, data: bytes) -> bytes:
    """One to three bits."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3) if data else 0):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: Random, data: bytes) -> bytes:
    """The end is gone, or all."""
    return data[: rng.choice((0, 1, rng.randrange(len(data) + 1), max(len(data) - 1, 0)))]


def insert(rng: Random, data: bytes) -> bytes:
    """Bytes that mean something, somewhere, also at the start."""
    at = rng.choice((0, rng.randrange(len(data) + 1)))
    return data[:at] + rng.choice(_BYTES) + data[at:]


def lines(rng: Random, data: bytes) -> bytes:
    """A few lines are gone, twice there, or exchanged; or blank ones are among them."""
    parts = data.split(b"\n")
    start = rng.randrange(len(parts))
    stop = min(start + rng.randint(1, 3), len(parts))
    some = parts[start:stop]
    new = rng.choice(([], [*some, *some], some[::-1], [*some, b""], [b"", b" ", *some]))
    return b"\n".join([*parts[:start], *new, *parts[stop:]])


def recode(rng: Random, data: bytes) -> bytes:
    """Another encoding, byte order mark or end of line."""
    text = data.decode(errors="replace")
    kind = rng.randrange(6)
    if kind == 0:
        return text.encode(rng.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-32")))
    if kind == 1:
        return text.encode("utf-8-sig")
    if kind == 2:
        return re.sub(r"[aeo]", lambda m: "äéö"["aeo".index(m.group())], text).encode(rng.choice(("cp1252", "utf-8")))
    if kind == 3:
        return text.replace("\n", "\r\n").encode()
    if kind == 4:
        return text.replace("\n", "\r").encode()
    return b"\n \n" + data


def number(rng: Random, data: bytes) -> bytes:
    """One number in the text is written otherwise, or is none."""
    return _replaced(rng, data, rb"-?\d+(\.\d+)?", rng.choice(_NUMBERS))


def word(rng: Random, data: bytes) -> bytes:
    """One word in the text is another."""
    return _replaced(rng, data, rb"[A-Za-z_]{2,}", rng.choice(_WORDS))


def separator(rng: Random, data: bytes) -> bytes:
    """Commas and points, one of them or all, are something else."""
    old, new = rng.choice(((b",", b";"), (b",", b"\t"), (b".", b","), (b",", b", "), (b",", b"|"), (b",", b",,")))
    return data.replace(old, new, rng.choice((1, -1)))


def _replaced(rng: Random, data: bytes, pattern: bytes, new: str) -> bytes:
    found = list(re.finditer(pattern, data))
    if not found:
        return data + new.encode()
    one = rng.choice(found)
    return data[: one.start()] + new.encode() + data[one.end() :]


TEXT: Sequence[Mutation] = (flip, flip, cut, insert, lines, recode, number, word, separator)


# Of JSON


def json_value(rng: Random, data: bytes) -> bytes:
    """A value is another, gone, renamed, twice or among its like; or its key stands twice, or it is nested deeply."""
    document = json.loads(data)
    at, key = _place(rng, document)
    if at is None:
        return json.dumps(rng.choice(_VALUES)).encode()
    kind = rng.randrange(8)
    if kind < 3:
        at[key] = rng.choice(_VALUES)
    elif kind == 3:
        del at[key]
    elif kind == 4 and isinstance(at, dict):
        at[rng.choice([*at, "x", key.upper()])] = at.pop(key)
    elif kind == 4:
        at.insert(key, at[rng.randrange(len(at))])
    elif kind == 5:
        at[key] = {"x": at[key]} if rng.random() < 0.5 else [at[key]]
    elif kind == 6:
        at[key] = "@deep@"
    else:
        at[key] = str(at[key])
    text = json.dumps(document, indent=rng.choice((None, None, 1)), ensure_ascii=rng.random() < 0.5)
    if kind == 7 and (keys := list(re.finditer(r'"(\w+)": ', text))):
        one = rng.choice(keys)
        text = f"{text[: one.start()]}{one.group()}{json.dumps(rng.choice(_VALUES))}, {text[one.start() :]}"
    deep = rng.choice((30, 30_000))
    return text.replace('"@deep@"', "[" * deep + "]" * deep).encode(errors="surrogatepass")


def _place(rng: Random, document: Any) -> tuple[Any, Any]:
    """A container and a key of it, each depth as likely as the others."""
    at, key, value = None, None, document
    while isinstance(value, dict | list) and value and (at is None or rng.random() < 0.7):
        at, key = value, rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        value = at[key]
    return at, key


JSON: Sequence[Mutation] = (*TEXT, *[json_value] * len(TEXT))


# Of XML

_XML = (
    '<?xml version="1.0" encoding="{}"?>',
    '<!DOCTYPE annotation [<!ENTITY a "b">]>',
    "<!DOCTYPE annotation>",
    '<!DOCTYPE a SYSTEM "file:///etc/hostname">',
    "<!-- -- -->",
    "<?php x ?>",
)


def xml_element(rng: Random, data: bytes) -> bytes:
    """An element is gone, twice there, elsewhere, empty, of another name or text, or deep in others."""
    root = ElementTree.fromstring(data)
    parents = [(parent, child) for parent in root.iter() for child in parent]
    parent, child = rng.choice(parents)
    kind = rng.randrange(8)
    if kind == 0:
        parent.remove(child)
    elif kind == 1:
        parent.append(child)
    elif kind == 2:
        child.text = rng.choice((*_WORDS, *_NUMBERS))
    elif kind == 3:
        child.tag = rng.choice(
            ("object", "name", "bndbox", "xmin", "polygon", "x1", "size", "annotation", "{urn:a}name")
        )
    elif kind == 4:
        child[:] = []
    elif kind == 5:
        parents[rng.randrange(len(parents))][1].append(ElementTree.Element("name"))
    elif kind == 6:
        child.set("x", rng.choice(_WORDS))
    else:
        root.tag = rng.choice(("annotations", "{urn:a}annotation", "project"))
    text = ElementTree.tostring(root, encoding="unicode")
    if rng.random() < 0.3:
        text = rng.choice(_XML).format(rng.choice(("utf-8", "GB2312", "UTF-16", "latin-1", "zip", "none"))) + text
    if kind == 4:
        deep = rng.choice((30, 30_000))
        text = text.replace("<object>", "<x>" * deep + "</x>" * deep + "<object>", 1)
    return text.encode(rng.choice(("utf-8", "utf-8", "gb2312", "utf-16")), errors="xmlcharrefreplace")


XML: Sequence[Mutation] = (*TEXT, *[xml_element] * len(TEXT))


# Of CSV


def csv_cell(rng: Random, data: bytes) -> bytes:
    """A field is another, gone, twice there or quoted; or a column is elsewhere, gone or of another name."""
    rows = list(csv.reader(io.StringIO(data.decode())))
    row = rng.choice(rows)
    at = rng.randrange(len(row))
    kind = rng.randrange(8)
    if kind < 2:
        row[at] = rng.choice((*_WORDS, *_NUMBERS, "1", "-1", "a\nb", 'a"b'))
    elif kind == 2:
        del row[at]
    elif kind == 3:
        row.insert(at, row[at])
    elif kind == 4:
        for each in rows:
            each.insert(0, each.pop(at)) if at < len(each) else None
    elif kind == 5:
        for each in rows:
            each.pop(at) if at < len(each) else None
    elif kind == 6:
        rows[0] = [rng.choice((str.upper, str.lower, str.title))(name) for name in rows[0]]
    out = io.StringIO()
    quoting = csv.QUOTE_ALL if kind == 7 else csv.QUOTE_MINIMAL
    csv.writer(out, lineterminator=rng.choice(("\n", "\r\n")), quoting=quoting).writerows(rows)
    return out.getvalue().encode()


CSV: Sequence[Mutation] = (*TEXT, *[csv_cell] * len(TEXT))


# Of Parquet


def parquet_column(rng: Random, data: bytes) -> bytes:
    """A column is gone, of another name or type; or what the schema carries is damaged, or gone."""
    table = pq.read_table(io.BytesIO(data))
    at = rng.randrange(table.num_columns)
    name, column = table.column_names[at], table.column(at)
    kind = rng.randrange(4)
    if kind == 0:
        table = table.drop_columns([name])
    elif kind == 1:
        table = table.rename_columns([f"{each}_" if each == name else each for each in table.column_names])
    elif kind == 2:
        number = rng.choice((pa.float64(), pa.int64(), pa.float16(), pa.large_string()))
        types = (
            number,
            pa.list_(number),
            pa.large_list(number),
            pa.list_(pa.list_(number)),
            pa.list_(pa.list_(number, 4)),
        )
        table = table.set_column(at, name, column.cast(rng.choice(types)))
    else:
        metadata = dict(table.schema.metadata or {})
        key = rng.choice([key for key in metadata if key != b"ARROW:schema"])
        metadata[key] = json_value(rng, metadata[key]) if rng.random() < 0.8 else b""
        table = table.replace_schema_metadata(metadata)
    return _parquet(table)


def parquet_value(rng: Random, data: bytes) -> bytes:
    """A value of a row is another, or null; a list is longer, shorter or holds a null."""
    table = pq.read_table(io.BytesIO(data))
    name = rng.choice(table.column_names)
    values = table.column(name).to_pylist()
    at = rng.randrange(len(values))
    values[at] = _other(rng, values[at])
    return _parquet(table.set_column(table.column_names.index(name), name, pa.array(values, table.field(name).type)))


def _other(rng: Random, value: Any) -> Any:
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = rng.randrange(len(value))
        return [*value[:at], _other(rng, value[at]), *value[at + 1 :]]
    lists = ([], [None], value[:-1], [*value, *value], [*value, None]) if isinstance(value, list) else ()
    return rng.choice((None, *lists) if lists else (None, float("nan"), -1, 0, 7, 2**31 - 1, "x"))


def _parquet(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table.cast(pa.schema([f.with_nullable(True) for f in table.schema], table.schema.metadata)), out)
    return out.getvalue()


PARQUET: Sequence[Mutation] = (flip, cut, insert, parquet_column, parquet_column, parquet_value, parquet_value)


#: What a mutation raises that understands its file, where another has damaged it before.
_TOO_DAMAGED = (
    *(ValueError, LookupError, OSError, RecursionError),
    *(csv.Error, ElementTree.ParseError, pa.ArrowException),
)


def mutated(rng: Random, data: bytes, mutations: Sequence[Mutation]) -> tuple[bytes, str]:
    """The damaged bytes, and how they were damaged: once, or now and then twice, where the first damage allows it."""
    done = []
    for _ in range(1 if rng.random() < 0.8 else 2):
        one = rng.choice(mutations)
        try:
            data = one(rng, data)
        except _TOO_DAMAGED:
            one = flip
            data = one(rng, data)
        done.append(one.__name__)
    return data, " and ".join(done)

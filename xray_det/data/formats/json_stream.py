"""Large JSON objects read a window at a time: the elements of chosen top-level arrays, the rest skipped.

A window is cut behind some ``}`` and decoded as an array. If that succeeds the cut lay between two elements: a prefix
of valid JSON determines where its brackets stand, so no cut inside an element or a string can decode. So the only
work a byte sees is msgspec's. Where guesses fail (elements that hold many objects) the exact place is computed.
"""

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, get_args

import msgspec

from xray_det.errors import InputError
from xray_det.storage import open_file, parse_json

WINDOW: Final = 1 << 18  # its text and objects stay in the processor's cache
_GUESSES: Final = 4
_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_STRING_REST: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_STRING: Final = re.compile(rb'"' + _STRING_REST.pattern, re.DOTALL)
_TOKEN: Final = re.compile(_STRING.pattern + rb'|[\[\]{}"]', re.DOTALL)
_SCALAR_END: Final = re.compile(rb"[,}\]]")
_POSITION: Final = re.compile(r"\(byte (\d+)\)")


def stream_arrays(path: Path, types: Mapping[str, Any], window: int = WINDOW) -> Iterator[tuple[str, int, list[Any]]]:
    """Decode elements of top-level arrays, in the order of the file.

    ``NaN``, ``Infinity`` and ``-Infinity``, which are not JSON but are published, are read as Python reads them.

    Args:
        path: a file whose top level is an object.
        types: key -> the list type that msgspec makes of that key's array.
        window: bytes read at a time.

    Yields:
        Key, number of the first element, elements; at least one pair for each array that is there, empty or not.

    Raises:
        InputError: not JSON, cut off, not an object, one of the keys twice, or an element that does not fit its type;
            with the place.
    """
    refuse_utf16(path)
    with open_file(path) as stream:
        yield from _Reader(path, stream, window).arrays(types)


def stream_list(path: Path, kind: Any, what: str, window: int = WINDOW) -> Iterator[list[Any]]:
    """Decode the elements of a file whose top level is an array, as ``stream_arrays`` does.

    Args:
        path: the file.
        kind: the list type that msgspec makes of them.
        what: what the elements are, for messages.
        window: bytes read at a time.

    Raises:
        InputError: as ``stream_arrays``.
    """
    with open_file(path) as stream:
        yield from _Reader(path, stream, window).elements(kind, what)


def is_utf16(path: Path) -> bool:
    """Whether a file has the byte order mark of UTF-16, as PowerShell writes it."""
    with open_file(path) as stream:
        return stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def refuse_utf16(path: Path) -> None:
    """Raise InputError for a file in UTF-16, which no window of bytes can be read of."""
    if is_utf16(path):
        raise InputError(path, "is UTF-16", "Save it as UTF-8")


def top_level_arrays(path: Path, window: int = WINDOW) -> Iterator[str]:
    """The keys of the top-level object whose arrays begin in the first window; none where the file is no object."""
    with open_file(path) as stream, suppress(InputError):  # the window's end, or not JSON: what was seen counts
        reader = _Reader(path, stream, window)
        reader.limit = 1
        for key in reader.top_level():
            if reader.peek() == b"[":
                yield key
            reader.skip_value()


def _with_raw(items: list[Any], kind: Any) -> list[Any]:
    """Decoded objects with their undecoded fields (msgspec.Raw) as text again: ``convert`` takes them only so."""
    (element,) = get_args(kind) or (Any,)
    fields = (
        msgspec.structs.fields(element) if isinstance(element, type) and issubclass(element, msgspec.Struct) else ()
    )
    undecoded = [field.encode_name for field in fields if field.type is msgspec.Raw]
    for item in items:
        for name in undecoded:
            if isinstance(item, dict) and name in item:
                item[name] = msgspec.Raw(json.dumps(item[name]).encode())
    return items


class _Reader:
    """A place in a file, and the bytes from there that are in memory."""

    def __init__(self, path: Path, stream: BinaryIO, window: int) -> None:
        self.path, self.stream, self.window = path, stream, window
        self.data, self.at, self.base = b"", 0, 0  # base: where in the file data[0] stands
        self.ended, self.limit, self.hole = False, -1, False

    def more(self) -> bool:
        """Read on by a window, or by as much as is in memory if that is more; False at the end of the file."""
        if self.limit == 0 or self.ended:
            return False
        self.limit -= 1
        rest = self.data[self.at :]
        # a zero byte ends the text: the hole of a sparse file would fill the memory
        fresh, zero, _ = self.stream.read(0 if self.hole else max(self.window, len(rest))).partition(b"\0")
        if self.hole or (zero and not fresh):
            raise self.fail("not JSON: a zero byte", len(self.data))
        self.hole = bool(zero)
        self.base += self.at
        self.ended = not fresh
        self.data, self.at = rest + fresh, 0
        return bool(fresh)

    def fail(self, problem: str, at: int | None = None) -> InputError:
        place = self.base + (self.at if at is None else at)
        return InputError(f"{self.path}: byte {place}", problem, "Mend the file, or fetch it again")

    def peek(self) -> bytes:
        """The next byte that is not white space, left in place; empty at the end of the file."""
        while True:
            found = _SPACE.match(self.data, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.data):
                return self.data[self.at : self.at + 1]
            if not self.more():
                return b""

    def take(self, expected: bytes) -> bytes:
        """The next byte that is not white space, which must be one of ``expected``."""
        byte = self.peek()
        if not byte:
            raise self.fail("the JSON is cut off")
        if byte not in [expected[i : i + 1] for i in range(len(expected))]:
            raise self.fail(f"not JSON: {byte.decode(errors='replace')!r} where one of {expected.decode()} is due")
        self.at += 1
        return byte

    def top_level(self) -> Iterator[str]:
        """Keys of the top-level object; whoever asks for the next one has read the value before."""
        if self.peek() == b"\xef":  # a byte order mark
            self.at += 3
        if self.peek() != b"{":
            raise self.fail("the JSON is no object" if self.peek() else "the file is empty")
        self.at += 1
        if self.peek() == b"}":
            return
        while True:
            self.take(b'"')
            self.at -= 1
            while (found := _STRING.match(self.data, self.at)) is None:
                if not self.more():
                    raise self.fail("the JSON is cut off")
            key = self._text(found.group())
            self.at = found.end()
            self.take(b":")
            yield key
            if self.take(b",}") == b"}":
                break
        if self.peek():
            raise self.fail("more follows after the JSON's end")

    def _text(self, string: bytes) -> str:
        try:
            return str(parse_json(string))
        except ValueError as error:
            raise self.fail(f"not JSON ({error})") from error

    def arrays(self, types: Mapping[str, Any]) -> Iterator[tuple[str, int, list[Any]]]:
        seen = set[str]()
        for key in self.top_level():
            if key not in types:
                self.skip_value()
                continue
            if key in seen:
                raise self.fail(f"the key {key!r} stands twice, and which one is meant nobody knows")
            seen.add(key)
            if not self.peek():
                raise self.fail("the JSON is cut off")
            if self.peek() != b"[":
                raise InputError(f"{self.path}: {key}", "it is no array", "Write it as the format says")
            self.at += 1
            yield from self._array(key, msgspec.json.Decoder(types[key]), types[key])

    def elements(self, kind: Any, what: str) -> Iterator[list[Any]]:
        if self.peek() == b"\xef":  # a byte order mark
            self.at += 3
        self.take(b"[")
        for _, _, items in self._array(what, msgspec.json.Decoder(kind), kind):
            yield items
        if self.peek():
            raise self.fail("more follows after the JSON's end")

    def _array(
        self, key: str, decoder: "msgspec.json.Decoder[list[Any]]", kind: Any
    ) -> Iterator[tuple[str, int, list[Any]]]:
        number = 0
        if self.peek() == b"]":
            self.at += 1
            yield key, 0, []
            return
        while True:
            if len(self.data) - self.at < self.window:
                self.more()
            items = self._elements(f"{self.path}: {key}", number, decoder, kind)
            if items is None:
                if not self.more():
                    raise self.fail(f"the JSON is cut off in {key!r}, after {number} elements")
                continue
            yield key, number, items
            number += len(items)
            del items  # before the next window is decoded
            if self.take(b",]") == b"]":
                return

    def _elements(self, where: str, number: int, decoder: Any, kind: Any) -> list[Any] | None:
        """As many whole elements as are in memory, or None where not one is."""
        end = len(self.data)
        for _ in range(_GUESSES):
            cut = self.data.rfind(b"}", self.at, end) + 1
            if not cut:
                break
            items, bad = self._decode(cut, where, number, decoder, kind)
            if items is not None:
                self.at = cut
                return items
            # what is wrong stands at `bad`: the array's own end, most often, or what the cut left open
            end = min(cut - 1, bad) if bad is not None else cut - 1
        exact = self._boundary()
        if exact is None:
            return None
        items, bad = self._decode(exact, where, number, decoder, kind)
        if not items:  # an empty list: nothing follows the last comma
            raise self.fail(f"not JSON, after element {number} of {where.rpartition(': ')[2]!r}", bad)
        self.at = exact
        return items

    def _decode(
        self, cut: int, where: str, number: int, decoder: Any, kind: Any
    ) -> tuple[list[Any] | None, int | None]:
        """The elements up to ``cut``, or else the place of the first byte that is no part of them, if known."""
        text = b"[" + self.data[self.at : cut] + b"]"
        try:
            try:
                return decoder.decode(text), None
            except msgspec.ValidationError:
                raise
            except msgspec.DecodeError as error:
                if b"NaN" not in text and b"Infinity" not in text:
                    found = _POSITION.search(str(error))
                    return None, self.at + int(found.group(1)) - 1 if found else None
            try:
                return msgspec.convert(_with_raw(parse_json(text), kind), kind), None
            except json.JSONDecodeError as error:
                return None, self.at + max(len(error.doc[: error.pos].encode()) - 1, 0)
        except msgspec.ValidationError as error:
            shown = re.sub(r"\$\[(\d+)\]", lambda m: f"{where}[{number + int(m.group(1))}]", str(error))
            problem, _, place = shown.rpartition(" - at ")
            raise InputError(place.strip("`") or where, problem or shown, "Write it as the format says") from error
        except RecursionError as error:
            raise self.fail("not JSON (it is nested too deeply)") from error
        except (ValueError, OverflowError) as error:
            raise self.fail(f"not JSON ({error})") from error

    def _boundary(self) -> int | None:
        """Exactly where the last whole element in memory ends, by counting brackets; None where none does."""
        depth, last = 0, None
        for token in _TOKEN.finditer(self.data, self.at):
            byte = token.group()
            if byte in (b"{", b"["):
                depth += 1
            elif byte in (b"}", b"]"):
                depth -= 1
                if depth < 0:  # the array's end; what stands before it, if no object, is for the decoder to refuse
                    return last or token.start()
                if depth == 0:
                    last = token.end()
            elif byte == b'"':  # a string that goes on
                break
        return last

    def skip_value(self) -> None:
        """Pass over a value of any kind and size."""
        first = self.peek()
        if not first:
            raise self.fail("the JSON is cut off")
        if first not in (b"{", b"[", b'"'):
            while (found := _SCALAR_END.search(self.data, self.at)) is None:
                if not self.more():
                    raise self.fail("the JSON is cut off")
            self.at = found.start()
            return
        depth, in_string = 0, False
        while True:
            token = _STRING_REST.match(self.data, self.at) if in_string else _TOKEN.search(self.data, self.at)
            if token is not None and (in_string or token.group() != b'"'):
                self.at, in_string = token.end(), False
                byte = token.group()
                depth += (byte in (b"{", b"[")) - (byte in (b"}", b"]"))
                if depth == 0:
                    return
                continue
            if token is not None:  # a string that goes on behind the window
                in_string, self.at = True, token.end()
            self.at = self._within_string() if in_string else len(self.data)
            if not self.more():
                raise self.fail("the JSON is cut off")

    def _within_string(self) -> int:
        """The end of the data, less a backslash whose other half is not read yet."""
        tail = self.data[self.at :]
        return len(self.data) - (len(tail) - len(tail.rstrip(b"\\"))) % 2

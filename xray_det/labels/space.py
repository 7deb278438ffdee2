"""A label space: the classes of one dataset, or of the union of several, in a fixed order."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from xray_det.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Class:
    """One class.

    Attributes:
        name: its display name.
        source_id: the id it was published under, as text.
        super_category: what it was published under, if anything.
        aliases: what else it is called.
        frequency: LVIS: r, c or f, as its training set holds it rarely, commonly or frequently.
    """

    name: str
    source_id: str
    super_category: str | None = None
    aliases: tuple[str, ...] = ()
    frequency: str | None = None


@dataclass(frozen=True, kw_only=True)
class LabelSpace:
    """Classes in order; a label is a row number of this table. Names and published ids are unique.

    Raises:
        InputError: two classes share a name or a published id, or one holds half of a UTF-16 pair: it is no text, and
            no file or screen takes it.
    """

    name: str
    classes: tuple[Class, ...]

    def __post_init__(self) -> None:
        for text in (self.name, *chain.from_iterable(map(_texts, self.classes))):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                problem = f"{text!a} holds half of a UTF-16 pair"
                raise InputError("categories", problem, "Correct the name where it is written") from error
        for field in ("name", "source_id"):
            twice = [value for value, count in Counter(getattr(c, field) for c in self.classes).items() if count > 1]
            if twice:
                raise InputError(
                    f"{self.name}: categories",
                    f"two classes share the {field} {twice[0]!r}",
                    "Rename or remove one of them",
                )

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @cached_property
    def row_of_id(self) -> dict[str, int]:
        """Published id -> row."""
        return {c.source_id: row for row, c in enumerate(self.classes)}

    @cached_property
    def row_of_name(self) -> dict[str, int]:
        """Display name -> row."""
        return {c.name: row for row, c in enumerate(self.classes)}

    def rows_of(self, names: Sequence[str], where: str) -> tuple[int, ...]:
        """Rows of classes by their display names, rising.

        Args:
            where: what the names were given for, for messages.

        Raises:
            InputError: a name that no class has, or one given twice.
        """
        strange = [name for name in names if name not in self.row_of_name]
        if strange:
            some = ", ".join(self.names[:5])
            raise InputError(where, f"no class is called {strange[0]!r}", f"Give names such as {some}")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(where, f"{twice[0]!r} is named twice", "Name each class once")
        return tuple(sorted(self.row_of_name[name] for name in names))

    def subset(self, rows: Sequence[int]) -> "LabelSpace":
        """The classes of these rows, in this order."""
        return LabelSpace(name=self.name, classes=tuple(self.classes[row] for row in rows))

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "classes": [asdict(c) for c in self.classes]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "LabelSpace":
        """What ``to_json`` wrote.

        Raises:
            InputError: it is something else; the key is named.
        """
        name, rows = value.get("name"), value.get("classes")
        if not isinstance(name, str):
            raise InputError("name", f"{name!r} is no text", _REMEDY)
        if not isinstance(rows, list):
            raise InputError("classes", "is no list", _REMEDY)
        return cls(name=name, classes=tuple(_class(number, row) for number, row in enumerate(rows)))


_REMEDY = "Write the label space as LabelSpace.to_json does"
_REQUIRED, _OPTIONAL = ("name", "source_id", "aliases"), ("super_category", "frequency")


def _class(number: int, row: Any) -> Class:
    where = f"classes.{number}"
    if not isinstance(row, Mapping) or not {*_REQUIRED} <= {*row} <= {*_REQUIRED, *_OPTIONAL}:
        problem = f"is no table of {', '.join(_REQUIRED)} and, where there is one, {', '.join(_OPTIONAL)}"
        raise InputError(where, problem, _REMEDY)
    for key in ("name", "source_id", *(key for key in _OPTIONAL if row.get(key) is not None)):
        if not isinstance(row[key], str):
            raise InputError(f"{where}.{key}", "is no text", _REMEDY)
    aliases = row["aliases"]
    if not isinstance(aliases, list | tuple) or not all(isinstance(alias, str) for alias in aliases):
        raise InputError(f"{where}.aliases", "is no list of texts", _REMEDY)
    return Class(**{**row, "aliases": tuple(aliases)})


def _texts(each: Class) -> Iterator[str]:
    yield from (each.name, each.source_id, *each.aliases)
    yield from (text for text in (each.super_category, each.frequency) if text is not None)

"""A label space: the classes of one dataset, or of the union of several, in a fixed order."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
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
        InputError: two classes share a name or a published id.
    """

    name: str
    classes: tuple[Class, ...]

    def __post_init__(self) -> None:
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
        rows: Sequence[Mapping[str, Any]] = value["classes"]
        return cls(
            name=value["name"], classes=tuple(Class(**{**row, "aliases": tuple(row["aliases"])}) for row in rows)
        )

"""Several label spaces -> one: classes of the same meaning share a row (paper 000, section 3.2).

Classes meet when their names are equal after ``normalise``, or when aliases.csv or the user's own pairs say that they
mean the same. Nothing is guessed beyond that.

aliases.csv says what a class is called elsewhere, for COCO, VOC, Objects365 v1 and v2, and Open Images. A line with a
name in ``beside`` is about a name of two meanings: it holds in a label space where another class is called that. Open
Images' Mouse, beside its Computer mouse, is the animal. ``evidence`` is why a line stands there:

    spelling, synonym    the same word
    unidet               a pair of UniDet's manually made space
    learned              a pair of one of UniDet's learned spaces
    lvis                 the class that LVIS says to be COCO's
    release              a class of Objects365 renamed from v1 to v2, judged by the names and the order of the two lists

Pairs of UniDet's manual space that are left apart: Dessert and bread/bun, and Open Images' Mouse and the computer's
(different things); Football and American Football (Open Images' has other codes too); Barrel and Barrel/bucket, Ruler
and tape measure/ruler (half of a double class, and the learned spaces keep them apart); Vegetable and Green Vegetables,
Tart and Egg tart, Handgun and Gun (one is a kind of the other). So is COCO's sports ball from Objects365's many balls.
"""

import csv
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from xray_det.errors import InputError
from xray_det.labels.hierarchy import Hierarchy, closure
from xray_det.labels.space import Class, LabelSpace


class Homonym(NamedTuple):
    """In a label space where another class is called ``beside``, ``alias`` means ``name``."""

    name: str
    alias: str
    beside: str


def _table() -> tuple[Mapping[str, str], tuple[Homonym, ...]]:
    """aliases.csv."""
    text = files("xray_det.labels").joinpath("aliases.csv").read_text(encoding="utf-8")
    lines = list(csv.DictReader(text.splitlines()))
    aliases = {line["alias"]: line["name"] for line in lines if not line["beside"]}
    homonyms = (Homonym(line["name"], line["alias"], line["beside"]) for line in lines if line["beside"])
    return MappingProxyType(aliases), tuple(homonyms)


#: Normalised name -> the normalised name it stands for; names of two meanings.
ALIASES, HOMONYMS = _table()


def normalise(name: str) -> str:
    """A name as it is compared: case folded, blanks trimmed and single, none around a slash, Unicode in one form.

    An underscore (LVIS) and a hyphen between words stand for a blank; A- is not A, and - is itself. Plurals are kept:
    glass and glasses differ. Where they do not, aliases.csv says so.
    """
    folded = unicodedata.normalize("NFC", name).casefold()
    words = re.sub(r"(?<=\w)-+(?=\w)", " ", folded.replace("_", " ")).split()
    return re.sub(" ?/ ?", "/", " ".join(words)) or folded.strip()


def _meanings(pairs: Sequence[tuple[str, str]]) -> tuple[dict[str, str], tuple[Homonym, ...]]:
    """Normalised name -> the one that all names of its meaning share; and the homonyms that the pairs leave."""
    own: dict[str, str] = {}
    for alias, name in pairs:
        if own.setdefault(normalise(alias), normalise(name)) != normalise(name):
            problem = f"{alias!r} stands for {own[normalise(alias)]!r} and for {name!r}"
            raise InputError("data.aliases", problem, "Keep one of the two pairs")
    for first in own:
        chain = [first]
        while (after := own.get(chain[-1], chain[-1])) != chain[-1]:
            if after in chain:
                circle = " -> ".join(map(repr, [*chain[chain.index(after) :], after]))
                raise InputError("data.aliases", f"names stand for each other in a circle: {circle}", "Remove a pair")
            chain.append(after)
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while name in parent:
            name = parent[name]
        return name

    for alias, name in {**ALIASES, **own}.items():
        if root(alias) != root(name):  # a pair may reverse one of the table's
            parent[root(alias)] = root(name)
    homonyms = tuple(one for one in HOMONYMS if one.alias not in own)
    return {name: root(name) for name in parent}, homonyms


@dataclass(frozen=True, kw_only=True, eq=False)
class Unified:
    """The unified label space and where each dataset's classes are in it.

    Args:
        space: a class is called as in the first dataset that has it, or where that name has two meanings, by the one it
            has there: ``mouse (animal)``; other names are its aliases. Its id is the published one when there is one
            dataset, else ``dataset/published id``.
        maps: dataset -> int32 [C_d], the unified row of each of its classes.
        merged: a line for each class whose datasets call it differently: ``bird: coco bird, objects365 Wild Bird``.
    """

    space: LabelSpace
    maps: dict[str, npt.NDArray[np.int32]]
    merged: tuple[str, ...]

    def report(self) -> list[str]:
        """Lines for a person to review: sizes, then every class that several datasets share or that was renamed."""
        sizes = ", ".join(f"{dataset} {len(rows)}" for dataset, rows in self.maps.items())
        lines = [f"{len(self.space)} classes from {sizes}"]
        for row, cls in enumerate(self.space.classes):
            owners = [dataset for dataset, rows in self.maps.items() if row in rows]
            if len(owners) > 1 or cls.aliases:
                also = f" (also called {', '.join(cls.aliases)})" if cls.aliases else ""
                lines.append(f"{cls.name}{also}: {', '.join(owners)}")
        return lines


def unify(spaces: Mapping[str, LabelSpace], *, aliases: Sequence[tuple[str, str]] = (), merge: bool = True) -> Unified:
    """Unite label spaces, in the order given: a row for each class that is new, the first dataset's rows first.

    Args:
        spaces: dataset -> its label space. The aliases of its classes count as names too. A single one stays as it is.
        aliases: (alias, the name it stands for), beside those of aliases.csv; it takes the place of the table's for
            that alias. A pair of a name with itself: the name stands for no other.
        merge: False keeps the classes of the datasets apart, named ``dataset/name`` (paper 000, Table 4).

    Raises:
        InputError: two classes of one dataset would meet in one row; all such pairs are named. An alias of two names,
            or aliases that stand for each other in a circle.
    """
    if merge and (len(spaces) > 1 or aliases):
        groups, titles = _groups(spaces, *_meanings(aliases))
    else:
        groups, titles = [[member] for member in _members(spaces)], {}
    maps = {dataset: np.full(len(space), -1, np.int32) for dataset, space in spaces.items()}
    _refuse_twins(spaces, groups)
    classes, merged = [], []
    for row, group in enumerate(groups):
        for dataset, index in group:
            maps[dataset][index] = row
        classes.append(_merged(spaces, group, merge, titles))
        if len({normalise(spaces[dataset].classes[index].name) for dataset, index in group}) > 1:
            members = ", ".join(f"{dataset} {spaces[dataset].classes[index].name.strip()}" for dataset, index in group)
            merged.append(f"{classes[-1].name}: {members}")
    space = LabelSpace(name="+".join(spaces), classes=tuple(classes))
    return Unified(space=space, maps=maps, merged=tuple(merged))


def kept_apart(space: LabelSpace) -> tuple[tuple[str, str], ...]:
    """Pairs for ``unify`` by which classes of this space do not meet, though aliases.csv would join them.

    Such a space is the united one of a training that kept them apart.
    """
    shared = Counter(key for keys, _ in _keys(space, ALIASES, HOMONYMS) for key in set(keys))
    names = (normalise(name) for cls in space.classes for name in (cls.name, *cls.aliases))
    return tuple((name, name) for name in names if name in ALIASES and shared[ALIASES[name]] > 1)


def unify_hierarchies(
    unified: Unified, hierarchies: Mapping[str, Hierarchy | None], spaces: Mapping[str, LabelSpace]
) -> npt.NDArray[np.bool_]:
    """The ancestors of all datasets together, bool [C, C] in unified rows (``[c, a]``: a is an ancestor of c).

    A chain may run through several datasets' hierarchies, where they share a class.

    Raises:
        InputError: together the hierarchies make a class its own ancestor.
    """
    ancestors = _closure(unified, spaces, {d: h.parents for d, h in hierarchies.items() if h is not None})
    if ancestors.diagonal().any():
        names = [unified.space.names[row] for row in np.flatnonzero(ancestors.diagonal())[:5]]
        problem = f"together they make classes their own ancestors: {', '.join(names)}"
        raise InputError(f"hierarchies of {', '.join(hierarchies)}", problem, "Keep the hierarchy of one of them")
    return ancestors


def unify_parts(
    unified: Unified, hierarchies: Mapping[str, Hierarchy | None], spaces: Mapping[str, LabelSpace]
) -> npt.NDArray[np.bool_]:
    """The parts of all datasets together, bool [C, C] in unified rows (``[p, s]``: p is a part of s, or of a part)."""
    return _closure(unified, spaces, {d: h.parts for d, h in hierarchies.items() if h is not None})


def _closure(
    unified: Unified, spaces: Mapping[str, LabelSpace], edges: Mapping[str, tuple[tuple[str, str], ...]]
) -> npt.NDArray[np.bool_]:
    """Transitive closure of every dataset's edges between published ids, bool [C, C] in unified rows."""
    everywhere: list[tuple[str, str]] = []
    for dataset, own in edges.items():
        # An id of the dataset stands for its unified row; other ids stay the dataset's own.
        rows = zip(spaces[dataset].classes, unified.maps[dataset], strict=True)
        known = {c.source_id: f"row {row}" for c, row in rows}
        everywhere += [(known.get(a, f"{dataset}: {a}"), known.get(b, f"{dataset}: {b}")) for a, b in own]
    return closure(everywhere, [f"row {row}" for row in range(len(unified.space))])


def _members(spaces: Mapping[str, LabelSpace]) -> Iterator[tuple[str, int]]:
    return ((dataset, index) for dataset, space in spaces.items() for index in range(len(space)))


def _keys(
    space: LabelSpace, stands_for: Mapping[str, str], homonyms: Sequence[Homonym]
) -> Iterator[tuple[list[str], str | None]]:
    """For each class what its names mean, and what it is to be called where its own name is a homonym."""
    names = [[normalise(name) for name in (cls.name, *cls.aliases)] for cls in space.classes]
    everywhere = Counter(name for own in names for name in set(own))
    for own in names:
        here = {one.alias: one.name for one in homonyms if everywhere[one.beside] > (one.beside in own)}
        meant = [here.get(name, name) for name in own]
        yield [stands_for.get(name, name) for name in meant], here.get(own[0])


def _groups(
    spaces: Mapping[str, LabelSpace], stands_for: Mapping[str, str], homonyms: Sequence[Homonym]
) -> tuple[list[list[tuple[str, int]]], dict[tuple[str, int], str]]:
    """Classes that share a key, in order of their first member; what those are called whose name is a homonym."""
    group_of_key: dict[str, list[tuple[str, int]]] = {}
    keys_of = [keys for space in spaces.values() for keys in _keys(space, stands_for, homonyms)]
    titles = {}
    for member, (keys, title) in zip(_members(spaces), keys_of, strict=True):
        if title is not None and len(spaces) > 1:
            titles[member] = title
        keys = list(dict.fromkeys(keys))
        met = {id(group_of_key[key]): group_of_key[key] for key in keys if key in group_of_key}
        group, *others = met.values() or [[]]
        group += [other for joined in others for other in joined] + [member]
        joined_keys = [key for key, other in group_of_key.items() if id(other) in met] if others else []
        group_of_key |= dict.fromkeys([*joined_keys, *keys], group)
    order = {member: place for place, member in enumerate(_members(spaces))}
    unique = {id(group): sorted(group, key=order.__getitem__) for group in group_of_key.values()}
    return sorted(unique.values(), key=lambda group: order[group[0]]), titles


def _refuse_twins(spaces: Mapping[str, LabelSpace], groups: Sequence[Sequence[tuple[str, int]]]) -> None:
    """Raise if classes of one dataset are in one group, naming all of them and the pairs that keep them apart."""
    for dataset, space in spaces.items():
        twins = [
            names
            for group in groups
            if len(names := [space.classes[index].name for other, index in group if other == dataset]) > 1
        ]
        if twins:
            joined = [name for names in twins for name in names if normalise(name) in ALIASES]
            problem = "; ".join(" and ".join(map(repr, names)) for names in twins) + " would become one class"
            remedy = "Change data.aliases, or rename one"
            if joined:
                remedy = f"Keep them apart by data.aliases={json.dumps([[n, n] for n in joined])}, or rename one"
            raise InputError(f"{dataset}: categories", problem, remedy)


def _merged(
    spaces: Mapping[str, LabelSpace], group: list[tuple[str, int]], merge: bool, titles: Mapping[tuple[str, int], str]
) -> Class:
    dataset, index = group[0]
    first = spaces[dataset].classes[index]
    name = titles.get(group[0], " ".join(first.name.split())) if merge else f"{dataset}/{first.name}"
    members = [spaces[other].classes[i] for other, i in group]
    names = dict.fromkeys(alias for cls in members for alias in (" ".join(cls.name.split()), *cls.aliases))
    return Class(
        name=name,
        source_id=first.source_id if len(spaces) == 1 else f"{dataset}/{first.source_id}",
        super_category=next((cls.super_category for cls in members if cls.super_category), None),
        aliases=tuple(alias for alias in names if normalise(alias) != normalise(name)) if merge else first.aliases,
    )

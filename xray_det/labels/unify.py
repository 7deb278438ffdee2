"""Several label spaces -> one: classes of the same meaning share a row (paper 000, section 3.2).

Classes meet when their names, or what an alias table makes of them, are equal after case folding and with blanks
normalised ("Formula 1 " is "formula 1"). Nothing is guessed beyond that.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from xray_det.errors import InputError
from xray_det.labels.hierarchy import Hierarchy, closure
from xray_det.labels.space import Class, LabelSpace

#: What a name is called here: misspelt or renamed published names, and synonyms between the public datasets. Names that
#: are merely close (Vegetable and Green Vegetables, Pen and Pen/Pencil) stay apart.
_SPELLINGS: Final = {
    # one object, a name a dataset
    "person": "pedestrian, pedestrain",
    "airplane": "aeroplane",
    "motorcycle": "motorbike",
    "couch": "sofa",
    "potted plant": "pottedplant, houseplant",
    "tv": "tvmonitor, television, television set, moniter/tv, monitor/tv",
    "cell phone": "mobile phone",
    "donut": "doughnut",
    "microwave": "microwave oven",
    "keyboard": "computer keyboard",
    "hair dryer": "hair drier",
    "skis": "ski",
    "trash bin/can": "trash bin can, waste container",
    "table tennis paddle": "table teniis paddle, table tennis racket",
    "cutting board": "cutting/chopping board",
    "coffee machine": "coffeemaker",
    "head phone": "headphones",
    "faucet": "tap",
    "tablet": "tablet computer",
    "fan": "mechanical fan",
    "blackboard/whiteboard": "whiteboard",
    "picture/frame": "picture frame",
    "cookies": "cookie",
    "boots": "boot",
    "sandals": "sandal",
    "street lights": "street light",
    # Objects365: misspelt in one release or both, or renamed from v1 to v2
    "balloon": "ballon",
    "basket": "bakset",
    "billiards": "billards",
    "bowl": "bowl/basin",
    "butterfly": "buttefly",
    "camel": "campel",
    "cigar": "cigar/cigarette",
    "dining table": "dinning table, diningtable",
    "extension cord": "extention cord",
    "glove": "gloves",
    "grapes": "grape",
    "hami melon": "hamimelon",
    "handbag": "handbag/satchel",
    "hot air balloon": "hotair ballon, hotair balloon",
    "life saver": "lifesaver",
    "meatball": "meat ball, meat balls",
    "mushroom": "mushroon",
    "noodles": "noddles",
    "pineapple": "pine apple",
    "tape measure/ruler": "tape measur/ ruler, tape measure/ ruler",
    "teapot": "tea pot",
    "toiletries": "toiletry",
    "washing machine": "washing machine/drying machine",
}
#: Normalised name -> the normalised name it stands for.
ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {other: name for name, others in _SPELLINGS.items() for other in others.split(", ")}
)


def normalise(name: str) -> str:
    """A name as it is compared: case folded, blanks trimmed and single; LVIS writes an underscore for a blank."""
    return " ".join(name.casefold().replace("_", " ").split())


@dataclass(frozen=True, kw_only=True, eq=False)
class Unified:
    """The unified label space and where each dataset's classes are in it.

    Args:
        space: a class is called as in the first dataset that has it; other names are its aliases. Its id is the
            published one when there is one dataset, else ``dataset/published id``.
        maps: dataset -> int32 [C_d], the unified row of each of its classes.
    """

    space: LabelSpace
    maps: dict[str, npt.NDArray[np.int32]]

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


def unify(spaces: Mapping[str, LabelSpace], *, aliases: Mapping[str, str] = ALIASES, merge: bool = True) -> Unified:
    """Unite label spaces, in the order given: a row for each class that is new, the first dataset's rows first.

    Args:
        spaces: dataset -> its label space. The aliases of its classes count as names too.
        aliases: name -> the name it stands for; compared normalised.
        merge: False keeps the classes of the datasets apart, named ``dataset/name`` (paper 000, Table 4).

    Raises:
        InputError: two classes of one dataset would meet in one row; both names are given.
    """
    stands_for = {normalise(name): normalise(other) for name, other in aliases.items()}
    rows = dict(enumerate(_groups(spaces, stands_for) if merge else ([member] for member in _members(spaces))))
    maps = {dataset: np.full(len(space), -1, np.int32) for dataset, space in spaces.items()}
    classes = []
    for row, group in rows.items():
        for dataset, index in group:
            if maps[dataset][index] >= 0 or row in maps[dataset]:
                twin = spaces[dataset].classes[int(np.flatnonzero(maps[dataset] == row)[0])]
                problem = f"{twin.name!r} and {spaces[dataset].classes[index].name!r} would become one class"
                raise InputError(f"{dataset}: categories", problem, "Change the alias that joins them, or rename one")
            maps[dataset][index] = row
        classes.append(_merged(spaces, group, merge))
    name = "+".join(spaces)
    return Unified(space=LabelSpace(name=name, classes=tuple(classes)), maps=maps)


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


def _groups(spaces: Mapping[str, LabelSpace], stands_for: Mapping[str, str]) -> list[list[tuple[str, int]]]:
    """Classes that share a key, in order of their first member."""
    group_of_key: dict[str, list[tuple[str, int]]] = {}
    for dataset, index in _members(spaces):
        cls = spaces[dataset].classes[index]
        names = [normalise(name) for name in (cls.name, *cls.aliases)]
        keys = dict.fromkeys(stands_for.get(name, name) for name in names)
        met = {id(group_of_key[key]): group_of_key[key] for key in keys if key in group_of_key}
        group, *others = met.values() or [[]]
        group += [member for other in others for member in other] + [(dataset, index)]
        joined = [key for key, other in group_of_key.items() if id(other) in met] if others else []
        group_of_key |= dict.fromkeys([*joined, *keys], group)
    order = {member: place for place, member in enumerate(_members(spaces))}
    unique = {id(group): sorted(group, key=order.__getitem__) for group in group_of_key.values()}
    return sorted(unique.values(), key=lambda group: order[group[0]])


def _merged(spaces: Mapping[str, LabelSpace], group: list[tuple[str, int]], merge: bool) -> Class:
    dataset, index = group[0]
    first = spaces[dataset].classes[index]
    name = " ".join(first.name.split()) if merge else f"{dataset}/{first.name}"
    members = [spaces[other].classes[i] for other, i in group]
    names = dict.fromkeys(alias for cls in members for alias in (" ".join(cls.name.split()), *cls.aliases))
    return Class(
        name=name,
        source_id=first.source_id if len(spaces) == 1 else f"{dataset}/{first.source_id}",
        super_category=next((cls.super_category for cls in members if cls.super_category), None),
        aliases=tuple(alias for alias in names if normalise(alias) != normalise(name)) if merge else first.aliases,
    )

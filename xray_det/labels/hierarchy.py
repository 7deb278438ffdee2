"""The hierarchy of a label space: which class is a kind of which, and which is a part of which.

Edges are held by published id, so that a hierarchy may name ids that a label space lacks (Open Images' root, or a
Challenge hierarchy used with a subset): chains of ancestors run through them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xray_det.errors import InputError
from xray_det.labels.space import LabelSpace


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """Edges between published ids, each pair once and sorted.

    Args:
        parents: pairs (child, parent). A child may have several parents.
        parts: pairs (part, subject): a Human eye is a part of a Human face, but not a kind of one.

    Raises:
        InputError: a class is, through its parents, a kind of itself.
    """

    parents: tuple[tuple[str, str], ...] = ()
    parts: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parents", tuple(sorted(set(self.parents))))
        object.__setattr__(self, "parts", tuple(sorted(set(self.parts))))
        ids = sorted({label for edge in self.parents for label in edge})
        on_cycle = np.flatnonzero(np.diagonal(closure(self.parents, ids)))
        if on_cycle.size:
            names = ", ".join(ids[row] for row in on_cycle[:5])
            raise InputError("hierarchy", f"a class is its own ancestor ({names})", "Remove an edge of that cycle")

    @classmethod
    def from_open_images(cls, node: Mapping[str, Any]) -> "Hierarchy":
        """The hierarchy of Open Images' nested JSON (keys LabelName, Subcategory, Part).

        The outermost node (``/m/0bl9f``, "Entity") is nobody's parent, as in the official expansion of labels.
        A part is no kind of its subject; what is nested below a part is a hierarchy like any other.

        Raises:
            InputError: a node without LabelName, children that are not a list, or a cycle.
        """
        parents: list[tuple[str, str]] = []
        parts: list[tuple[str, str]] = []

        def walk(node: object, where: str) -> str:
            if not isinstance(node, Mapping) or not isinstance(node.get("LabelName"), str):
                raise InputError(where, "is not a node with a LabelName", "Give Open Images' hierarchy JSON")
            label: str = node["LabelName"]
            for key, edges in (("Subcategory", parents), ("Part", parts)):
                children = node.get(key, [])
                if not isinstance(children, list):
                    raise InputError(f"{where}: {label}", f"{key} is not a list", "Give Open Images' hierarchy JSON")
                edges.extend((walk(child, f"{where}: {label}"), label) for child in children)
            return label

        try:
            root = walk(node, "hierarchy")
        except RecursionError as error:
            raise InputError("hierarchy", "is nested too deeply", "Give Open Images' hierarchy JSON") from error
        return cls(parents=tuple(edge for edge in parents if edge[1] != root), parts=tuple(parts))

    @property
    def ids(self) -> tuple[str, ...]:
        """Every published id that an edge names, sorted."""
        return tuple(sorted({label for edge in self.parents + self.parts for label in edge}))

    def ancestors(self, space: LabelSpace) -> npt.NDArray[np.bool_]:
        """bool [C, C] in the rows of ``space``: ``[c, a]`` is true when a is an ancestor of c, near or far."""
        return closure(self.parents, [c.source_id for c in space.classes])

    def part_of(self, space: LabelSpace) -> npt.NDArray[np.bool_]:
        """bool [C, C] in the rows of ``space``: ``[p, s]`` is true when p is a part of s, or of a part of it."""
        return closure(self.parts, [c.source_id for c in space.classes])

    def to_json(self) -> dict[str, Any]:
        return {"parents": [list(edge) for edge in self.parents], "parts": [list(edge) for edge in self.parts]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Hierarchy":
        return cls(
            parents=tuple((child, parent) for child, parent in value["parents"]),
            parts=tuple((part, subject) for part, subject in value["parts"]),
        )


def closure(edges: Iterable[tuple[str, str]], ids: Iterable[str]) -> npt.NDArray[np.bool_]:
    """Transitive closure of ``edges`` (from, to), restricted to ``ids``: bool [n, n], ``[i, j]``: a path leads from
    ids[i] to ids[j], possibly through ids that are not listed. The diagonal is true on cycles only."""
    wanted = list(ids)
    edges = list(edges)
    rows = {label: row for row, label in enumerate(dict.fromkeys([*wanted, *(x for edge in edges for x in edge)]))}
    reach = np.zeros((len(rows), len(rows)), np.float32)  # float: a matrix product of booleans has no fast path
    if edges:
        reach[tuple(np.array([(rows[a], rows[b]) for a, b in edges]).T)] = 1
    while True:  # paths double in length; a float sum of up to n ones is exact
        longer = np.minimum(reach + reach @ reach, 1)
        if np.array_equal(longer, reach):
            return longer[: len(wanted), : len(wanted)].astype(bool)
        reach = longer

"""Supervision: which classes an image, a box and a region may teach. The one place where that is decided.

Letters: D datasets, C unified classes, B images of a batch, N boxes, R regions.
Three rules (by image, by class, by region) are combined here and nowhere else; losses, samplers and metrics read them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from xray_det.errors import InputError

Bools: TypeAlias = npt.NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)
#: Lists of different lengths: (values, offsets int64 [n + 1]); list i is ``values[offsets[i]:offsets[i + 1]]``.
Ragged: TypeAlias = tuple[npt.NDArray[np.integer], npt.NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Supervision:
    """What is known of each class, by dataset and by hierarchy.

    Args:
        labelled: bool [D, C]: dataset d annotates class c exhaustively, so that its absence is known. All false for a
            dataset with verified image labels (Open Images, LVIS): there only an image's own labels make absence
            known.
        ancestors: bool [C, C]: ``[c, a]``, a is an ancestor of c (labels/hierarchy.py).
        parts: bool [C, C], ``[p, s]``: p is a part of s (labels/hierarchy.py). Given, what lies inside a box of s
            teaches nothing of p unless p was verified for the image (Co-BCE, Akiba et al. 2018): a person has a face,
            boxed or not. None: parts are classes like others.
        positives_teach_all: a box is a negative for every class but its own, their ancestors and descendants, also
            for classes that its dataset does not annotate: a face is surely no car. Otherwise it is one only for
            classes whose absence is known in its image.
        learned: int64 [L], the classes that a detector learns, rising; None: all. The others still say what is known:
            every rule here is of all C, and ``of_learned`` leaves the columns that a detector has.

    Raises:
        InputError: shapes that do not fit each other, a class that is its own ancestor, or nothing to learn.
    """

    labelled: Bools
    ancestors: Bools
    parts: Bools | None = None
    positives_teach_all: bool = True
    learned: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.labelled.ndim != 2 or self.ancestors.shape != (self.num_classes, self.num_classes):
            shapes = f"labelled has shape {self.labelled.shape}, ancestors {self.ancestors.shape}"
            raise InputError("supervision", shapes, "Give [D, C] and [C, C]")
        if self.parts is not None and (self.parts.shape != self.ancestors.shape or self.parts.dtype != bool):
            raise InputError("supervision.parts", f"are {self.parts.dtype} {self.parts.shape}", "Give bool [C, C]")
        if self.labelled.dtype != bool or self.ancestors.dtype != bool:
            raise InputError("supervision", "labelled and ancestors are not boolean", "Give arrays of bool")
        if self.ancestors.diagonal().any():
            rows = np.flatnonzero(self.ancestors.diagonal()).tolist()
            raise InputError("supervision.ancestors", f"classes {rows} are their own ancestors", "Break the cycle")
        if self.learned is not None and not len(self.learned):
            raise InputError("supervision.learned", "no class is learned", "Name one at least")

    @property
    def num_classes(self) -> int:
        return int(self.labelled.shape[1])

    def image_known(
        self,
        dataset: npt.NDArray[np.integer],
        verified_positive: Ragged,
        verified_negative: Ragged,
        boxed: Ragged | None = None,
        not_exhaustive: Ragged | None = None,
    ) -> Bools:
        """By image: is the absence of a class known outside the image's boxes? There its background is a negative.

        Known are the classes that the image's dataset annotates exhaustively, and those that were verified for the
        image: a class that is verified present has all its objects boxed, one that is verified absent has none. As in
        the Open Images protocol, verified presence spreads to ancestors and verified absence to descendants. Of a
        class that is not exhaustively boxed (LVIS) nothing is known outside the boxes, whatever else says so; nor, by
        spreading, of its ancestors, since its other objects are theirs too.

        Args:
            dataset: [B], the image's dataset, a row of ``labelled``.
            verified_positive, verified_negative: B lists of unified classes.
            boxed: B lists of the classes of the image's own boxes; they count as verified present. Left out for
                datasets whose boxes do not imply exhaustive boxes of their class.
            not_exhaustive: B lists of the classes of which the image holds more objects than boxes.

        Returns:
            bool [B, C].
        """
        labelled = self.labelled[dataset]
        if not_exhaustive is not None:
            labelled &= ~self._dense(not_exhaustive)
        known: Bools = labelled | self.verified(verified_positive, verified_negative, boxed, not_exhaustive)
        return known

    def verified(
        self,
        verified_positive: Ragged,
        verified_negative: Ragged,
        boxed: Ragged | None = None,
        not_exhaustive: Ragged | None = None,
    ) -> Bools:
        """bool [B, C]: classes all of whose objects in the image are known; arguments of ``image_known``."""
        present = self._dense(verified_positive)
        if boxed is not None:
            present |= self._dense(boxed)
        absent = self._dense(verified_negative)
        unclear = self._dense(not_exhaustive) if not_exhaustive is not None else np.zeros_like(present)
        present &= ~unclear
        spread = (self._up(present) & ~self._up(unclear)) | self._down(absent)
        found: Bools = (present | absent | spread) & ~unclear
        return found

    def inside_unknown(self, labels: Bools, box_image: npt.NDArray[np.integer], verified: Bools) -> Bools:
        """By region: the parts of which what lies inside a box teaches nothing; needs ``parts``.

        Args:
            labels: bool [N, C], the labels of each box.
            box_image: [N], the image of each box, a row of ``verified``.
            verified: bool [B, C], from ``verified``.

        Returns:
            bool [N, C].
        """
        assert self.parts is not None
        subjects = labels | self._up(labels)
        parts = (subjects.astype(np.float32) @ self.parts.T.astype(np.float32)) > 0
        unknown: Bools = parts & ~verified[box_image]
        return unknown

    def box_targets(
        self, labels: Bools, box_image: npt.NDArray[np.integer], image_known: Bools
    ) -> tuple[npt.NDArray[np.float32], Bools]:
        """By class: what a box teaches whatever is matched to it.

        Ancestors of a label are positive. Descendants of a box's most specific labels are unknown: a Person may be a
        Woman, but a Person who is labelled Man too is none. Every other class is a known negative, or with
        ``positives_teach_all`` off, only where its absence is known in the image.

        Args:
            labels: bool [N, C], the labels of each box, one or more.
            box_image: [N], the image of each box, a row of ``image_known``.
            image_known: bool [B, C], from ``image_known``.

        Returns:
            targets float32 [N, C], 1 on labels and their ancestors, and known bool [N, C].
        """
        above, below = self._concerned(labels)
        positive = labels | above
        others = np.ones_like(labels) if self.positives_teach_all else image_known[box_image]
        return positive.astype(np.float32), positive | (others & ~below)

    def region_known(self, labels: Bools) -> Bools:
        """By region: what an anchor or proposal that lies on a crowd, group-of, difficult or ignore box may learn.

        Args:
            labels: bool [R, C], the labels of each region; a region without any concerns every class.

        Returns:
            bool [R, C]: false on the labels, their ancestors, and the descendants of the most specific ones.
        """
        above, below = self._concerned(labels)
        known: Bools = ~(labels | above | below)
        known[~labels.any(axis=1)] = False
        return known

    def of_learned(self, by_class: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """[n, C] -> [n, L]: the columns of the classes that are learned."""
        return by_class if self.learned is None else np.take(by_class, self.learned, axis=1)

    @cached_property
    def stands_for(self) -> Bools:
        """bool [C, L]: the learned classes that an object of a class is counted as.

        A learned class is itself; another one is its nearest learned ancestors, to which its boxes are positives.
        """
        if self.learned is None:
            return np.eye(self.num_classes, dtype=bool)
        above = self.of_learned(self.ancestors)
        nearest: Bools = above & ~self._spread(above, self._weights[np.ix_(self.learned, self.learned)])
        nearest[self.learned] = np.eye(len(self.learned), dtype=bool)
        return nearest

    def _concerned(self, labels: Bools) -> tuple[Bools, Bools]:
        above = self._up(labels)
        return above, self._down(labels & ~above)

    def _up(self, classes: Bools) -> Bools:
        """bool [n, C] -> bool [n, C]: the ancestors of each row's classes."""
        return self._spread(classes, self._weights)

    def _down(self, classes: Bools) -> Bools:
        """bool [n, C] -> bool [n, C]: the descendants of each row's classes."""
        return self._spread(classes, self._weights.T)

    def _spread(self, classes: Bools, weights: npt.NDArray[np.float32]) -> Bools:
        if not self._nested:
            return np.zeros_like(classes)
        spread: Bools = (classes.astype(np.float32) @ weights) > 0
        return spread

    @cached_property
    def _weights(self) -> npt.NDArray[np.float32]:
        return self.ancestors.astype(np.float32)

    @cached_property
    def _nested(self) -> bool:
        return bool(self.ancestors.any())

    def _dense(self, lists: Ragged) -> Bools:
        values, offsets = lists
        out = np.zeros((len(offsets) - 1, self.num_classes), bool)
        out[np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)), values[offsets[0] : offsets[-1]]] = True
        return out

"""Which splits the lists of a VOC dataset put its images in, and what they leave open: lines, and images.

``ImageSets/Main`` has a list a split (train, val, test, trainval; also valid, validation, train2012, in any letter
case), and beside them lists a class (``cup_train.txt``: a name, and -1, 0 or 1), which VoTT writes alone, and of CVAT's
own subsets (``Site_A.txt``: images in no split). Lines name an image as VOC does, or as people do: with a suffix, below
a folder, by the path on another machine, in quotes.
"""

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from xray_det.data.defect import Defect, noted
from xray_det.data.formats.layout import (
    ABSOLUTE,
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    loose,
    read_text,
    similar,
    split_of,
    walk,
)
from xray_det.data.formats.voc_images import ANNOTATION_FOLDERS
from xray_det.errors import InputError

_SPLITS: Final = ("train", "val", "test", "trainval", None)  # an image in several lists is in the first of these
_NO_SPLIT: Final = "default"  # CVAT's list where it has no subsets
_SUFFIXES: Final = IMAGE_SUFFIXES | {".xml"}
_STRUCTURE: Final = ANNOTATION_FOLDERS | {folder.lower() for folder in IMAGE_FOLDERS}
_OPEN, _SEVERAL = -1, -2
_SHOWN: Final = 3  # lines with the most similar name beside them: looking for it costs


@dataclass(frozen=True, kw_only=True, eq=False)
class _List:
    file: Path
    split: str | None
    names: np.ndarray  # int64, numbers of the names in it, in order
    lines: np.ndarray  # int64, the line that each stands in, from 1
    sure: bool  # of its encoding


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What the lists say of F files: the split of each, and the notes (``defect.noted``) of those that have any.

    ``lists`` is how many say it: where there are none, texts lay in their place that are something else.
    """

    splits: list[str | None]
    notes: dict[int, list[str]]
    lists: int = 0


class SplitLists:
    """The lists of one dataset folder.

    A line is taken whole where an annotation or image is called so: its path without the folders that give structure,
    or the end of that path where no other file's ends so. What fits none is taken again, more loosely: without letter
    case, and without what stands before ``JPEGImages``. Where no line of a list fits, its first column is taken.

    Args:
        folder: the dataset's.
        files: the texts. Lists of classes count only where none of a split is there.

    Raises:
        InputError: a list that cannot be decoded.
    """

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self.folder = folder
        of_class = [file for file in files if _of_class(file.stem)]
        plain = [file for file in files if file not in of_class]
        self._raw: list[str] = []
        self._number: dict[str, int] = {}
        chosen = plain if any(_names_split(file.stem) for file in plain) else files
        self._lists = [self._read(file) for file in chosen]
        self._state = np.full(len(self._raw), _OPEN)  # then the number of a file that the name fits, or _SEVERAL
        self._depth = max((name.count("/") for name in self._number), default=0)
        self._findings: list[tuple[Defect, Path, str]] = []
        self._known: Sequence[str] = ()  # names of files, for messages

    def _read(self, file: Path) -> _List:
        names, lines = [], []
        text, sure = read_text(file)
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        for at, line in enumerate(map(_cleaned, text.split("\n")), 1):
            if line:
                number = self._number.setdefault(_without_structure(line) if "/" in line else line, len(self._raw))
                if number == len(self._raw):
                    self._raw.append(line)
                names.append(number)
                lines.append(at)
        numbers = np.array(names, np.int64)
        return _List(file=file, split=split_of(file.stem), names=numbers, lines=np.array(lines, np.int64), sure=sure)

    def place(self, files: Sequence[Path]) -> Placed:
        """What the lists say of files below the folder; a line that fitted in an earlier call is used up."""
        owner = self._owners(files)
        lists = [one for one in self._lists if self._counts(one)]
        listed = np.zeros((len(_SPLITS), len(files)), bool)
        for one in lists:
            found = owner[one.names]
            places = np.flatnonzero(found >= 0)
            there, first = np.unique(found[places], return_index=True)
            listed[_SPLITS.index(one.split), there] = True
            for at in np.delete(places, first).tolist():
                said = f"line {one.lines[at]} lists {self._raw[one.names[at]]!r} again"
                self._findings.append((Defect.LISTED_TWICE, one.file, said))
        split = np.where(listed.any(axis=0), listed.argmax(axis=0), _SPLITS.index(None))
        notes: dict[int, list[str]] = {}
        called = ", ".join(one.file.name for one in lists[:4]) + (", …" if len(lists) > 4 else "")
        several = (listed[:3].sum(axis=0) > 1) | (listed[2] & listed[3])
        for file in np.flatnonzero(several | ~listed.any(axis=0)).tolist() if lists else ():
            names = [name for name, among in zip(_SPLITS, listed[:, file], strict=True) if among and name]
            if several[file]:
                said = f"in the lists of {' and '.join(names)}, taken for {names[0]}"
                notes[file] = [noted(Defect.IN_TWO_LISTS, said)]
            else:
                notes[file] = [noted(Defect.IN_NO_LIST, f"in none of {called}")]
        return Placed(splits=[_SPLITS[row] for row in split.tolist()], notes=notes, lists=len(lists))

    def findings(self) -> Iterator[tuple[Defect, Path, str]]:
        """The lines that fitted nothing in any call, or several files, and those that say again what another line of
        the list does: the kind, the list, and what is wrong.

        Raises:
            InputError: a line of a list in an encoding that was guessed fits nothing: it was another.
        """
        yield from self._findings
        shown = 0
        for one in filter(self._counts, self._lists):
            for at in np.flatnonzero(self._state[one.names] < 0).tolist():
                number = one.names[at]
                if not one.sure and not self._raw[number].isascii():
                    problem = (
                        f"is not UTF-8, and as cp1252 its line {one.lines[at]}, {self._raw[number]!r}, fits no image"
                    )
                    raise InputError(one.file, problem, "Save it as UTF-8")
                fits = "several images" if self._state[number] == _SEVERAL else "no image"
                said = f"line {one.lines[at]}, {self._raw[number]!r}, fits {fits}"
                if self._state[number] == _OPEN:
                    if shown < _SHOWN and (near := similar(self._raw[number], self._known)):
                        said += f"; the most similar name is {near!r}"
                    shown += 1
                yield Defect.LISTED_WITHOUT_IMAGE, one.file, said

    def _counts(self, one: _List) -> bool:
        """Whether a text is a list: it is called like one, or a line of it fits an image, as in CVAT's own subsets."""
        stem = one.file.stem
        return _names_split(stem) or _of_class(stem) or bool((self._state[one.names] >= 0).any())

    def _owners(self, files: Sequence[Path]) -> np.ndarray:
        """int64 [names]: the file that each name not yet used up fits, else _OPEN or _SEVERAL."""
        folders, names = [], []
        for file in map(os.fspath, files):
            folder, _, name = file.rpartition(os.sep)
            folders.append(folder)
            names.append(_without_suffix(_composed(name.rpartition(".")[0])))
        self._known = self._known or names
        free = self._state == _OPEN
        owner = np.where(free, self._match(self._number, names, folders), _OPEN)
        left = np.flatnonzero(free & (owner == _OPEN)).tolist()
        self._again(owner, {number: _cut(self._raw[number]) for number in left}, names, folders)
        strange = [one.names for one in self._lists if (free & (owner == _OPEN))[one.names].all()]
        left = np.unique(np.concatenate([np.zeros(0, np.int64), *strange])).tolist()
        self._again(owner, {number: _cut(_first_column(self._raw[number])) for number in left}, names, folders)
        self._state = np.where(free, owner, self._state)
        return owner

    def _again(self, owner: np.ndarray, texts: Mapping[int, str], names: Sequence[str], folders: Sequence[str]) -> None:
        """Match names of other words, loosely; ``owner`` is changed in place."""
        if not texts:
            return
        wanted: dict[str, int] = {}
        places = np.array([wanted.setdefault(loose(text), len(wanted)) for text in texts.values()])
        owner[list(texts)] = self._match(wanted, list(map(loose, names)), folders, folded=True)[places]

    def _match(
        self, wanted: Mapping[str, int], names: Sequence[str], folders: Sequence[str], *, folded: bool = False
    ) -> np.ndarray:
        """For each wanted path its file, _OPEN or _SEVERAL; a file of just that path goes before one that ends so."""
        owner, exact = [_OPEN] * len(wanted), bytearray(len(wanted))
        starts: dict[str, list[tuple[str, bool]]] = {}
        for number, (name, folder) in enumerate(zip(names, folders, strict=True)):
            if (own := starts.get(folder)) is None:
                own = starts[folder] = self._starts(Path(folder), folded)
            for start, whole in own:
                place = wanted.get(start + name)
                if place is not None and whole >= exact[place]:
                    owner[place] = number if owner[place] == _OPEN or whole > exact[place] else _SEVERAL
                    exact[place] = whole
        return np.array(owner, np.int64)

    def _starts(self, folder: Path, folded: bool) -> list[tuple[str, bool]]:
        """What may stand before the name of a file in ``folder``, and whether that is its whole path in the dataset."""
        below, above = (_meaning(parts) for parts in (folder.relative_to(self.folder).parts, self.folder.parts[1:]))
        parts = [*above, *below]
        tails = [parts[len(parts) - size :] for size in range(min(len(parts), self._depth) + 1)]
        starts = ["".join(f"{part}/" for part in tail) for tail in tails]
        return [
            (loose(s) if folded else _composed(s), len(tail) == len(below))
            for s, tail in zip(starts, tails, strict=True)
        ]


def read_lists(root: Path) -> dict[Path, SplitLists]:
    """The split lists below ``root``, by dataset folder; those in ``ImageSets`` itself where it has no ``Main``.

    Raises:
        InputError: a list that cannot be decoded.
    """
    found: dict[Path, dict[bool, list[Path]]] = {}
    for file in walk(root, frozenset({".txt"}), depth=4):
        *_, above, own = ("", *(part.lower() for part in file.parent.parts))
        main = (above, own) == ("imagesets", "main")
        if main or own == "imagesets":
            found.setdefault(file.parents[2 if main else 1], {}).setdefault(main, []).append(file)
    return {folder: SplitLists(folder, lists.get(True) or lists[False]) for folder, lists in found.items()}


def _names_split(stem: str) -> bool:
    """Whether a list's name is that of a split and no more: ``cup_train`` is the list of a class."""
    word = re.fullmatch(r"([a-z]+)[-_ ]?\d*", stem.lower())
    return word is not None and (word[1] == _NO_SPLIT or split_of(word[1]) is not None)


def _of_class(stem: str) -> bool:
    return re.search(r"._(train|val|test|trainval)$", stem.lower()) is not None


def _cleaned(line: str) -> str:
    """A line as a path: without blanks and quotes around it, ``./`` and a suffix; composed; / for \\."""
    line = line.strip().lstrip("\ufeff")
    if len(line) > 1 and line[0] == line[-1] and line[0] in "'\"":
        line = line[1:-1].strip()
    line = line.replace("\\", "/")
    while line.startswith("./"):
        line = line[2:]
    return _without_suffix(_composed(line))


def _first_column(line: str) -> str:
    return _cleaned(re.split(r"[\s,;]", line)[0])


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in _SUFFIXES else name


def _without_structure(path: str) -> str:
    *folders, name = path.split("/")
    return "/".join((*_meaning(folders), name))


def _meaning(folders: Sequence[str]) -> list[str]:
    """The folders that say more than what kind of thing lies in them."""
    return [folder for folder in folders if folder and folder.lower() not in _STRUCTURE]


def _cut(path: str) -> str:
    """What stands behind the last folder that gives structure; of an absolute path without any, the name."""
    parts = path.split("/")
    ends = [at for at, part in enumerate(parts[:-1]) if part == ".." or part.lower() in _STRUCTURE]
    if ends:
        return "/".join(parts[ends[-1] + 1 :])
    return parts[-1] if ABSOLUTE.match(path) else path

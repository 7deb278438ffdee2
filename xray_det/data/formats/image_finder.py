"""Where the image of a published file name lies, in the layouts in which COCO and Objects365 are unpacked."""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from xray_det.data.formats.layout import IMAGE_FOLDERS, loose, similar, split_of

_PATCH = re.compile(r"patch\d+$")
_VERSION = re.compile(r"v\d+$")
_DEPTH = 4
_SHOWN = 3  # missing images with the most similar name beside them


class ImageFinder:
    """Finds images below ``root`` by name, with one look at the disk for most.

    Folders that only give structure may be missing from a name, or be missing on disk: ``images``, a split,
    Objects365's ``v1`` and ``patch8``. Any other folder in a name must be there (``batch_2/000006.jpg`` is another
    image than ``batch_1/000006.jpg``), and a folder of another split is not looked into. Where no file has a name by
    the letter, it is taken loosely (``layout.loose``): it may be composed otherwise, in other letter case, or quoted.

    Args:
        root: the dataset's folder.
        beside: the folders of the annotation files, looked into first (each for its own file).
    """

    def __init__(self, root: Path, beside: Sequence[Path]) -> None:
        self.root, self._beside = root, set(beside)
        self._folders = list(_structural_folders(root))
        self._last: dict[tuple[str | None, Path], tuple[Path, int]] = {}
        self._strange: dict[Path, dict[str, list[str]]] = {}
        self._missed = 0

    def find(self, name: PurePosixPath, split: str | None, beside: Path) -> str | None:
        """The image's path relative to the root, or None.

        Args:
            name: as published, inside the root (``layout.inside``).
            split: of its annotation file; None: any folder will do.
            beside: the folder of its annotation file.
        """
        if not name.name:
            return None
        last = self._last.get((split, beside))
        if last is not None:
            found = self._look(last[0], name, last[1])
            if found is not None:
                return found
        droppable = 0
        while droppable < len(name.parts) - 1 and _structural(name.parts[droppable]):
            droppable += 1
        folders = self._searched(split, beside)
        places = [(folder, dropped) for folder in folders for dropped in range(droppable + 1)]
        for folder, dropped in places:
            found = self._look(folder, name, dropped)
            if found is not None:
                self._last[(split, beside)] = (folder, dropped)
                return found
        wanted = [(part, loose(part)) for part in name.parts]
        return next((found for place in places if (found := self._look_loosely(*place, wanted)) is not None), None)

    def most_similar(self, name: PurePosixPath, split: str | None, beside: Path) -> str | None:
        """For a message on a name that ``find`` does not find: the file there that is called most like it.

        None where none resembles it, and from the fourth time on: each folder is listed again.
        """
        self._missed += 1
        if self._missed > _SHOWN:
            return None
        files: dict[str, Path] = {}
        for folder in self._searched(split, beside):
            if os.path.isdir(there := folder / name.parent):
                files |= {child: there / child for child in islice(_listed(there), 20_000)}
        near = similar(name.name, files)
        return None if near is None else files[near].relative_to(self.root).as_posix()

    def _searched(self, split: str | None, beside: Path) -> list[Path]:
        """The folders to look in: none of another split."""
        folders = dict.fromkeys((beside, *self._folders))
        return [f for f in folders if split is None or _split_of_folder(f, self.root) in (None, split)]

    def _look(self, folder: Path, name: PurePosixPath, dropped: int) -> str | None:
        if dropped and dropped >= len(name.parts):
            return None
        path = folder.joinpath(*name.parts[dropped:])
        there = os.path.isfile(path)  # False also where the name is too long for a file
        return path.relative_to(self.root).as_posix() if there else None

    def _look_loosely(self, folder: Path, dropped: int, wanted: Sequence[tuple[str, str]]) -> str | None:
        """As ``_look``, where in each folder one name alone is loosely the wanted one (each part, and that loosely)."""
        path, looked = folder, True
        for at, (part, loosely) in enumerate(wanted[dropped:], dropped + 1):
            if not (looked and at == len(wanted)) and os.path.exists(path / part):
                path /= part
                continue
            found = self._strange_names(path).get(loosely, [])
            if loosely != part and os.path.exists(path / loosely):  # False also where it is too long for a file
                found = [*found, loosely]
            if len(found) != 1:
                return None
            path, looked = path / found[0], False
        return path.relative_to(self.root).as_posix() if path.is_file() else None

    def _strange_names(self, folder: Path) -> dict[str, list[str]]:
        """The names in a folder that are not loose already, by what they are loosely: of most datasets, none."""
        if folder not in self._strange:
            found = self._strange[folder] = {}
            for child in _listed(folder):
                if (wanted := loose(child)) != child:
                    found.setdefault(wanted, []).append(child)
        return self._strange[folder]


def _listed(folder: Path) -> Iterator[str]:
    return (child.name for child in folder.iterdir()) if folder.is_dir() else iter(())


def _structural(folder: str) -> bool:
    """Whether a folder's name only says what kind of thing lies in it."""
    return bool(
        folder in IMAGE_FOLDERS
        or split_of(folder) is not None
        or _PATCH.fullmatch(folder)
        or _VERSION.fullmatch(folder)
    )


def _structural_folders(root: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """``root`` and the folders below it that are reached through structural folders alone, outer ones first."""
    level = [root]
    for _ in range(depth + 1):
        yield from level
        level = [
            child
            for folder in level
            if not _PATCH.fullmatch(folder.name)
            for child in sorted(folder.iterdir())
            if _structural(child.name) and child.is_dir()
        ]


def _split_of_folder(folder: Path, root: Path) -> str | None:
    parts = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
    return next((split for part in reversed(parts) if (split := split_of(part))), None)

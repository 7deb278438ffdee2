"""Where the image of a published file name lies, in the layouts in which COCO and Objects365 are unpacked."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from xray_det.data.formats.layout import IMAGE_FOLDERS, split_of

_PATCH = re.compile(r"patch\d+$")
_VERSION = re.compile(r"v\d+$")
_DEPTH = 4


class ImageFinder:
    """Finds images below ``root`` by name, with one look at the disk for most.

    Folders that only give structure may be missing from a name, or be missing on disk: ``images``, a split,
    Objects365's ``v1`` and ``patch8``. Any other folder in a name must be there (``batch_2/000006.jpg`` is another
    image than ``batch_1/000006.jpg``), and a folder of another split is not looked into.

    Args:
        root: the dataset's folder.
        beside: the folders of the annotation files, looked into first (each for its own file).
    """

    def __init__(self, root: Path, beside: Sequence[Path]) -> None:
        self.root, self._beside = root, set(beside)
        self._folders = list(_structural_folders(root))
        self._last: dict[tuple[str | None, Path], tuple[Path, int]] = {}

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
        for folder in (beside, *self._folders):
            folder_split = _split_of_folder(folder, self.root)
            if split is not None and folder_split not in (None, split):
                continue
            for dropped in range(droppable + 1):
                found = self._look(folder, name, dropped)
                if found is not None:
                    self._last[(split, beside)] = (folder, dropped)
                    return found
        return None

    def _look(self, folder: Path, name: PurePosixPath, dropped: int) -> str | None:
        if dropped and dropped >= len(name.parts):
            return None
        path = folder.joinpath(*name.parts[dropped:])
        there = os.path.isfile(path)  # False also where the name is too long for a file
        return path.relative_to(self.root).as_posix() if there else None


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

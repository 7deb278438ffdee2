"""How published datasets lie on disk: splits in names, images beside annotations, names that must stay inside."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from xray_det.errors import InputError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
#: Folder names under which images are published, tried in this order.
IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "imgs", "img", "data")
_ANNOTATION_FOLDERS = frozenset({"annotations", "annotation", "xml", "xmls"})

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "minival": "val",
    "test": "test",
    "testing": "test",
    "trainval": "trainval",
}


def split_of(name: str) -> str | None:
    """The split that a file or folder name speaks of: ``instances_train2017`` -> train, ``validation`` -> val.

    None where the name holds no split, or two different ones.
    """
    words = re.split(r"[^a-z]+", name.lower())
    found = {_SPLITS[word] for word in words if word in _SPLITS}
    return found.pop() if len(found) == 1 else None


def split_of_path(path: Path, root: Path) -> str | None:
    """The split of a file from its own name, else from the nearest folder below ``root`` that names one."""
    parts = path.relative_to(root).parts if path.is_relative_to(root) else (path.name,)
    own = split_of(Path(parts[-1]).stem)
    return own or next((s for s in map(split_of, reversed(parts[:-1])) if s), None)


#: A file name that is absolute or leaves the folder it is relative to; understood by ``re`` and by RE2.
LEAVES: Final = r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)|\x00"
_LEAVES = re.compile(LEAVES)


def inside(file_name: str, where: object) -> PurePosixPath:
    """A published file name as a relative path.

    Raises:
        InputError: the name is absolute or leaves the dataset's folder.
    """
    if _LEAVES.search(file_name):
        raise InputError(
            where, f"the file name {file_name!r} leaves the dataset's folder", "Make it relative to the image folder"
        )
    return PurePosixPath(file_name.replace("\\", "/"))


def given_paths(path: Path | str | Sequence[Path | str]) -> list[Path]:
    """The paths a caller gave, absolute.

    Raises:
        InputError: none was given, or one does not exist.
    """
    paths = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(p) for p in path]
    if not paths:
        raise InputError("dataset", "no path given", "Give the dataset's folder or its annotation files")
    paths = [Path(os.path.normpath(p.expanduser().absolute())) for p in paths]
    for one in paths:
        _check_utf8(one)
        if not one.exists():
            raise InputError(one, "no such file or folder", "Check the path")
    return paths


def common_root(paths: Sequence[Path]) -> Path:
    """The dataset's folder: the one given, else that of the given files.

    If that is an ``annotations`` folder beside image folders (or holds no more than the files given), its parent.
    """
    root = Path(os.path.commonpath([p if p.is_dir() else p.parent for p in paths]))
    if root.name.lower() not in _ANNOTATION_FOLDERS:
        return root
    files_given = not any(p.is_dir() for p in paths)
    return root.parent if files_given or any(map(_holds_images, root.parent.iterdir())) else root


def _holds_images(folder: Path) -> bool:
    """Whether a folder's name says that images lie in it."""
    return (folder.name in IMAGE_FOLDERS or split_of(folder.name) is not None) and folder.is_dir()


def walk(
    root: Path, suffixes: frozenset[str], *, depth: int | None = None, without: frozenset[str] = frozenset()
) -> Iterator[Path]:
    """Files below ``root`` with one of the suffixes (lower case), in sorted order, hidden folders left out.

    Args:
        depth: folders below ``root`` to enter; None: all.
        without: names of folders not to enter: millions of images may lie there.

    Raises:
        InputError: such a file's name is not UTF-8, as every name in a dataset must be.
    """
    for folder, folders, files in os.walk(root):
        below = len(Path(folder).relative_to(root).parts)
        folders[:] = (
            sorted(f for f in folders if not f.startswith(".") and f not in without)
            if depth is None or below < depth
            else []
        )
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith("."):
                file = Path(folder, name)
                _check_utf8(file)
                yield file


def _check_utf8(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(path, "its name is not UTF-8", "Rename the file or folder") from error

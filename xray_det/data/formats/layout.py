"""How published datasets lie on disk: splits in names, images beside annotations, names that must stay inside."""

import codecs
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote

from xray_det.errors import InputError
from xray_det.storage import read_file

#: In lower case. What no decoder here reads (HEIC) is found too, and put aside with the reason.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".heic", ".heif"}
)
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
#: A path on the machine that wrote it.
ABSOLUTE: Final = re.compile(r"[/\\]|[A-Za-z]:")


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


def other_names(name: str) -> list[PurePosixPath]:
    """Where an image may lie under the dataset's folder if not under its published name, likeliest first.

    Labelling tools publish addresses (``https://host/bucket/a.png``, ``/data/local-files/?d=images/a.png``), escapes
    (``a%20b.png``) and the number of a project that has no folder (``images/1/a.png``).
    """
    plain = name.replace("\\", "/")
    address = _ADDRESS.match(plain)
    if address:
        plain = unquote(address["local"] or address["upload"] or address["path"] or "").replace("\\", "/")
        parts = PurePosixPath(plain.lstrip("/")).parts
        found = [PurePosixPath(*parts[start:]) for start in range(len(parts))]
    else:
        path = PurePosixPath(unquote(plain))
        found = [path] if unquote(plain) != plain else []
        if path.parent.name.isdecimal():
            found.append(path.parent.parent / path.name)
    return [path for path in found if not _LEAVES.search(str(path))]


def is_address(name: str) -> bool:
    """Whether a published file name is an address, whose folders are none of the dataset's."""
    return _ADDRESS.match(name.replace("\\", "/")) is not None


#: An address: what Label Studio serves from disk (``local``) or has uploaded, else the path of a URL.
_ADDRESS: Final = re.compile(
    r"(?:[a-z][a-z0-9+.-]+://[^/]*)?(?:/data/local-files/*\?d=(?P<local>[^&#]*)|/data/upload(?P<upload>/[^?#]*))"
    r"|[a-z][a-z0-9+.-]+://[^/]*(?P<path>/[^?#]*)",
    re.IGNORECASE,
)


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


def refuse_packed(paths: Sequence[Path], depth: int = 2, beside: str | None = None) -> None:
    """Refuse archives that would be left out without a word.

    Args:
        paths: archives, or folders to look for them in.
        depth: folders below these to enter.
        beside: only packed files of this suffix (``a.json.gz``) that do not lie there unpacked; None: all.

    Raises:
        InputError: there is one.
    """
    for path in paths:
        files = walk(path, _PACKED, depth=depth) if path.is_dir() else iter([path])
        for file in files:
            left_out = beside is None or (Path(file.stem).suffix == beside and not file.with_suffix("").exists())
            if file.suffix.lower() in _PACKED and left_out:
                raise InputError(file, "it is packed, and is not read so", "Unpack it where it lies")


_PACKED: Final = frozenset({".gz", ".zip", ".bz2", ".xz", ".zst", ".tgz", ".tar", ".7z", ".rar"})


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

    Links are followed. A folder that several names lead to is entered once: by the outermost, by a link before the
    folder itself, since people link a folder to where a layout wants it. So links that loop end.

    Args:
        depth: folders below ``root`` to enter; None: all.
        without: names of folders not to enter: millions of images may lie there.

    Raises:
        InputError: such a file's name is not UTF-8, as every name in a dataset must be.
    """
    entered = {os.path.realpath(root)}
    for folder, folders, files in os.walk(root, followlinks=True):
        below = len(Path(folder).relative_to(root).parts)
        wanted = [f for f in folders if not f.startswith(".") and f not in without and (depth is None or below < depth)]
        kept = []
        for name in sorted(wanted, key=lambda name: (not os.path.islink(os.path.join(folder, name)), name)):
            real = os.path.realpath(os.path.join(folder, name))
            if real not in entered:
                entered.add(real)
                kept.append(name)
        folders[:] = sorted(kept)
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


class Links:
    """Where files below ``root`` really lie. Folders are looked up once."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._folders: dict[str, str] = {}

    def outside(self, file: Path) -> str | None:
        """The place of a file to which links lead out of the root; None of a file that lies inside."""
        folder, name = os.path.split(file)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        real = os.path.realpath(file) if os.path.islink(file) else f"{self._folders[folder]}{os.sep}{name}"
        return None if real.startswith(self._root.rstrip(os.sep) + os.sep) else real


def lost_link(folder: Path) -> str | None:
    """What became of a link in ``folder`` that leads nowhere, or that was copied as text (as git does on Windows)."""
    for child in sorted(folder.iterdir()):
        if child.is_symlink() and not child.exists():
            return f"{child.name} is a link to {child.readlink()}, which is not there"
        if not child.suffix and child.is_file() and child.stat().st_size < 1000:
            said = child.read_bytes().decode(errors="replace").strip()
            if "\0" not in said and "\n" not in said and os.path.isdir(folder / said):
                return f"{child.name} is a file that says {said!r}, a link that was copied as text"
    return None


def similar(name: str, names: Iterable[str]) -> str | None:
    """The most similar of some file names (of the first 20,000) by its stem, for a message; None where none is."""
    stems = {os.path.splitext(other)[0]: other for other in islice(names, 20_000)}
    near = get_close_matches(os.path.splitext(name)[0], stems, n=1, cutoff=0.7)
    return stems[near[0]] if near else None


def same_name(path: str, other: str) -> bool:
    """Whether two paths end in one file name, however Unicode composes it."""
    ends = (text.replace("\\", "/").rpartition("/")[2] for text in (path, other))
    one, two = (end if end.isascii() else unicodedata.normalize("NFC", end) for end in ends)
    return one == two


def loose(name: str) -> str:
    """A file name without what copying between systems changes: Unicode's composition, letter case, %20 for a blank."""
    return unicodedata.normalize("NFC", unquote(name)).casefold()


def wide_encoding(data: bytes) -> str | None:
    """The encoding of a text with two bytes a letter, by its mark, or by the zero in its first, Latin, letter."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(data) > 1 and 0 in data[:2]:
        return "utf-16-be" if data[0] == 0 else "utf-16-le"
    return None


def read_text(file: Path) -> tuple[str, bool]:
    """The text of a file, whatever Windows made of it: UTF-8 or UTF-16, with or without a mark, or cp1252.

    Returns:
        The text, and whether that is sure: most bytes in other encodings are letters of cp1252 too.

    Raises:
        InputError: it cannot be read, or is none of these.
    """
    data = read_file(file)
    wide = wide_encoding(data)
    encodings = ["utf-8-sig", "cp1252"] if wide is None else [wide]
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            if "\0" not in text:
                return text, encoding != "cp1252"
    raise InputError(file, f"is no text in {' or '.join(encodings)}", "Save it as UTF-8")

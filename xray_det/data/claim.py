"""What a folder of shards is made from, written into it first, so that nothing else is ever mixed in."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xray_det import storage
from xray_det.data.formats.layout import walk
from xray_det.data.schema import SCHEMA_VERSION
from xray_det.errors import InputError

if TYPE_CHECKING:
    from xray_det.data.formats.source import Source

FILE: Final = "source.json"
_ANNOTATIONS: Final = {
    "coco": frozenset({".json"}),
    "lvis": frozenset({".json"}),
    "open_images": frozenset({".csv", ".json"}),
    "voc": frozenset({".xml", ".txt"}),
}


def claim(source: "Source", paths: Sequence[Path], folder: str, name: str | None, options: Mapping[str, Any]) -> None:
    """Write down what a folder is made from; or, when it says so already, check that it is the same.

    Annotation files are the same when their names, sizes and times of change are, else when their bytes are: a copy of
    the dataset with new times is still that dataset, an edited one never is.

    Args:
        source: the published dataset, opened.
        paths: what it was opened from: its folder, or annotation files.
        folder: the folder of shards.
        name: the dataset's name in it; None: the source's.
        options: of the ingest, JSON-able: those that change what is written.

    Raises:
        InputError: the folder was made from another source, from annotations that have changed, or with other options.
    """
    new = _said(paths, options) | {
        "name": name or source.name,
        "named": name is not None,
        "format": source.format,
        "classes": source.space.to_json()["classes"],
    }
    new = json.loads(json.dumps(new))  # as it will be read back: lists for tuples
    files = _annotation_files(paths, source.format, folder)
    uri = storage.join(folder, FILE)
    if not storage.exists(uri):
        if storage.exists(storage.join(folder, "manifest.json")):
            raise InputError(folder, f"holds a dataset of unknown source (no {FILE})", "Choose another folder")
        storage.write_json(uri, new | {"seen": _seen(files), "read": _read(files)})
        return
    old = storage.read_json(uri)
    for key, value in new.items():
        if old.get(key) != value and key != "named":
            said = f"{key} was {old.get(key)!r} and is {value!r}"
            raise _refusal(folder, "the classes have changed" if key == "classes" else said)
    if old["seen"] != _seen(files) and old["read"] != _read(files):
        raise _refusal(folder, f"annotation files in {', '.join(new['paths'])} have changed since")


def is_of(paths: Sequence[Path], folder: str, format: str, name: str | None, options: Mapping[str, Any]) -> bool:
    """Whether a folder was surely made from these paths with these options: told by file times, nothing opened.

    False says only that the source must be opened to know (``claim``).
    """
    uri = storage.join(folder, FILE)
    if not storage.exists(uri):
        return False
    old = storage.read_json(uri)
    same_name = old["name"] == name if old["named"] else name is None
    same = same_name and format in ("auto", old["format"])
    same = same and all(old.get(key) == value for key, value in _said(paths, options).items())
    return bool(same and old["seen"] == _seen(_annotation_files(paths, old["format"], folder)))


def _said(paths: Sequence[Path], options: Mapping[str, Any]) -> dict[str, Any]:
    return {"paths": [str(path.absolute()) for path in paths], "schema_version": SCHEMA_VERSION, **options}


def _refusal(folder: str, said: str) -> InputError:
    return InputError(
        folder, f"was made from another source or with other options: {said}", "Choose another folder, or remove it"
    )


def _annotation_files(paths: Sequence[Path], format: str, folder: str) -> list[tuple[str, Path]]:
    """Files that may hold annotations, with their names below the paths; those in ``folder`` are our own."""

    def found() -> Iterator[tuple[str, Path]]:
        for path in paths:
            if path.is_dir():
                yield from ((str(file.relative_to(path)), file) for file in walk(path, _ANNOTATIONS[format]))
            else:
                yield path.name, path

    # a link to nothing is none: a reader that needs it says so
    return [(name, file) for name, file in found() if not str(file).startswith(folder + os.sep) and file.exists()]


def _seen(files: Sequence[tuple[str, Path]]) -> str:
    """A hash of names, sizes and times of change."""
    stamp = hashlib.sha256()
    for name, file in files:
        status = file.stat()
        stamp.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return stamp.hexdigest()


def _read(files: Sequence[tuple[str, Path]]) -> str:
    """A hash of names and bytes."""
    stamp = hashlib.sha256()
    for name, file in files:
        with storage.open_file(file) as stream:
            content = hashlib.file_digest(stream, "sha1").hexdigest()
        stamp.update(f"{name}\0{content}\n".encode())
    return stamp.hexdigest()

"""Where artifacts lie: any pyarrow.fs URI (a local path, s3://, gs://), written whole or not at all."""

import json
import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from xray_det.errors import InputError


def home() -> Path:
    """The folder of defaults, outside any working directory: a submitted job runs in a temporary copy.

    ``XRAY_DET_HOME`` when set, else ``~/xray_det``.
    """
    return Path(os.environ.get("XRAY_DET_HOME", "~/xray_det")).expanduser().absolute()


def locate(uri: str | os.PathLike[str]) -> tuple[pafs.FileSystem, str]:
    """The file system of a URI and the path inside it; a path without a scheme is local and made absolute."""
    text = os.fspath(uri)
    if "://" not in text:
        return pafs.LocalFileSystem(), str(Path(text).expanduser().absolute())
    try:
        fs, path = pafs.FileSystem.from_uri(text)
    except (ValueError, OSError) as error:
        raise InputError(text, f"not a storage address ({error})", "Give a local path, s3:// or gs://") from error
    return fs, path


def join(uri: str | os.PathLike[str], *parts: str) -> str:
    """``uri`` with ``parts`` below it; a local path stays a plain path."""
    return "/".join([os.fspath(uri).rstrip("/"), *parts])


def exists(uri: str | os.PathLike[str]) -> bool:
    fs, path = locate(uri)
    return bool(fs.get_file_info(path).type != pafs.FileType.NotFound)


def read_bytes(uri: str | os.PathLike[str]) -> bytes:
    fs, path = locate(uri)
    with fs.open_input_file(path) as stream:
        return bytes(stream.read())


def write_bytes(uri: str | os.PathLike[str], payload: bytes) -> None:
    """Write a file so that a reader sees all of it or the one before: a local file is renamed into place."""
    fs, path = locate(uri)
    fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
    if isinstance(fs, pafs.LocalFileSystem):
        partial = f"{path}.{uuid.uuid4().hex[:8]}.partial"
        try:
            with open(partial, "wb") as stream:
                stream.write(payload)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, path)
        except OSError as error:
            Path(partial).unlink(missing_ok=True)
            raise InputError(
                path, f"cannot be written ({error.strerror})", "Free space or choose another folder"
            ) from error
    else:  # an object store publishes an object when its upload ends
        with fs.open_output_stream(path) as sink:
            sink.write(payload)


def read_json(uri: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(read_bytes(uri))
    except FileNotFoundError as error:
        raise InputError(uri, "no such file", "Check the path") from error
    except ValueError as error:
        raise InputError(
            uri, f"not valid JSON ({error})", "Remove the file and run the step that writes it again"
        ) from error


def write_json(uri: str | os.PathLike[str], value: Any) -> None:
    write_bytes(uri, json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True).encode())

"""Where artifacts lie: any pyarrow.fs URI (a local path, s3://, gs://), written whole or not at all.

**Another object store than Amazon's** (MinIO, Ceph, ...): set ``AWS_ENDPOINT_URL=http://HOST:PORT`` beside
``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY`` on every machine; addresses stay ``s3://bucket/folder``. An address
can also say it itself and carry it to where the environment is not set:
``s3://bucket/folder?endpoint_override=HOST:PORT&scheme=http`` (further options: pyarrow's S3FileSystem). Keys never
belong into an address: it is printed and tracked. An MLflow server that keeps artifacts in such a store reads the same
environment; before an older one it needs ``AWS_REQUEST_CHECKSUM_CALCULATION=when_required`` too, here the default.

**Refusals.** What passes (503 and other 5xx, connections that are refused or break, silence) is tried again with
doubling pauses, for about a minute or ``XRAY_DET_STORAGE_PATIENCE_S`` seconds; then, and at once for what waiting does
not mend (403, no such bucket, no such host), an InputError (Refused) says what to do. The file system from ``locate``
has this patience, also after pickling: give it, not an address, to libraries that take one (``pyarrow.parquet``, Ray).
"""

import errno
import hashlib
import json
import math
import os
import re
import socket
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from xray_det.errors import InputError

T = TypeVar("T")

PATIENCE_S: Final = 60.0
#: Until a silent server counts as not answering; pyarrow's 1 and 3 s are too short for a busy one.
CONNECT_S, ANSWER_S = 5.0, 10.0
#: A file is uploaded in parts of 10 MB, sent while the next are read: this bounds how far reading may be ahead.
BLOCK_BYTES, AHEAD_BLOCKS = 8 << 20, 4

#: Of a file that is read whole to be parsed: JSON that is not streamed, XML, a list of images or classes. It takes ten
#: times as much memory as objects; a list of ten million images stays below.
TEXT_BYTES: Final = 256 << 20

_CHECKSUMS: Final = "AWS_REQUEST_CHECKSUM_CALCULATION"
#: Environment that decides which object store an address means.
_ENDPOINT: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_ENVIRONMENT: Final = (
    *_ENDPOINT, "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "XRAY_DET_STORAGE_PATIENCE_S",
)  # fmt: skip


class Refused(InputError):
    """The storage does not take, give or remove something: it is away, full, or forbids it."""


def home() -> Path:
    """The folder of defaults, outside any working directory: a submitted job runs in a temporary copy.

    ``XRAY_DET_HOME`` when set, else ``~/xray_det``.
    """
    return Path(os.environ.get("XRAY_DET_HOME", "~/xray_det")).expanduser().absolute()


# Addresses


def locate(uri: str | os.PathLike[str]) -> tuple[pafs.FileSystem, str]:
    """The file system of a URI and the path inside it; a path without a scheme is local and made absolute.

    File systems of object stores are made once a process.

    Raises:
        InputError: not an address, or not UTF-8; its endpoint is a host nobody knows.
    """
    text = os.fspath(uri)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(text, "the path is not UTF-8", "Rename the file or folder") from error
    if "://" not in text:
        return pafs.LocalFileSystem(), str(Path(text).expanduser().absolute())
    try:
        parts = urlsplit(text)
        if parts.scheme not in ("s3", "gs", "gcs"):
            fs, path = pafs.FileSystem.from_uri(text)
        else:
            root = parts._replace(path="", fragment="").geturl()
            fs, bucket = _object_store(root, tuple(os.environ.get(name) for name in _ENVIRONMENT))
            path = (bucket + unquote(parts.path)).rstrip("/")
    except InputError:
        raise
    except (ValueError, OSError) as error:
        problem, remedy = f"not a storage address ({error})", "Give a local path, s3:// or gs://"
        raise InputError(_shown(uri), problem, remedy) from error
    return fs, path


def join(uri: str | os.PathLike[str], *parts: str) -> str:
    """``uri`` with ``parts`` below it; a local path stays a plain path, options behind a ``?`` stay behind it."""
    path, mark, options = _split_options(uri)
    return "/".join([path.rstrip("/"), *parts]) + mark + options


def file_name(text: str) -> str:
    """A text as the name of one file: no separators and controls, of at most 200 bytes; of another one a digest too."""
    safe = re.sub(r"[\x00-\x1f\x7f/\\]", "_", text.encode(errors="replace").decode())
    if safe == text and len(text.encode()) <= 200 and text not in ("", ".", ".."):
        return text
    stem, dot, suffix = safe.rpartition(".")
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{(stem or suffix).encode()[:150].decode(errors='ignore')}-{digest}{dot}{suffix[:20] if stem else ''}"


def below(uri: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """What ``join(folder, ...)`` needs to give ``uri``; ``uri`` itself when it does not lie in there."""
    path, top = _split_options(uri)[0], _split_options(folder)[0].rstrip("/") + "/"
    return path.removeprefix(top) if path.startswith(top) else os.fspath(uri)


def _split_options(uri: str | os.PathLike[str]) -> tuple[str, str, str]:
    text = os.fspath(uri)
    return text.partition("?") if "://" in text else (text, "", "")


def _shown(uri: str | os.PathLike[str]) -> str:
    """The address without keys that somebody may have put into it."""
    return re.sub("://[^/@]*@", "://", _split_options(uri)[0])


# Object stores


class _PatientS3(pafs.S3FileSystem):  # type: ignore[misc]
    """pyarrow's S3 with our patience, which it keeps when it is pickled; pyarrow's own forgets the retry strategy."""

    def __reduce__(self) -> tuple[Callable[..., "_PatientS3"], tuple[dict[str, Any]]]:
        _, (options,) = super().__reduce__()
        return _patient_s3, (options,)


def _patient_s3(options: dict[str, Any]) -> _PatientS3:
    """Made from the constructor's arguments, as pyarrow pickles them; only the constructor takes a retry strategy."""
    options = {**options, "connect_timeout": CONNECT_S, "request_timeout": ANSWER_S}
    # Small files then take one request instead of three, and no request can find its multipart upload gone.
    options["allow_delayed_open"] = True
    # The libraries append a checksum in a form that Amazon and new servers alone take; Ceph 16 answers 411.
    asks_for_none = bool(options["endpoint_override"]) and _CHECKSUMS not in os.environ
    # The pauses of this strategy are 0, 0.05, 0.1, 0.2, ... seconds, so this many take the patience's time.
    attempts = round(math.log2(patience_s() / 0.05 + 1)) + 1
    strategy = pafs.AwsDefaultS3RetryStrategy(max_attempts=attempts)
    if asks_for_none:
        os.environ[_CHECKSUMS] = "when_required"  # read as the client is made; there is no argument for it
    try:
        return _PatientS3(**options, retry_strategy=strategy)
    finally:
        if asks_for_none:
            del os.environ[_CHECKSUMS]


@lru_cache(maxsize=64)
def _object_store(root: str, environment: tuple[str | None, ...]) -> tuple[pafs.FileSystem, str]:
    """File system and bucket of an address without a path, as the environment means it."""
    scheme, options = urlsplit(root).scheme, parse_qs(urlsplit(root).query)
    if scheme != "s3":
        limit = "" if "retry_limit_seconds" in options else f"{'&' if options else '?'}retry_limit_seconds={PATIENCE_S}"
        fs, bucket = pafs.FileSystem.from_uri(root + limit)
        return fs, str(bucket)
    endpoint = options.get("endpoint_override", [next(filter(None, environment[: len(_ENDPOINT)]), "")])[0]
    if endpoint:
        _look_up(endpoint)
    # S3FileSystem() alone would not read AWS_ENDPOINT_URL, and find no region.
    found, bucket = pafs.FileSystem.from_uri(root)
    _, (arguments,) = found.__reduce__()
    return _patient_s3(arguments), str(bucket)


def _look_up(endpoint: str) -> None:
    """A misspelt host is found at once; a name service that does not answer is waited for as the store itself is."""
    host = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").hostname
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME:
            problem, remedy = "no such host", "Correct AWS_ENDPOINT_URL, or endpoint_override in the address"
            raise InputError(f"object store {endpoint}", problem, remedy) from error


def patience_s() -> float:
    """How long a refusing object store is asked again."""
    text = os.environ.get("XRAY_DET_STORAGE_PATIENCE_S", str(PATIENCE_S))
    with suppress(ValueError):
        if (value := float(text)) >= 0:
            return value
    raise InputError("XRAY_DET_STORAGE_PATIENCE_S", f"{text!r} is no time", "Give seconds, 0 or more")


#: What pyarrow's message holds -> what to do. Tried in this order.
_REMEDIES: Final = (
    ("NO_SUCH_BUCKET|Bucket '.*' not found", "Create the bucket, or correct the address"),
    (
        "ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|INVALID_CLIENT_TOKEN|EXPIRED|CREDENTIAL|HTTP status 40[13]",
        "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the machine's role) and what they may do in this bucket",
    ),
    ("HTTP status 4(?!08|29)", "Check the address, AWS_REGION, and what this store and its version can do"),
    ("Could not resolve host", "Correct the bucket, the region or AWS_ENDPOINT_URL"),
    (
        "",
        "Start again when the object store answers: what was written stays. XRAY_DET_STORAGE_PATIENCE_S sets how long "
        "to wait for it",
    ),
)


@contextmanager
def _explained(fs: pafs.FileSystem, uri: str | os.PathLike[str]) -> Iterator[None]:
    """An object store's refusal as an InputError; local errors and missing files pass as they are."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if isinstance(fs, pafs.LocalFileSystem):
            raise
        reason = str(error).rstrip(". ")
        remedy = next(remedy for pattern, remedy in _REMEDIES if re.search(pattern, reason))
        problem = f"the object store refuses ({reason})"
        raise Refused(_shown(uri), problem, remedy) from error


# Reading


def exists(uri: str | os.PathLike[str]) -> bool:
    fs, path = locate(uri)
    with _explained(fs, uri):
        return bool(fs.get_file_info(path).type != pafs.FileType.NotFound)


def read_bytes(uri: str | os.PathLike[str], start: int = 0) -> bytes:
    """A file's bytes from ``start`` on.

    Raises:
        FileNotFoundError: there is none.
        OSError: a local one cannot be read, or is no regular file.
        Refused: the object store refuses.
    """
    fs, path = locate(uri)
    if isinstance(fs, pafs.LocalFileSystem):
        _check_regular(path)
    with _explained(fs, uri), fs.open_input_file(path) as stream:
        stream.seek(start)
        return bytes(stream.read())


def open_file(path: str | os.PathLike[str], most_bytes: int | None = None) -> BufferedReader:
    """Open a user's local file to read. Every such file is opened here: a pipe would wait for ever, a device never end.

    Args:
        most_bytes: what it may hold; None: any number, for what is read a piece at a time.

    Raises:
        InputError: it cannot be read, is no regular file, or holds more; an OSError that said so is its cause.
    """
    try:
        _check_regular(path, most_bytes)
        return open(path, "rb")
    except OSError as error:
        dead = f"is a link to {os.readlink(path)}: " if os.path.islink(path) and not os.path.exists(path) else ""
        raise InputError(path, f"{dead}{_unreadable(error)}", "Give a file that can be read, or remove it") from error


def read_file(uri: str | os.PathLike[str], most_bytes: int | None = TEXT_BYTES) -> bytes:
    """All bytes of a user's file; ``most_bytes`` bounds a local one.

    Raises:
        InputError: as ``open_file``; Refused: the object store refuses.
    """
    if "://" not in os.fspath(uri):
        with open_file(locate(uri)[1], most_bytes) as stream:
            return stream.read()
    try:
        return read_bytes(uri)
    except OSError as error:
        raise InputError(_shown(uri), _unreadable(error), "Check the address") from error


def _unreadable(error: OSError) -> str:
    return "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror or error})"


def _check_regular(path: str | os.PathLike[str], most_bytes: int | None = None) -> None:
    """Raise OSError for what is no regular file, or for one of more bytes; FileNotFoundError where there is none.

    A device is not even opened: that alone may do something.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
        kind = next((name for test, name in kinds if test(found.st_mode)), "a device")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file")
    if most_bytes is not None and found.st_size > most_bytes:
        raise OSError(errno.EFBIG, f"it holds {found.st_size:,} bytes, more than the {most_bytes:,} that are read")


def parse_json(content: bytes) -> Any:
    """What JSON says.

    Raises:
        ValueError: it is none, is nested more deeply than Python reads, or its text holds half a character (a lone
            surrogate), which no file and no screen takes.
    """
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if _SURROGATE.search(content):
        json.dumps(value, ensure_ascii=False).encode()
    return value


_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def file_sizes(folder: str | os.PathLike[str]) -> dict[str, int]:
    """Name -> bytes of the files that lie directly in a folder, by name; of none, when it is not there.

    Raises:
        Refused: the object store refuses.
    """
    fs, path = locate(folder)
    with _explained(fs, folder):
        infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return {info.base_name: info.size for info in sorted(infos, key=lambda i: i.base_name) if info.is_file}


def read_json(uri: str | os.PathLike[str]) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: there is none, it cannot be read (``read_file``), or it is not JSON (``parse_json``).
    """
    content = read_file(uri)
    try:
        return parse_json(content)
    except ValueError as error:
        raise InputError(
            uri, f"not valid JSON ({error})", "Remove the file and run the step that writes it again"
        ) from error


# Writing


@contextmanager
def writing(uri: str | os.PathLike[str]) -> Iterator[BinaryIO | pa.NativeFile]:
    """A stream whose file appears under its name when the block ends without an error, complete.

    A reader sees the file before or the new one: a local file is renamed into place, an object store publishes an
    object when its upload ends.

    Raises:
        Refused: the disk is full, the folder cannot be written, the object store refuses.
    """
    fs, path = locate(uri)
    if not isinstance(fs, pafs.LocalFileSystem):
        with _explained(fs, uri), _publishing(fs, path) as sink:
            yield sink
        return
    begun = Path(f"{path}.{uuid.uuid4().hex[:8]}.partial")
    try:
        begun.parent.mkdir(parents=True, exist_ok=True)
        with begun.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        begun.replace(path)
    except OSError as error:
        raise Refused(
            path, f"cannot be written ({error.strerror or error})", "Free space or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            begun.unlink(missing_ok=True)


@contextmanager
def _publishing(fs: pafs.FileSystem, path: str) -> Iterator[pa.NativeFile]:
    sink = fs.open_output_stream(path)
    try:
        yield sink
    except BaseException:
        # Closing is the only end a pyarrow stream has, and publishes what came so far. After an upload's own error it
        # fails and publishes nothing.
        with suppress(OSError):
            sink.close()
            fs.delete_file(path)
        raise
    sink.close()


def write_bytes(uri: str | os.PathLike[str], payload: bytes) -> None:
    """Write a file so that a reader sees all of it or the one before. Raises Refused as ``writing`` does."""

    def write() -> None:
        with writing(uri) as sink:
            sink.write(payload)

    _repeatable(write)


def write_json(uri: str | os.PathLike[str], value: Any) -> None:
    write_bytes(uri, json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True).encode())


def upload(local: str | os.PathLike[str], uri: str | os.PathLike[str]) -> None:
    """Copy a local folder, or a file, to ``uri``: each file whole or not at all, and all of them when this returns.

    Not by ``pyarrow.fs.copy_files``, as Ray uploads a checkpoint: that ends without an error when the store refuses a
    file. Files there of other names stay. At most 40 MB of a file are in memory. After an error the call can be
    repeated; for a reader that must not see half a folder, write a file that says so afterwards.

    Raises:
        InputError: there is nothing at ``local``; Refused as ``writing``.
    """
    source = Path(local)
    if not source.exists():
        raise InputError(source, "no such file or folder", "Check the path")
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    for file in files:
        target = os.fspath(uri) if file == source else join(uri, *file.relative_to(source).parts)
        _repeatable(partial(_copy, file, target))


def _copy(file: Path, uri: str) -> None:
    with writing(uri) as sink:
        for number, block in enumerate(_blocks(file), 1):
            sink.write(block)
            if number % AHEAD_BLOCKS == 0:
                sink.flush()  # waits for the parts on their way


def _blocks(file: Path) -> Iterator[bytes]:
    try:
        with open_file(file) as source:
            while block := source.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise InputError(
            file, f"cannot be read ({error.strerror})", "Check the disk, or make the file again"
        ) from error


def _repeatable(write: Callable[[], T]) -> T:
    """An answer that was lost makes the request's repeat fail: the multipart upload that it ended is gone."""
    try:
        return write()
    except Refused as error:
        if "NO_SUCH_UPLOAD" not in error.problem:
            raise
    return write()


def delete(uri: str | os.PathLike[str]) -> None:
    """Remove a file, or a folder with all in it; what is not there is fine.

    Raises:
        Refused: it cannot be removed.
    """
    fs, path = locate(uri)
    try:
        with _explained(fs, uri):
            kind = fs.get_file_info(path).type
            if kind == pafs.FileType.Directory:
                fs.delete_dir(path)
            elif kind != pafs.FileType.NotFound:
                fs.delete_file(path)
    except FileNotFoundError:  # somebody else was faster
        pass
    except OSError as error:
        raise Refused(path, f"cannot be removed ({error.strerror or error})", "Remove it by hand") from error

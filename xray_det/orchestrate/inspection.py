"""What one node sees: storage, data, versions, disks, clock. Run on every node by the preflight, and free of torch.

A node only looks and says; the preflight judges.
"""

import hashlib
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

import xray_det
from xray_det import storage
from xray_det.data.assemble import read_image
from xray_det.data.images import BadImage, verify
from xray_det.data.manifest import Manifest
from xray_det.errors import InputError

#: What processes of a training exchange, or must compute alike.
PACKAGES: Final = ("ray", "torch", "pyarrow", "numpy")
#: Annotations are cached here, below the project's home (data/annotations.py).
CACHE: Final = "cache"
#: Where Ray keeps objects, and what uses of a disk are called.
SHARED_MEMORY, SHARED, SESSION = Path("/dev/shm"), "shared memory", "Ray's session"
#: Seconds that a shared folder may take to show a new file.
SHOWN_AFTER_S: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class DataSample:
    """A dataset, and what a node should find of it.

    Attributes:
        folder: of the dataset.
        fingerprint: of its manifest.
        shards: file below the folder -> rows.
        images: (path, offset, length) of some images, as the shards have them.
    """

    folder: str
    fingerprint: str
    shards: tuple[tuple[str, int], ...]
    images: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What a node is to look at.

    Attributes:
        token: a random text; a file of this name lies in the driver's home (CACHE).
        storage: folder of the runs in which the driver put a file ``driver`` with the token; "": leave it out.
        data: datasets.
        files: other files that workers read.
        gpus: count the GPUs.
    """

    token: str
    storage: str
    data: tuple[DataSample, ...] = ()
    files: tuple[str, ...] = ()
    gpus: bool = False


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes of a disk, what it is used for, and the folder of the first use."""

    uses: tuple[str, ...]
    folder: str
    free: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a node found.

    Attributes:
        host: its name.
        storage: "" if the token was read and an answer written; else what went wrong, ``unseen``, ``unreadable: …`` or
            ``unwritable: …``.
        data: problem by dataset folder or file, "" for none.
        home: the project's home there.
        home_problem: why its cache cannot be written, "" if it can.
        home_shared: the driver's token lies in it.
        versions: of Python and PACKAGES.
        source: digest by file of the package.
        disks: that hold the runs, the project's home, temporary files, Ray's session and shared memory.
        gpus: as the driver lists them, None where it was not asked or cannot be.
        clock: seconds since 1970 as the last thing before the answer.
        seconds: that looking took.
    """

    host: str
    storage: str
    data: dict[str, str]
    home: str
    home_problem: str
    home_shared: bool
    versions: dict[str, str]
    source: dict[str, str]
    disks: tuple[Disk, ...]
    gpus: int | None
    clock: float = field(compare=False)
    seconds: float = field(compare=False)


def inspect(node: str, orders: Orders, session: str) -> Seen:
    """Look at everything from this machine.

    Args:
        node: its name in the answer that it writes to the storage.
        orders: what to look at.
        session: folder of Ray's session on this node.
    """
    began = time.monotonic()
    home = storage.home()
    found = {sample.folder: _data_problem(sample) for sample in orders.data}
    found |= {file: _file_problem(file) for file in orders.files}
    home_problem = _write_problem(home / CACHE, f".{orders.token}-{node}")
    return Seen(
        host=socket.gethostname(),
        storage=_storage_problem(node, orders),
        data=found,
        home=str(home),
        home_problem=home_problem,
        home_shared=not home_problem and _appears(str(home / CACHE / orders.token)),
        versions=versions(),
        source=source_files(),
        disks=_disks(orders, home, session),
        gpus=count_gpus() if orders.gpus else None,
        seconds=time.monotonic() - began,
        clock=time.time(),
    )


def sample_dataset(manifest: Manifest) -> DataSample:
    """What every node should find of a dataset: its first and last shard, and three images of them.

    Raises:
        InputError: the driver itself cannot read them.
    """
    if not manifest.shards:
        raise InputError(manifest.folder, "has no images", "Ingest the dataset again")
    first, last = manifest.shards[0], manifest.shards[-1]
    ends = (first,) if first == last else (first, last)
    return DataSample(
        folder=manifest.folder,
        fingerprint=manifest.fingerprint,
        shards=tuple((shard.file, shard.rows) for shard in ends),
        images=(*_places(manifest, first.file, 0, (0.0, 0.5)), *_places(manifest, last.file, -1, (1.0,))),
    )


def _places(manifest: Manifest, file: str, group: int, at: Sequence[float]) -> list[tuple[str, int, int]]:
    """(path, offset, length) of images at these parts of the first (0) or last (-1) row group of a shard."""
    address = storage.join(manifest.folder, file)
    try:
        fs, path = storage.locate(address)
        with fs.open_input_file(path) as stream:
            shard = pq.ParquetFile(stream)
            columns = ["image", "offset", "length"]
            table = shard.read_row_group(range(shard.num_row_groups)[group], columns=columns)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        remedy = "Restore the file, or ingest the dataset again"
        raise InputError(address, f"cannot be read ({first_line(error)})", remedy) from error
    rows = table.take([round(part * (table.num_rows - 1)) for part in at]).to_pylist()
    return [
        (row["image"]["path"], -1 if row["offset"] is None else row["offset"], row["length"] or 0)
        for row in rows
        if row["image"]["path"] is not None
    ]


def versions() -> dict[str, str]:
    """Of Python (major.minor) and PACKAGES, without importing them."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def source_files() -> dict[str, str]:
    """Eight hex digits by Python file of this package, wherever it is installed."""
    root = Path(xray_det.__file__).parent
    files = sorted(root.rglob("*.py"))
    return {str(f.relative_to(root.parent)): hashlib.sha256(f.read_bytes()).hexdigest()[:8] for f in files}


def count_gpus() -> int | None:
    """NVIDIA's GPUs of this machine; None where its tool is missing. torch would take seconds and load CUDA."""
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], check=True, capture_output=True, text=True, timeout=15)
    except (OSError, subprocess.SubprocessError):
        return None
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines())


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _storage_problem(node: str, orders: Orders) -> str:
    if not orders.storage:
        return ""
    address = storage.join(orders.storage, "driver")
    try:
        if not _appears(address) or storage.read_bytes(address).decode() != orders.token:
            return "unseen"
    except (OSError, InputError) as error:
        return f"unreadable: {_problem(error, 'read')}"
    try:
        storage.write_bytes(storage.join(orders.storage, node), orders.token.encode())
    except (OSError, InputError) as error:
        return f"unwritable: {_problem(error, 'written')}"
    return ""


def _problem(error: Exception, done: str) -> str:
    return error.problem if isinstance(error, InputError) else f"cannot be {done} ({first_line(error)})"


def _appears(address: str) -> bool:
    """Whether a file is there, or comes soon: a network file system may show it a little later."""
    until = time.monotonic() + SHOWN_AFTER_S
    while not storage.exists(address):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _data_problem(sample: DataSample) -> str:
    try:
        manifest = Manifest.load(sample.folder)
        if manifest.fingerprint != sample.fingerprint:
            return f"holds another dataset here (fingerprint {manifest.fingerprint}, the driver's {sample.fingerprint})"
        for file, rows in sample.shards:
            fs, path = storage.locate(storage.join(sample.folder, file))
            with fs.open_input_file(path) as stream:
                there = pq.ParquetFile(stream).metadata.num_rows
            if there != rows:
                return f"{file} has {there} images, not {rows}"
        for path, offset, length in sample.images:
            try:
                verify(read_image(path, offset, length))
            except BadImage as error:
                return f"image {path}: {error}"
            except InputError as error:
                return f"image {path}: {error.problem}"
    except InputError as error:
        return error.problem
    except (OSError, ValueError) as error:
        return f"cannot be read ({first_line(error)})"
    return ""


def _file_problem(file: str) -> str:
    try:
        return "" if storage.exists(file) else "is not there"
    except (OSError, InputError) as error:
        return _problem(error, "read")


def _write_problem(folder: Path, name: str) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
        (folder / name).unlink()
    except OSError as error:
        return first_line(error)
    return ""


def _disks(orders: Orders, home: Path, session: str) -> tuple[Disk, ...]:
    folders = {"project's home": str(home), "temporary files": tempfile.gettempdir(), SESSION: session}
    if orders.storage and "://" not in orders.storage:
        folders = {"runs": orders.storage.rsplit("/", 1)[0], **folders}
    if SHARED_MEMORY.is_dir():
        folders[SHARED] = str(SHARED_MEMORY)
    disks: dict[int, Disk] = {}  # one disk is told once, with all its uses
    for use, folder in folders.items():
        there = next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
        device = os.stat(there).st_dev
        if device in disks:
            disks[device] = replace(disks[device], uses=(*disks[device].uses, use))
        else:
            usage = shutil.disk_usage(there)
            disks[device] = Disk(uses=(use,), folder=folder, free=usage.free, total=usage.total)
    return tuple(disks.values())

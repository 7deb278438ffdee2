"""What ``ray job submit --working-dir`` would send of a folder."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ray._private import ray_constants
from ray._private.runtime_env import packaging

#: Ray refuses a package of this size, after zipping it.
LIMIT_BYTES: Final[int] = packaging.GCS_STORAGE_MAX_SIZE


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Files that Ray would zip, of which the largest are named (bytes, path below the folder).

    ``whole`` is False where counting took too long or a file could not be read: then there is more.
    """

    bytes: int
    files: int
    largest: tuple[tuple[int, str], ...]
    whole: bool


class _TooLong(Exception):
    pass


def measure_upload(folder: Path, patience_s: float = 3.0) -> Upload:
    """Walk a folder as Ray does: without .git and virtual environments, and by .gitignore and .rayignore."""
    root, until = folder.absolute(), time.monotonic() + patience_s
    sizes: list[tuple[int, str]] = []

    def note(path: Path) -> None:
        if time.monotonic() > until:
            raise _TooLong
        if path.is_file():
            sizes.append((path.stat().st_size, str(path.relative_to(root))))

    quiet = logging.getLogger(f"{__name__}.ray")
    quiet.disabled = True
    # the walk is Ray's own: which of nested ignore files wins is not to be guessed
    excluded = packaging._get_excludes(root, ray_constants.get_runtime_env_default_excludes())
    whole = True
    try:
        packaging._dir_travel(root, [excluded], note, include_gitignore=True, logger=quiet)
    except (_TooLong, OSError):
        whole = False
    sizes.sort(reverse=True)
    return Upload(bytes=sum(size for size, _ in sizes), files=len(sizes), largest=tuple(sizes[:3]), whole=whole)

"""Headless Chromium from Debian's package: what a person would see of a page, as a picture and as its elements."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from servers.programs import program

#: A page's scripts get so much of their own time before the picture is taken.
PAGE_MILLISECONDS = 20_000
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    f"--virtual-time-budget={PAGE_MILLISECONDS}",
)  # fmt: skip

Browse = Callable[..., str]


def browse(url: str, profile: Path, png: Path | None = None, width: int = 1600, height: int = 1000) -> str:
    """Open a page in a browser of its own, save its picture as ``png``, answer its elements as HTML.

    Args:
        profile: an empty folder for the browser's files.
    """
    command = [program("chromium"), *OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
    if png is not None:
        command.append(f"--screenshot={png}")
    answer = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert png is None or png.is_file(), answer.stderr[-2000:]
    return answer.stdout


@pytest.fixture
def chromium(tmp_path: Path) -> Browse:
    """``chromium(url, png=None, width=..., height=...)``: see ``browse``."""
    program("chromium")  # say now that it is missing
    visits = iter(range(1000))
    return lambda url, png=None, **size: browse(url, tmp_path / f"chromium-{next(visits)}", png, **size)

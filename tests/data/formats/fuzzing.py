"""Feeds a reader with damaged files, and compares it with one that reads them the slow way."""

import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from random import Random
from typing import Any

from tests.data.formats.mutations import Mutation, mutated
from xray_det.errors import InputError

#: Of processor time for one file, which no machine's load changes; and of memory above what was there before.
SECONDS, BYTES = 10, 1 << 30
REFUSED = "refused"


def check(
    kind: str,
    files: Sequence[bytes],
    mutations: Sequence[Mutation],
    number: int,
    fast: Callable[[bytes], Any],
    slow: Callable[[bytes], Any],
) -> None:
    """Give ``number`` damaged copies of the files to two readers of a file's bytes.

    Raises:
        AssertionError: they differ, the fast one ends in another error than InputError, hangs, or takes much memory; or
            nearly all files are refused, or read: then the comparison says little. Each case is named by its number,
            from which alone it is made (``case``).
    """
    wrong, ends = [], Counter[bool]()
    before = _peak_bytes(reset=True)
    for at in range(number):
        data, how = case(kind, at, files, mutations)
        expected, got = slow(data), _outcome(fast, data)
        ends[got == REFUSED] += 1
        if repr(got) != repr(expected):
            wrong.append(f"{kind} {at} ({how}): {_difference(repr(got), repr(expected))}\nfrom {data[:300]!r}")
    shown = "\n\n".join(wrong[:6])
    assert not wrong, f"{len(wrong)} of {number}\n\n{shown}"
    assert min(ends[True], ends[False]) > number // 20, f"refused or not: {ends}"
    assert _peak_bytes() - before < BYTES


def _difference(got: str, expected: str) -> str:
    start = max(sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(got, expected, strict=False))) - 80, 0)
    return f"read as\n  {got[start:][:300]}\ninstead of\n  {expected[start:][:300]}"


def case(kind: str, at: int, files: Sequence[bytes], mutations: Sequence[Mutation]) -> tuple[bytes, str]:
    """The bytes of one damaged file and how it was damaged."""
    rng = Random(f"{kind} {at}")
    return mutated(rng, rng.choice(files), mutations)


def _outcome(fast: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        with _bounded():
            return fast(data)
    except InputError as error:
        said = str(error)
        return REFUSED if said.isprintable() and len(said) < 16_000 else f"{REFUSED} because {said}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@contextmanager
def _bounded() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _peak_bytes(*, reset: bool = False) -> int:
    """The most memory that this process has held at once, since it was last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10

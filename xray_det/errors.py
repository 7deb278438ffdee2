"""The one exception for what a user can mend: input, configuration, storage."""

from collections.abc import Iterator
from contextlib import contextmanager

from xray_det.display import lines, printable

#: Letters of a line: more than a path has.
LONGEST = 5000


class InputError(ValueError):
    """Something outside the program is wrong; the message says where, what, and how to mend it.

    Args:
        where: the file, field or option that is wrong, e.g. ``annotations.json: images[3].width``.
        problem: what is wrong, naming the value found.
        remedy: what the user can do about it, as an instruction.
    """

    def __init__(self, where: object, problem: str, remedy: str) -> None:
        self.where, self.problem, self.remedy = str(where), problem, remedy
        # names and values are anybody's
        super().__init__(f"{printable(where, LONGEST)}: {lines(problem, LONGEST)}. {lines(remedy, LONGEST)}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # Ray pickles exceptions across processes; the default would replay the joined message alone.
        return type(self), (self.where, self.problem, self.remedy)


@contextmanager
def within(where: object) -> Iterator[None]:
    """What is wrong in the block is wrong in this file or field: its errors name that first."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{where}: {error.where}", error.problem, error.remedy) from error

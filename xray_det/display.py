"""How text is shown on terminals and in logs: names of files, classes and runs are anybody's.

``printable`` is the one function that makes such text harmless. What is printed goes through ``terminal()`` (or
``print(printable(...))``), tables are ``Table``, loggers are ``logger(__name__)``, and InputError uses it itself.
"""

import logging
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable
from rich.text import Text

T = TypeVar("T")

#: A text column gets no narrower than this before other columns move to a table below.
_LEAST = 16


def printable(text: object, longest: int | None = None) -> str:
    r"""Text on one line that a terminal shows and does not obey, and any file takes.

    Control characters, line ends, bidirectional marks, what has no width, and halves of characters (lone surrogates)
    are written as Python writes them: ``\x1b``, ``\n``, ``\u202e``, ``\ud800``.

    Args:
        text: anything that has a text.
        longest: of a longer text the beginning and the end are shown, so many characters in all; None: all of it.
    """
    text = str(text)
    if longest is not None and len(text) > longest:
        end = longest // 3
        text = f"{text[: longest - end - 1]}…{text[-end:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else _escaped(c) for c in text)


def lines(text: object, longest: int | None = None) -> str:
    """As ``printable``, line by line: text whose line ends are ours."""
    return "\n".join(printable(line, longest) for line in str(text).split("\n"))


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def logger(name: str) -> logging.Logger:
    """The logger of a module, whose messages are printable."""
    made = logging.getLogger(name)
    made.addFilter(_escape)
    return made


def _escape(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), None
    return True


class _Console(Console):
    """Shows every text as it is written: no markup, no emoji codes, no colours for numbers, nothing obeyed."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's; lines are left to the terminal to break: a path that is broken here cannot be copied."""
        ours = any(isinstance(one, str | Text | RichTable) for one in objects)
        super().print(*objects, **{"soft_wrap": ours, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def terminal(**options: Any) -> Console:
    """What scripts print by. Text with a style or on several lines is a ``rich.text.Text`` of printable parts."""
    return _Console(markup=False, emoji=False, highlight=False, **options)


def bars(**options: Any) -> Progress:
    """Progress bars with counts and times, whose descriptions are shown as they are written."""
    times = TimeElapsedColumn(), TimeRemainingColumn()
    return Progress(_Description(), BarColumn(), MofNCompleteColumn(), *times, **{"console": terminal(), **options})


def counted(parts: Iterable[T], total: int, description: str, *, shown: bool) -> Iterator[T]:
    """What is iterated over, with a bar beside it that counts."""
    with bars(disable=not shown) as progress:
        yield from progress.track(parts, total=total, description=description)


class _Description(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(printable(task.description))


class Table(RichTable):
    """A table that any terminal shows whole, and whose cells are shown as they are written.

    Right-justified columns hold numbers. No number is broken and nothing is cut: other cells go on on further lines.
    Columns that have no room beside the others follow in tables below, each beginning with the first columns again.

    Args:
        headers: of the columns.
        keys: how many columns name a row, and begin every table.
        options: of rich's table.
    """

    def __init__(self, *headers: str, keys: int = 1, **options: Any) -> None:
        super().__init__(*headers, **options)
        self.keys = keys

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells = [[_as_text(cell) for cell in (column.header, *column.cells)] for column in self.columns]
        widest = [max((cell_len(line) for cell in column for line in cell.plain.split("\n")), default=1)
                  for column in cells]  # fmt: skip
        words = [max((cell_len(word) for cell in column for word in cell.plain.split()), default=1) for column in cells]
        least = [
            word if column.justify == "right" else min(word, _LEAST)
            for word, column in zip(words, self.columns, strict=True)
        ]
        for number, chosen in enumerate(self._pieces(least, options.max_width)):
            room = options.max_width - self._around(len(chosen))
            widths = _shared([widest[n] for n in chosen], [least[n] for n in chosen], room)
            yield self._piece(cells, chosen, widths, first=number == 0)

    def _around(self, columns: int) -> int:
        """What borders and padding of so many columns take."""
        _, right, _, left = self.padding
        return columns * (left + right) + ((columns - 1 + 2 * self.show_edge) if self.box else 0)

    def _pieces(self, least: Sequence[int], width: int) -> Iterator[list[int]]:
        """Columns that fit beside one another, the keys first."""
        keys = list(range(min(self.keys, len(least))))
        piece = list(keys)
        for column in range(len(keys), len(least)):
            together = [*piece, column]
            if len(piece) > len(keys) and sum(least[n] for n in together) + self._around(len(together)) > width:
                yield piece
                together = [*keys, column]
            piece = together
        yield piece

    def _piece(
        self, cells: Sequence[Sequence[Text]], chosen: Sequence[int], widths: Sequence[int], *, first: bool
    ) -> RichTable:
        made = RichTable(
            title=_as_text(self.title) if self.title and first else None,
            caption=_as_text(self.caption) if self.caption and first else None,
            box=self.box,
            padding=self.padding,
            show_edge=self.show_edge,
        )
        for number, width in zip(chosen, widths, strict=True):
            made.add_column(cells[number][0], justify=self.columns[number].justify, width=width, overflow="fold")
        for place, row in enumerate(self.rows, 1):
            made.add_row(*(cells[number][place] for number in chosen), end_section=row.end_section)
        return made


def _as_text(value: RenderableType) -> Text:
    """Text of a caller's own, with a style or of several lines, is of printable parts already."""
    return value if isinstance(value, Text) else Text(printable(value), no_wrap=False, overflow="fold")


def _shared(widest: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths of columns: what each wants, the widest made narrower until all have room, none below its least."""
    widths = [max(1, min(wanted, room)) for wanted in widest]
    while sum(widths) > room:
        shrinkable = [n for n, width in enumerate(widths) if width > least[n]] or [
            n for n, width in enumerate(widths) if width > 1
        ]
        if not shrinkable:
            break
        widths[max(shrinkable, key=lambda n: widths[n])] -= 1
    return widths

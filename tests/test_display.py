"""Text on terminals and in logs: shown as it is written, never obeyed, never cut."""

import ast
import io
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from xray_det.display import Table, bars, lines, logger, printable, terminal
from xray_det.errors import InputError

#: Names as hostile datasets have them, and how each is shown.
NAMES = {
    "plain": "plain",
    "Ba$$in": "Ba$$in",
    "cup [/]": "cup [/]",
    "[red]cup[/red]": "[red]cup[/red]",
    ":smiley: cup": ":smiley: cup",
    "\\[bold]": "\\[bold]",
    "猫 ü": "猫 ü",
    "\x1b[31mred": "\\x1b[31mred",
    "\x9b31mred": "\\x9b31mred",
    "a\nb\r\tc": "a\\nb\\r\\tc",
    "\x00\x07\x7f": "\\x00\\x07\\x7f",
    "\u202egnp.exe\u2066": "\\u202egnp.exe\\u2066",
    "\u2028\u200b\ufeff": "\\u2028\\u200b\\ufeff",
    "half \ud800": "half \\ud800",
    "no\u00a0break\u3000wide": "no\u00a0break\u3000wide",
}


def shown(*renderables: object, width: int = 80) -> str:
    sink = io.StringIO()
    terminal(file=sink, width=width).print(*renderables)
    return sink.getvalue()


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_is_shown_as_it_is_written(name: str) -> None:
    assert printable(name) == NAMES[name]
    assert shown(name) == NAMES[name] + "\n"
    table = Table("class", title=name)
    table.add_row(name)
    assert shown(table).count(NAMES[name]) == 2


@given(st.text(st.characters()))
def test_what_is_printable_says_nothing_to_a_terminal_and_is_utf8(text: str) -> None:
    found = printable(text)
    found.encode()
    assert not re.search("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]", found)
    if text.isprintable():
        assert found == text


def test_of_a_long_text_both_ends_are_shown() -> None:
    assert printable("the-name-of-a-trial_00012", 10) == "the-na…012"
    assert len(printable("x" * 1000, 100)) == 100
    assert lines("a\x1b\nb") == "a\\x1b\nb"


def test_an_error_shows_names_and_keeps_lines_of_its_own() -> None:
    error = InputError("a\x1b[2J\nb.json", "differs:\n  lr \u202e 1", "Mend it")
    assert str(error) == "a\\x1b[2J\\nb.json: differs:\n  lr \\u202e 1. Mend it"
    assert error.where == "a\x1b[2J\nb.json"
    assert len(str(InputError("x", "y" * 300_000, "z"))) < 6000


def test_a_log_is_printable(caplog: pytest.LogCaptureFixture) -> None:
    log = logger("xray_det.test_display")
    with caplog.at_level(logging.WARNING):
        log.warning("%s of %d: %s", "cup\x1b[31m", 3, InputError("a\nb", "c", "d"))
    assert [record.getMessage() for record in caplog.records] == ["cup\\x1b[31m of 3: a\\nb: c. d"]


def test_a_bar_shows_its_name_as_it_is_written() -> None:
    sink = io.StringIO()
    with bars(console=terminal(file=sink, width=80, force_terminal=True, color_system=None)) as progress:
        progress.add_task("cup [/]\x1b[31m", total=1)
    assert "cup [/]\\x1b[31m" in sink.getvalue()


def wide(columns: int, *, keys: int = 1, name: str = "n" * 200) -> Table:
    table = Table("class", "dataset", *(f"metric {n}" for n in range(columns)), keys=keys, title="a title " + name)
    for column in table.columns[2:]:
        column.justify = "right"
    for row in range(2):
        table.add_row(f"{name}{row}", "/a/path/" + "p" * 100, *(f"{row}.{n:06}" for n in range(columns)))
    return table


@pytest.mark.parametrize("width", [40, 80, 300])
@pytest.mark.parametrize("columns", [1, 5, 30])
@pytest.mark.parametrize("keys", [1, 2])
def test_a_table_is_whole_at_any_width(width: int, columns: int, keys: int) -> None:
    text = shown(wide(columns, keys=keys), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for row in range(2):
        for n in range(columns):
            assert f"{row}.{n:06}" in text, "a number is never broken"
    for letter, count in (("n", 400), ("p", 200)):
        assert text.count(letter) >= count, "broken over lines, but all of it"


def test_a_table_that_fits_is_one_and_repeats_nothing() -> None:
    text = shown(wide(3, name="cup"), width=200)
    assert text.count("cup0") == 1
    assert "metric 0" in text
    pieces = shown(wide(12, name="cup"), width=80)
    assert pieces.count("cup0") > 1, "every piece says whose numbers these are"
    assert pieces.count("a title") == 1


def test_cells_of_several_lines_are_the_callers_own() -> None:
    table = Table("run", "AP")
    table.add_row(Text("a\nb"), "c\nd")
    text = shown(table)
    assert "c\\nd" in text
    assert "a\\nb" not in text


def _plain_prints(tree: ast.AST) -> list[ast.expr]:
    """What is given to Python's own print."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [word for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print" for word in call.args]


def test_nothing_is_printed_that_a_terminal_could_obey() -> None:
    """Python's own print gets words of ours, JSON, an error that was caught, or what ``printable`` returns."""
    root = Path(__file__).parents[1]
    for file in (*root.glob("xray_det/**/*.py"), *root.glob("experiments/*.py")):
        tree = ast.parse(file.read_text())
        errors = {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)}
        for word in _plain_prints(tree):
            ours = isinstance(word, ast.Constant) or (isinstance(word, ast.Name) and word.id in errors)
            made = isinstance(word, ast.Call) and ast.unparse(word.func) in ("printable", "json.dumps")
            assert ours or made, f"{file.relative_to(root)}:{word.lineno}: print of {ast.unparse(word)}"

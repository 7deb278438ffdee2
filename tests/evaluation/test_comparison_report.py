"""The sheet and the page of a comparison: everything is on them, and names stay names."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from xray_det.display import printable
from xray_det.evaluation import comparison_figure
from xray_det.evaluation.comparison import Comparison, compare
from xray_det.evaluation.comparison_figure import captions, sheet
from xray_det.evaluation.comparison_html import page
from xray_det.evaluation.figures import classes_by_frequency
from xray_det.evaluation.measured import ClassRow, Measured
from xray_det.evaluation.variants import Cost, Run
from xray_det.lettering import plain

EVIL = "<script>alert('x')</script>"


def compared(
    runs: int, classes: int, *, sets: tuple[str, ...] = ("fod/voc",), gpu: float = 0.0, costs: bool = True
) -> Comparison:
    """Class k of run r has AP (k + r) / 1000; the first class is evil, the second has no truth."""

    def rows(r: int) -> tuple[ClassRow, ...]:
        names = [EVIL, "$x^2", *(f"class {k}" for k in range(2, classes))]
        return tuple(
            ClassRow(name=name, count=classes - k, ap=None if k == 1 else (k + 2 * r) / 1000)
            for k, name in enumerate(names)
        )

    return compare(
        [
            Run(
                name=f"{EVIL} {r}",
                measured=Measured(metrics={}, classes={key: rows(r) for key in sets}),
                step=7,
                parameters={"seed": 0, "sampling.lam": r / 10, "note": f"{EVIL}" if r else "$"},
                cost=Cost(cpu_hours=r + 1, gpu_hours=gpu) if costs else None,
            )
            for r in range(runs)
        ]
    )


class Page(HTMLParser):
    """Tags, and the cells of every table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tables: list[list[list[str]]] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.tables[-1][-1][-1] += data


def test_names_are_text_on_the_page_whatever_they_hold() -> None:
    text = page(compared(3, 6), b"png")
    assert text.count("<script>") == 1
    assert "alert" in text
    parsed = Page(text)
    assert parsed.tags.count("script") == 1
    assert parsed.tables[0][1][1].startswith(f"{EVIL} 0")
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert not [value for name, value in parsed.attributes if name == "src" and not str(value).startswith("data:")]
    assert "default-src 'none'" in dict(parsed.attributes)["content"]  # type: ignore[operator]


def test_the_page_holds_every_number() -> None:
    overall, moved, classes, runs = Page(page(compared(3, 6), b"png")).tables
    assert [row[0] for row in overall[1:]] == ["1", "2", "3"]
    # AP of run 0: (0 + 2 + 3 + 4 + 5) / 5 thousandths; each further run has 2 more
    assert [row[2] for row in overall[1:]] == ["0.3", "0.5 +0.2", "0.7 +0.4"]
    assert [row[6:8] for row in overall[1:]] == [["1 CPU-h", "7"], ["2 CPU-h", "7"], ["3 CPU-h", "7"]]
    assert overall[2][1] == f"{EVIL} 1sampling.lam=0.1note={EVIL}"
    assert [row[6:9] for row in moved[1:]] == [["", "", ""], ["5", "0", "-"], ["5", "0", "-"]]
    assert classes[1:3] == [[EVIL, "head", "6", "0.0", "+0.2", "+0.4"], ["$x^2", "head", "5", "-", "-", "-"]]
    assert len(classes) == 7
    assert runs[3][-2:] == ["7", "finished"]


def test_the_page_forbids_itself_every_script_but_its_own() -> None:
    import base64
    import hashlib

    text = page(compared(2, 4), b"png")
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text


@pytest.mark.parametrize(
    ("runs", "classes", "sets"), [(2, 6, ("fod/voc",)), (4, 90, ("a/coco", "b/voc")), (20, 520, ("lvis/coco",))]
)
def test_the_sheet_grows_with_what_it_holds(runs: int, classes: int, sets: tuple[str, ...]) -> None:
    figure = sheet(compared(runs, classes, sets=sets))
    figure.canvas.draw()
    width, height = figure.get_size_inches()
    assert width == comparison_figure.WIDTH
    assert height < 20
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert len(panels) == 5 + len(sets) * (runs if runs <= comparison_figure.BARS else 2)


def test_bars_are_the_differences_in_order_of_frequency() -> None:
    figure = sheet(compared(3, 6))
    second = figure.axes[7]
    assert [round(bar.get_height(), 6) for bar in second.patches if bar.get_width() < 1] == [0.4, 0, 0.4, 0.4, 0.4, 0.4]
    assert [text.get_text() for text in second.get_xticklabels()][2] == "class 2"


def test_cost_is_drawn_where_all_used_one_kind_of_processor() -> None:
    def titles(found: Comparison) -> str:
        axes = sheet(found).axes[4]
        return axes.get_title() + " ".join(text.get_text() for text in axes.texts)

    assert "CPU hours" in titles(compared(2, 6))
    assert "GPU hours" in titles(compared(2, 6, gpu=1.0))
    assert "not kept" in titles(compared(2, 6, costs=False))


def test_a_comparison_without_any_truth_is_drawn_too() -> None:
    rows = (ClassRow(name="a", count=0, ap=None), ClassRow(name="b", count=0, ap=None))
    runs = [
        Run(name=f"r{n}", measured=Measured(metrics={}, classes={"d/voc": rows}), step=1, parameters={"lam": n})
        for n in range(6)
    ]
    for count in (2, 6):
        found = compare(runs[:count])
        sheet(found).canvas.draw()
        assert "nan" not in page(found, b"").replace("isNaN", "")


def test_captions_tell_variants_apart() -> None:
    found = compared(2, 6)
    assert captions(found)[1] == "<script>alert('x')…script> 1 (lam=0.1, note=<sc…/script>)  2"
    assert plain("$\\alpha$\n\u202e") == r"\$\alpha\$\n\u202e"
    assert printable("the-name-of-a-trial_00012", 10) == "the-na…012"


def test_classes_are_drawn_by_frequency_in_the_order_of_the_first_runs_counts() -> None:
    first = (
        ClassRow(name="a", count=1, ap=0.1),
        ClassRow(name="b", count=3, ap=None),
        ClassRow(name="c", count=2, ap=0.3),
    )
    second = (
        ClassRow(name="a", count=9, ap=0.4),
        ClassRow(name="b", count=9, ap=0.5),
        ClassRow(name="c", count=9, ap=0.6),
    )
    figure = classes_by_frequency({"first": first, "_second": second})
    below = figure.axes[1]
    np.testing.assert_array_equal(below.lines[0].get_ydata(), [np.nan, 0.3, 0.1])
    np.testing.assert_array_equal(below.lines[2].get_ydata(), [0.5, 0.6, 0.4])
    assert [text.get_text() for text in below.get_xticklabels()] == ["b", "c", "a"]
    assert [text.get_text() for text in below.get_legend().get_texts()] == ["first, mean 0.200", "_second, mean 0.500"]
    figure.canvas.draw()
    classes_by_frequency({}).canvas.draw()

"""Names in figures and pictures: drawn as they are written, whatever letters they have."""

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.text import Text

from xray_det import lettering
from xray_det.lettering import figure_bytes, font_path, font_paths, plain

DOLLARS = "Ba$$in $x^2$ \\frac{1}{2}"
LONG = "n" * 200


def drawn_texts(figure: Figure) -> str:
    """All text of a figure, as matplotlib draws it; no name may have become a formula."""
    figure.canvas.draw()
    texts = []
    for text in figure.findobj(Text):
        literal, math = text._preprocess_math(text.get_text())  # type: ignore[attr-defined]
        if "Ba" in text.get_text():
            assert not math, text.get_text()
        texts.append(literal)
    return "\n".join(texts)


@pytest.mark.parametrize("name", ["Ba$$in", "$x^2$", r"a\$b", "$", "a$b$c$d", r"\frac{$}{$}"])
def test_a_name_is_no_formula(name: str) -> None:
    figure = Figure()
    text = figure.text(0.5, 0.5, plain(name))
    literal, math = text._preprocess_math(text.get_text())  # type: ignore[attr-defined]
    assert (literal, math) == (name, False)
    assert figure_bytes(figure).startswith(b"\x89PNG")


def test_a_long_name_is_shortened_in_the_middle() -> None:
    assert plain("a" * 100 + "z" * 100) == "a" * 26 + "…" + "z" * 13


@pytest.fixture
def fresh() -> Iterator[None]:
    for function in (lettering._hint, lettering._names, lettering._letters):
        function.cache_clear()
    yield
    for function in (lettering._hint, lettering._names, lettering._letters):
        function.cache_clear()


def test_letters_without_a_font_are_one_hint(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lettering, "_names", lambda: {lettering._own(): "DejaVu Sans"})
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        for name in ("猫犬", "马克杯"):
            figure = Figure()
            figure.text(0.1, 0.1, plain(name))
            assert figure_bytes(figure).startswith(b"\x89PNG")
    assert [record.message for record in caplog.records if "install" in record.message] == [
        "names hold letters that no installed font has and are drawn as boxes; install one (fonts-noto-cjk)"
    ]


def test_boxes_count_as_no_letters(fresh: None) -> None:
    """matplotlib ships a font with a box for any letter; no font has one for a noncharacter."""
    assert font_paths("\U0001fffe") == [lettering._own()]
    assert lettering._hint.cache_info().currsize == 1


def test_letters_come_from_the_font_that_has_them(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib ships fonts with letters that its first one lacks; they stand for a Chinese font here."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    other = str(folder / "STIXGeneral.ttf")
    monkeypatch.setattr(lettering, "_names", lambda: {lettering._own(): "DejaVu Sans", other: "STIXGeneral"})
    letter = chr(min(lettering._letters(other) - lettering._letters(lettering._own()) - {0}))
    assert font_paths("cup") == [lettering._own()]
    assert font_paths(letter + "cup") == [lettering._own(), other]
    assert font_path("cup") == lettering._own()
    assert font_path(letter) == other
    figure = Figure()
    text = figure.text(0.1, 0.1, plain(letter + "é"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure_bytes(figure)
    assert text.get_fontfamily() == ["DejaVu Sans", "STIXGeneral"]


def result() -> Any:
    from xray_det.evaluation.curves import Curve
    from xray_det.evaluation.result import Result
    from xray_det.labels.space import Class, LabelSpace

    names = (DOLLARS, LONG)
    curve = Curve(recall=np.array([0.5, 1.0]), precision=np.array([1.0, 0.5]), scores=np.array([0.9, 0.1]))
    return Result(
        protocol="coco",
        space=LabelSpace(name="d", classes=tuple(Class(name=n, source_id=n) for n in names)),
        ap=np.array([0.5, 0.25]),
        boxes=np.array([3, 2]),
        curves={0: curve, 1: curve},
        metrics={"AP": 0.4},
    )


def test_every_figure_of_a_result_draws_names_as_written() -> None:
    from xray_det.evaluation.figures import by_frequency, precision_recall

    for figure in (precision_recall(result()), by_frequency({DOLLARS: result()}, np.array([9, 2]))):
        text = drawn_texts(figure)
        assert DOLLARS[:20] in text
        assert LONG not in text
        assert "nnn…nnn" in text


def test_every_figure_of_a_dataset_draws_names_as_written() -> None:
    from xray_det.data.counting import Statistics
    from xray_det.data.figures import histograms, long_tail, sampling_views
    from xray_det.data.sampling import ImageClasses
    from xray_det.data.views import Views

    images = ImageClasses.of(np.array([0, 1, 2]), np.array([0, 0, 1]), 3)
    figures = [
        long_tail({DOLLARS: np.array([2, 1])}, {DOLLARS: [DOLLARS, LONG]}),
        histograms(DOLLARS, Statistics.zero(2)),
        sampling_views(DOLLARS, Views.of(images, 2)),
    ]
    for figure in figures:
        assert DOLLARS[:20] in drawn_texts(figure)
    assert "nnn…nnn" in drawn_texts(figures[0])


def test_the_real_dollar_names_draw(shared_data: Path) -> None:
    import json

    from xray_det.data.figures import long_tail

    file = shared_data / "field_cases" / "dollar_names" / "money" / "annotations" / "instances_train.json"
    names = [category["name"] for category in json.loads(file.read_text())["categories"]]
    assert any("$$" in name for name in names)
    text = drawn_texts(long_tail({"money": np.arange(len(names)) + 1}, {"money": names}))
    for name in names:
        assert name in text
    assert not is_math_text(plain(" ".join(names)))


def test_pictures_are_labelled_in_a_font_that_has_the_letters() -> None:
    from xray_det.inference.drawing import Boxes, beside

    image = np.zeros((50, 60, 3), np.uint8)
    truth = Boxes(boxes=np.array([[1.0, 2, 30, 40]]), labels=[("cup\x1b[31m" + LONG,)], judged=np.ones(1, bool))
    none = Boxes(boxes=np.empty((0, 4)), labels=[], judged=np.empty(0, bool), scores=np.empty(0))
    assert beside(image, truth, none, title="a\nb $x$" + LONG).dtype == np.uint8

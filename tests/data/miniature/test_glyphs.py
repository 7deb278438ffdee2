"""The classes: distinct where they should be, spread over bands, owners and parents as asked for."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from xray_det.data.miniature.glyphs import _DISTINCT, _LOOK_ALIKE, RELEASES, hierarchy, line_up, published_id
from xray_det.data.miniature.parameters import Miniature
from xray_det.data.miniature.render import _FONTS, _mask
from xray_det.errors import InputError
from xray_det.labels.frequency import bands


@pytest.mark.medium
def test_every_character_is_in_every_font_and_no_two_are_the_same() -> None:
    chars = _DISTINCT + "".join(_LOOK_ALIKE)
    assert len(set(chars)) == len(chars)
    for font in _FONTS:
        missing = _mask(font, "\uffff")
        drawn = {char: _mask(font, char) for char in chars}
        boxes = [c for c, mask in drawn.items() if mask.shape == missing.shape and np.array_equal(mask, missing)]
        assert not boxes, f"{font} lacks {boxes}"
        distinct = {drawn[char].tobytes() for char in _DISTINCT}
        assert len(distinct) == len(_DISTINCT)


@pytest.mark.parametrize("classes", [2, 12, 40, 120, 365])
def test_a_line_up_has_distinct_names_twins_and_owners_in_every_band(classes: int) -> None:
    pairs = min(2, classes // 4)
    glyphs = line_up(Miniature(classes=classes, look_alikes=pairs))
    assert len({glyph.name.casefold() for glyph in glyphs}) == len(glyphs) == classes
    assert len({published_id(glyph.name) for glyph in glyphs}) == classes
    twins = [(row, glyph.twin) for row, glyph in enumerate(glyphs) if glyph.twin is not None]
    assert len(twins) == 2 * pairs
    for row, twin in twins:
        assert glyphs[twin].twin == row
        assert abs(row - twin) == 1, "of the same frequency"
        assert glyphs[row].labelled_by == RELEASES
    if classes >= 40:
        rows = bands(np.arange(classes, 0, -1))
        for band in rows.values():
            owners = {glyphs[row].labelled_by for row in band}
            assert owners == {RELEASES, RELEASES[:1], RELEASES[1:]}
        alone = sum(len(glyph.labelled_by) == 1 for glyph in glyphs)
        assert alone == int(0.4 * (classes - 2 * pairs) + 1e-9)


def test_vowels_lie_below_letters_and_digits_below_nothing() -> None:
    glyphs = {glyph.char: glyph for glyph in line_up(Miniature(classes=200))}
    assert glyphs["U"].ancestors == ("Vowel", "Letter")
    assert glyphs["Ü"].parent == glyphs["Ω"].parent == "Vowel"
    assert glyphs["Ж"].ancestors == ("Letter",)
    assert glyphs["7"].ancestors == glyphs["♥"].ancestors == ()
    tree = hierarchy(tuple(glyphs.values()))
    assert (published_id("Vowel"), published_id("Letter")) in tree.parents
    for child, parent in tree.parents:
        assert parent in (published_id("Vowel"), published_id("Letter"))
        assert child != parent


def test_the_seed_orders_the_classes_and_nothing_else() -> None:
    one, other = line_up(Miniature(seed=0)), line_up(Miniature(seed=1))
    assert [glyph.char for glyph in one] != [glyph.char for glyph in other]
    assert sorted(glyph.char for glyph in one) == sorted(glyph.char for glyph in other)
    assert not any(len(glyph.labelled_by) == 1 for glyph in line_up(Miniature(exclusive=0.0)))
    assert [unicodedata.name(glyph.char) for glyph in line_up(Miniature(classes=2, look_alikes=1))] == [
        "LATIN CAPITAL LETTER O",
        "DIGIT ZERO",
    ]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"classes": 1}, ["classes", "1"]),
        ({"classes": 5000}, ["5000", str(len(_DISTINCT))]),
        ({"look_alikes": 30, "classes": 100}, ["30", str(len(_LOOK_ALIKE))]),
        ({"look_alikes": 3, "classes": 5}, ["3 pairs", "5 classes"]),
        ({"exclusive": 1.5}, ["exclusive", "1.5"]),
        ({"objects": (3, 1)}, ["objects", "3 to 1"]),
        ({"object_size": (0.0, 0.5)}, ["object_size", "0.0"]),
        ({"seed": -1}, ["seed", "-1"]),
    ],
)
def test_impossible_parameters_are_refused(changes: dict[str, object], names: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        line_up(Miniature(**changes))  # type: ignore[arg-type]
    for name in names:
        assert name in str(caught.value)


def test_ids_are_shaped_like_the_published_ones(shared_data: Path) -> None:
    tree = json.loads((shared_data / "open_images/challenge-2019-label500-hierarchy.json").read_text())
    prefix = tree["LabelName"][:4]
    assert all(published_id(glyph.name).startswith(prefix) for glyph in line_up(Miniature()))

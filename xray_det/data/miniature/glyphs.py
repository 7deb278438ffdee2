"""The classes of a miniature: characters of several scripts, how often each occurs, and who labels it."""

# ruff: noqa: RUF001 (characters that look like others are the point)

import unicodedata
from dataclasses import dataclass

import numpy as np

from xray_det.data.miniature.parameters import Miniature
from xray_det.errors import InputError
from xray_det.labels.hierarchy import Hierarchy

#: The releases, in this order everywhere.
RELEASES = ("objects365", "open_images")

#: Characters that look different in every font of the renderer, also as blurred 24 x 24 pixels (correlation below
#: 0.955), the most familiar ones first.
_DISTINCT = (
    "2CΔFG3ΣJ4ΩLN5ΦQRU7SΨVWЖY8ZΛaΠ9dΘeЯghi&nΞqrtfЮk@Дbjm%Γ?ШЭ#ЙЦБ♥♣♠♦♪☀☺αβγ"
    "δεζηθλμξπφχωбйлфчщыэю←↑→↓↔∞∫√∂∇∈∩⊂≈≠≤≥±÷×$€£¥§¶©®½¼¾†‡•◊○□△▲▽▼◁▷⊕⊗⊥∠∀∃"
    "≡∝⇒⇔ÆØÞßæðøþŒœĦħŊŋŁłĐđÇçÑñÅåÄäÖöÜüÉéèâŠšŽžČčĞğĄąĘęćŃńżЂЄЉЊЋЏђєћѢѣÌÎÝċĎ"
    "ēĢĤĳĴĶĻŀŅŔŖŢůųŴƁƄƇƊƑƔƕƖƝơƢƣƤƦƧƪƯƲƷƸƺƾƿǠǢǣǨǪǯǻǾȑȜȤȥȴȵȶȸȻȾȿɀɃɄɌΰύϒϓϞϟϠϡϰ"
    "ϱϺЃЌќҐҔҖҚҢҤҬҺӁӂӃӇӋӞӭӴӸḂḆḉḌḔḜḬḱḴḶḼḾṌṔṜṫṲṵṼẊẔẘẬẾỔỚ№↖↘↙↟↢↣↩↪↯↰↱↲↶↷↺↻⇄⇅⇆⇊⇋"
    "⇑⇖⇘⇚⇛⇞⇟⇤⇥⇪⇮⇱⇳∄∉∌∗∛∜∬∭∹∺≁≉≐≓≢≮≯⊃⊇⊈⊏⊐⊚⊞⊠⊢⊣⊤⋄⌂⌘⌥◐◑◒◓◔◢◣◤◥◧◨◭◮◸◹◺◿▣▤▥▧▨▶◀"
)
#: Pairs that no detector can tell apart by their looks.
_LOOK_ALIKE = ("O0", "lI", "ΑА", "ΒВ", "ΗН", "ΡР", "ΤТ", "ΧХ", "ΕЕ", "ΜМ", "ΚК", "сc", "оo", "рp", "хx", "уu")
#: Letters that are vowels without their accents.
_VOWELS = frozenset("AEIOUYaeiouyÆØæøŒœЄєѢѣАЕОЮЯЭИУЫаеоюяэиуыΑΕΗΙΟΥΩαεηιουω")
LETTER, VOWEL = "Letter", "Vowel"
PARENTS = (LETTER, VOWEL)


@dataclass(frozen=True, kw_only=True)
class Glyph:
    """One class.

    Args:
        parent: Vowel, Letter (of a consonant), or None.
        twin: the row of the class that looks the same.
        labelled_by: the releases that label it.
    """

    char: str
    name: str
    parent: str | None
    twin: int | None
    labelled_by: tuple[str, ...]

    @property
    def ancestors(self) -> tuple[str, ...]:
        return () if self.parent is None else (VOWEL, LETTER) if self.parent == VOWEL else (LETTER,)


def line_up(parameters: Miniature) -> tuple[Glyph, ...]:
    """The classes by falling frequency.

    Look-alikes are neighbours in this order and labelled by both releases. Classes that only one release labels are
    spread evenly over it, so each band of frequencies has some of both.

    Raises:
        InputError: there are not so many characters, or look-alike pairs.
    """
    pairs, single = _LOOK_ALIKE[: parameters.look_alikes], parameters.classes - 2 * parameters.look_alikes
    if len(pairs) < parameters.look_alikes or single > len(_DISTINCT):
        problem = f"{parameters.classes} classes with {parameters.look_alikes} look-alike pairs were asked for"
        remedy = f"Up to {len(_DISTINCT)} distinct classes and {len(_LOOK_ALIKE)} pairs can be rendered"
        raise InputError("Miniature.classes", problem, remedy)
    rng = np.random.default_rng((parameters.seed, 0))
    units = [_DISTINCT[i] for i in rng.permutation(single)]
    for number, pair in enumerate(pairs):  # spread over the bands
        units.insert(round((number + 0.5) / len(pairs) * len(units)), pair)
    chars = "".join(units)
    twins: dict[int, int] = {}
    for pair in pairs:
        row = chars.index(pair)
        twins |= {row: row + 1, row + 1: row}
    owners = _owners([row for row in range(len(chars)) if row not in twins], parameters.exclusive)
    return tuple(
        Glyph(
            char=char,
            name=_name(char),
            parent=VOWEL if unicodedata.normalize("NFD", char)[0] in _VOWELS else LETTER if char.isalpha() else None,
            twin=twins.get(row),
            labelled_by=owners.get(row, RELEASES),
        )
        for row, char in enumerate(chars)
    )


def published_id(name: str) -> str:
    """The Open Images id of a class or parent: ``/m/`` and a text without blanks."""
    return "/m/0" + name.lower().replace(" ", "_").replace("-", "_")


def hierarchy(glyphs: tuple[Glyph, ...]) -> Hierarchy:
    """Every class below its parent and Vowel below Letter, by Open Images id."""
    edges = [(glyph.name, glyph.parent) for glyph in glyphs if glyph.parent] + [(VOWEL, LETTER)]
    return Hierarchy(parents=tuple((published_id(child), published_id(parent)) for child, parent in edges))


def _owners(rows: list[int], exclusive: float) -> dict[int, tuple[str, ...]]:
    """Every row whose running total of ``exclusive`` passes a whole number is labelled by one release, in turn."""
    passed = np.floor(np.cumsum(np.full(len(rows), exclusive)) + 1e-9).astype(int)
    turns = np.diff(passed, prepend=0)
    return {row: (RELEASES[passed[at] % 2],) for at, row in enumerate(rows) if turns[at]}


def _name(char: str) -> str:
    """A unique display name: ``Latin capital a``, ``Digit seven``, ``Black star``."""
    return unicodedata.name(char).replace(" LETTER", "").capitalize()

"""Text in figures and pictures: drawn as it is written, in letters that an installed font has.

matplotlib is imported when something is drawn.
"""

import io
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xray_det.display import logger, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logger(__name__)


def plain(text: str, longest: int = 40) -> str:
    """Anybody's text as matplotlib's: printable, of a longer one the beginning and the end, never a formula."""
    return printable(text, longest).replace("$", r"\$")


def figure_bytes(figure: "Figure", *, dpi: int = 120, format: str = "png", **options: Any) -> bytes:
    """The figure as a file (``options`` are savefig's). Letters that matplotlib's own font lacks are taken from other
    installed fonts; where none has them, one line of the log says what to install."""
    import warnings

    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if not text.get_text().isascii()]
    if texts:
        paths = font_paths("".join(text.get_text() for text in texts))
        families = [_names()[path] for path in paths]
        for text in texts:
            text.set_fontfamily(families)
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a line a letter; font_paths has said it once
        figure.savefig(image, format=format, dpi=dpi, **options)
    return image.getvalue()


def font_paths(text: str) -> list[str]:
    """Fonts that together have the letters of a text, matplotlib's own (Greek and Cyrillic too) before others.

    Says once, in the log, that letters are in no installed font.
    """
    own = _own()
    missing = frozenset(map(ord, text)) - _letters(own) - {ord("\n")}
    paths = [own]
    while missing:
        best = max(_names(), key=lambda path: len(missing & _letters(path)))
        if not missing & _letters(best):
            _hint()
            break
        paths.append(best)
        missing -= _letters(best)
    return paths


def font_path(text: str) -> str:
    """The one font that has most letters of a text, for who draws in one."""
    return max(font_paths(text), key=lambda path: len(_letters(path).intersection(map(ord, text))))


@lru_cache(maxsize=1)
def _hint() -> None:
    log.warning("names hold letters that no installed font has and are drawn as boxes; install one (fonts-noto-cjk)")


@lru_cache(maxsize=1)
def _own() -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    """Path -> family of the installed upright fonts of ordinary weight, without Last Resort, which has a box for each
    letter that there is."""
    from matplotlib.font_manager import fontManager

    upright = (font for font in fontManager.ttflist if font.style == "normal" and font.weight == 400)
    return {_own(): "DejaVu Sans"} | {font.fname: font.name for font in upright if "Last Resort" not in font.name}


@lru_cache(maxsize=1024)
def _letters(path: str) -> frozenset[int]:
    """The letters (code points) that a font has."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # a font that has gone, or is damaged
        return frozenset()

"""Text in figures: fonts for every script, text properties, and names cut to fit.

Widths are in ems, the font size as a unit of length: ten letters take about six.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

INK, MUTED = "#24292f", "#6e7781"
# matplotlib includes the first; the others, if installed, draw the scripts that it lacks.
FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei"]
FONTS += [
    "Microsoft YaHei",
    "Malgun Gothic",
    "PingFang SC",
    "Hiragino Sans",
    "Arial Unicode MS",
    "IPAexGothic",
]


def text(size: float, color: str = INK, **more: Any) -> dict[str, Any]:
    """Return text properties with which a `$` is a dollar sign, not math."""
    families = FONTS[:1] if "weight" in more else _fonts()[0]  # bold texts are our own titles, in Latin letters
    return {"fontsize": size, "color": color, "fontfamily": families, "parse_math": False, **more}


def label(name: str, width: float) -> str:
    """Return the start of the name that fits into `width` ems, with □ for letters that no font has."""
    letters = _drawable(name)
    return letters if measure(letters) <= width else _fitting(letters, width - _advance("…")).rstrip() + "…"


def shorten(name: str, width: float) -> str:
    """Return the name cut in the middle to fit into `width` ems: names of runs and jobs differ at their ends."""
    letters = _drawable(name)
    if measure(letters) <= width:
        return letters
    if (words := letters.split()) and len(words) > 2 and (kept := _drop_words(words, width)):
        return kept
    half = (width - _advance("…")) / 2
    return _fitting(letters, half).rstrip() + "…" + _fitting(letters[::-1], half)[::-1].lstrip()


def _drop_words(words: list[str], width: float) -> str:
    """Return the words without some in the middle, so that no number is cut; "" if the ends alone do not fit."""
    for count in range(len(words) - 1, 1, -1):
        kept = " ".join([*words[: count // 2], "…", *words[len(words) - (count - count // 2) :]])
        if measure(kept) <= width:
            return kept
    return ""


def tell_apart(names: list[str], width: float, cut: Callable[[str, float], str] = label) -> list[str]:
    """Return the names cut to a width, with their index in front if that leaves identical ones."""
    short = [cut(name, width) for name in names]
    return short if len(set(short)) == len(names) else [f"{i} {cut(name, width - 2)}" for i, name in enumerate(names)]


def wrap(key: str, width: float) -> str:
    """Return a configuration key in lines of at most that width, broken after dots or, if needed, underscores."""
    lines = [""]
    for part in re.findall(r"[^.]*\.|[^.]+", _drawable(key)):
        for piece in [part] if measure(part) <= width else re.findall(r"[^_]*_|[^_]+", part):
            if lines[-1] and measure(lines[-1] + piece) > width:
                lines.append("")
            lines[-1] += piece
    return "\n".join(label(line, width) for line in lines)


def _drawable(name: str) -> str:
    """Return the name on one line, with composed accents and □ for letters that no font has."""
    letters = unicodedata.normalize("NFC", " ".join(name.split()))
    return "".join(letter if ord(letter) in _fonts()[1] else "□" for letter in letters)


def _fitting(letters: str, width: float) -> str:
    ends = np.cumsum([_advance(letter) for letter in letters])
    return letters[: int(np.searchsorted(ends, width, side="right"))]


def measure(letters: str) -> float:
    return sum(map(_advance, letters))


@lru_cache(maxsize=4096)
def _advance(letter: str) -> float:
    """Return the width of a letter in ems; 1 if another font has to draw it."""
    font = get_font(findfont(FONTS[0]))
    font.set_size(100, 72)
    return font.load_char(ord(letter)).linearHoriAdvance / 65536 / 100 if font.get_char_index(ord(letter)) else 1.0


@lru_cache(maxsize=1)
def _fonts() -> tuple[list[str], frozenset[int]]:
    """Return the installed families of FONTS and all code points that they can draw."""
    installed = set(fontManager.get_font_names())
    families = [name for name in FONTS if name in installed]
    maps = [get_font(findfont(FontProperties(family=[name]))).get_charmap() for name in families]
    return families, frozenset().union(*maps)

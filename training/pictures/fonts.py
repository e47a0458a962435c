"""Chooses fonts for the texts of a picture: Matplotlib's own, and others for missing letters.

Matplotlib's own font has Latin, Greek, Cyrillic and some other letters. Since version 3.11
Matplotlib also joins Arabic letters and puts the letters of Hebrew and Indic scripts in order;
earlier versions draw letters one by one from left to right.
"""

import contextlib
import logging
import unicodedata
from pathlib import Path

from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontProperties
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

LOGGER = logging.getLogger("keras_transformer")

PLACEHOLDERS = "Last Resort"  # fonts that draw every character as a box
NORMAL_WEIGHT = 400
PLAIN_NAMES = ("sans", "gothic")  # like Matplotlib's own font
CJK_NAMES = (
    "BOPOMOFO",
    "CJK",
    "FULLWIDTH",
    "HALFWIDTH",
    "HANGUL",
    "HIRAGANA",
    "IDEOGRAPHIC",
    "KATAKANA",
)

_family_of = {}  # character -> its font family; "" for the picture's own, None if no font has it
_named_packages = set()


def choose_fonts(figure: Figure) -> None:
    """Adds the fonts that each text of a figure needs; Latin text needs none.

    Characters that no installed font has are drawn as boxes; a warning names the packages to
    install.
    """
    for axis in figure.findobj(Axis):
        axis.get_ticklabels(which="both")  # creates the labels, so that `findobj` finds them
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    _learn({character for text in texts for character in text.get_text()})
    for text in texts:
        families = {_family_of.get(character) for character in text.get_text()} - {"", None}
        if families:
            text.set_fontfamily([*text.get_fontfamily(), *sorted(families)])


def _learn(characters: set[str]) -> None:
    """Finds font families for new characters."""
    new = {c for c in characters - _family_of.keys() if unicodedata.category(c)[0] not in "CZ"}
    own = _characters_in(font_manager.findfont(FontProperties()), 0, new)
    _family_of.update(dict.fromkeys(own, ""))
    missing = new - own
    if not missing:
        return
    found = _search(missing)
    _family_of.update(dict.fromkeys(missing) | found)
    _name_packages(missing - found.keys())


def _search(missing: set[str]) -> dict[str, str]:
    """Returns font families by character: as few as possible, preferably those in use."""
    covered = {}  # family -> rank and characters of its best font
    for entry in _installed_fonts():
        characters = _characters_in(entry.fname, getattr(entry, "index", 0), missing)
        if characters:
            ranked = (_rank(entry, len(characters)), characters)
            covered[entry.name] = min(covered.get(entry.name, ranked), ranked, key=lambda r: r[0])
    found = {}
    for family in sorted(covered, key=lambda family: covered[family][0]):
        for character in covered[family][1] - found.keys():
            found[character] = family
    return found


def _installed_fonts() -> list[FontEntry]:
    """Returns the fonts that Matplotlib knows, and those installed since it searched for them."""
    manager = font_manager.fontManager
    known = {Path(entry.fname) for entry in manager.ttflist}
    for path in map(Path, font_manager.findSystemFonts()):
        if path not in known and path.resolve() not in known:
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # not a font, or damaged
                manager.addfont(path)
    return [entry for entry in manager.ttflist if not entry.name.startswith(PLACEHOLDERS)]


def _rank(entry: FontEntry, num_characters: int) -> tuple:
    """Returns a sort key that puts the best font first."""
    weight = font_manager.weight_dict.get(entry.weight, entry.weight)
    is_plain = any(name in entry.name.lower() for name in PLAIN_NAMES)
    is_new = entry.name not in _family_of.values()
    is_upright = entry.style == "normal"
    off = abs(weight - NORMAL_WEIGHT)
    return -num_characters, is_new, not is_upright, off, not is_plain, entry.name


def _characters_in(path: str, face_index: int, characters: set[str]) -> set[str]:
    """Returns the characters that a font has and Matplotlib can draw."""
    try:
        font = FT2Font(path, face_index=face_index) if face_index else FT2Font(path)
        found = {character for character in characters if font.get_char_index(ord(character))}
        if found:  # raises an error for fonts of color bitmaps, which cannot be drawn
            font.set_size(10, 72)
            font.load_char(ord(min(found)))
    except (OSError, RuntimeError, ValueError):
        return set()
    return found


def _name_packages(characters: set[str]) -> None:
    """Warns about boxes, and names each package that would help once only."""
    packages = {_package(character) for character in characters} - _named_packages
    if packages:
        shown = "".join(sorted(c for c in characters if _package(c) in packages)[:20])
        LOGGER.warning(
            "No installed font has %s: pictures show boxes in their place. Install a font that has"
            " them. On Debian and Ubuntu: apt install %s.",
            shown,
            " ".join(sorted(packages)),
        )
        _named_packages.update(packages)


def _package(character: str) -> str:
    """Returns the Debian package whose fonts have a character."""
    if unicodedata.name(character, "").startswith(CJK_NAMES):
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(character) == "So" else "fonts-noto-core"

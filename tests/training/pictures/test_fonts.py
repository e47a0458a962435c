"""Pictures show the letters of every script that has an installed font."""

import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTCollection
from matplotlib import font_manager, get_data_path
from matplotlib.figure import Figure

from keras_transformer.translator import AttentionWeights
from training.pictures import fonts as picture_fonts
from training.pictures.attention import attention_pixels, heads_figure, save_attention_picture
from training.pictures.style import pixels

UNITS = 1000
LETTER = "\ud55c"  # a Hangul syllable
OTHER = "\u0928"  # a letter of Devanagari


def built_font(name, letters, weight=400):
    """Writes a font whose letters are black squares as large as the font."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, UNITS), (UNITS, UNITS), (UNITS, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(UNITS, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(letter): "square" for letter in letters})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (UNITS, 0), "square": (UNITS, 0)})
    builder.setupHorizontalHeader(ascent=UNITS, descent=0)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2(usWeightClass=weight)
    builder.setupPost()
    return builder.font


@pytest.fixture
def installed(monkeypatch):
    """A list of installed font files besides Matplotlib's own; empty at first."""
    files, manager = [], font_manager.fontManager
    folder = str(get_data_path())
    own = [entry for entry in manager.ttflist if str(entry.fname).startswith(folder)]
    monkeypatch.setattr(manager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(map(str, files)))
    monkeypatch.setattr(picture_fonts, "_family_of", {})
    monkeypatch.setattr(picture_fonts, "_named_packages", set())
    manager._findfont_cached.cache_clear()
    yield files
    manager._findfont_cached.cache_clear()


def figure_of(text, size=72):
    figure = Figure(figsize=(4, 2))
    figure.text(0.1, 0.3, text, fontsize=size)
    return figure


def num_black(figure):
    """Returns the number of black pixels, one per point; warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return int((pixels(figure, 72)[..., :3] == 0).all(axis=-1).sum())


def test_latin_text_keeps_its_font_without_a_search(installed, monkeypatch):
    def is_asked():
        raise AssertionError

    monkeypatch.setattr(font_manager, "findSystemFonts", is_asked)
    figure = figure_of("A caption: naïve, Ωμέγα, Привет")
    pixels(figure, 72)
    assert figure.texts[0].get_fontfamily() == figure_of("x").texts[0].get_fontfamily()


def test_a_letter_is_drawn_with_a_font_that_has_it(installed, tmp_path):
    built_font("Squares", LETTER).save(tmp_path / "squares.ttf")
    installed.append(tmp_path / "squares.ttf")
    assert abs(num_black(figure_of(LETTER)) - 72 * 72) <= 4 * 72  # its edges may be gray
    assert abs(num_black(figure_of(LETTER * 2)) - 2 * 72 * 72) <= 6 * 72


def test_letters_may_be_in_the_second_font_of_a_collection(installed, tmp_path):
    collection = TTCollection()
    collection.fonts = [built_font("First", "x"), built_font("Second", LETTER)]
    collection.save(tmp_path / "both.ttc")
    installed.append(tmp_path / "both.ttc")
    assert abs(num_black(figure_of(LETTER)) - 72 * 72) <= 4 * 72


def test_one_text_may_need_several_fonts(installed, tmp_path):
    for name, letter in (("One", LETTER), ("Two", OTHER)):
        built_font(name, letter).save(tmp_path / f"{name}.ttf")
        installed.append(tmp_path / f"{name}.ttf")
    figure = figure_of(f"{LETTER}{OTHER}")
    assert abs(num_black(figure) - 2 * 72 * 72) <= 6 * 72
    assert figure.texts[0].get_fontfamily() == ["sans-serif", "One", "Two"]


def test_among_fonts_with_equally_many_letters_the_regular_one_is_used(installed, tmp_path):
    for name, weight in (("A Bold", 900), ("Z Regular", 400)):
        built_font(name, LETTER, weight).save(tmp_path / f"{name}.ttf")
        installed.append(tmp_path / f"{name}.ttf")
    figure = figure_of(LETTER)
    pixels(figure, 72)
    assert figure.texts[0].get_fontfamily() == ["sans-serif", "Z Regular"]


def test_files_that_are_not_fonts_are_skipped(installed, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    built_font("Squares", LETTER).save(tmp_path / "squares.ttf")
    installed += [tmp_path / "broken.ttf", tmp_path / "gone.ttf", tmp_path / "squares.ttf"]
    assert num_black(figure_of(LETTER)) > 60 * 72


@pytest.mark.parametrize(
    "letters, package",
    [
        (LETTER, "fonts-noto-cjk"),
        ("日", "fonts-noto-cjk"),
        ("ひ", "fonts-noto-cjk"),
        ("न", "fonts-noto-core"),
        ("ส", "fonts-noto-core"),
        ("\U0001f916", "fonts-symbola"),
    ],
)
def test_without_a_font_one_warning_names_the_package(installed, caplog, letters, package):
    for _ in range(2):
        num_black(figure_of(letters))
    [record] = caplog.records
    assert f"No installed font has {letters}" in record.message
    assert record.message.endswith(f"apt install {package}.")


def test_several_scripts_without_a_font_make_one_warning(installed, caplog):
    num_black(figure_of(f"{LETTER}न日 a"))
    assert len(caplog.records) == 1
    assert caplog.text.endswith("apt install fonts-noto-cjk fonts-noto-core.\n")


def attention_of(source_tokens, target_tokens):
    shape = (2, len(target_tokens), len(source_tokens))
    return AttentionWeights(
        source_tokens=source_tokens,
        target_tokens=target_tokens,
        weights=np.full(shape, 1 / len(source_tokens)),
    )


def test_token_labels_get_the_fonts_that_they_need(installed, tmp_path, caplog):
    built_font("Squares", LETTER).save(tmp_path / "squares.ttf")
    installed.append(tmp_path / "squares.ttf")
    attention = attention_of(["\u2581a", "</s>"], [f"\u2581{LETTER}", "</s>"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = attention_pixels(attention, 72)
        save_attention_picture(attention, tmp_path / "picture.png")
        heads = heads_figure(
            attention.weights[np.newaxis],
            attention.target_tokens,
            attention.source_tokens,
            row_name="target",
            column_name=LETTER,
            title=LETTER,
        )
        pixels(heads, 72)
    plain = attention_pixels(attention_of(["\u2581a", "</s>"], ["\u2581a", "</s>"]), 72)
    assert [text.get_text() for text in heads.axes[0].get_yticklabels()] == [LETTER, "(end)"]
    # A square of the size of the labels, 10 points, where one thin letter stood.
    assert drawn.shape == plain.shape
    assert (drawn[..., 0] < 50).sum() - (plain[..., 0] < 50).sum() > 40
    assert caplog.text == ""


def test_dollars_in_tokens_do_not_start_a_formula(tmp_path):
    attention = attention_of(["$x^2$", "$\\no_such_command$"], ["$", "</s>"])
    attention_pixels(attention, 72)
    save_attention_picture(attention, tmp_path / "picture.png")


@pytest.mark.parametrize("letters", ["한국어", "日本語", "العربية", "हिन्दी", "ไทย", "עברית"])
def test_installed_fonts_are_found(letters, caplog):
    num_black(figure_of(letters))
    if caplog.text:
        pytest.skip(f"no font is installed for {letters}")
    assert set(letters) <= picture_fonts._family_of.keys()

"""TensorBoard's samples of a training run, read from its files."""

import contextlib
import html
import logging
import re
import resource
import sys
import types

import numpy as np
import pytest

from training.command_line.running import run_command
from training.runs.fitting import faults_named
from training.runs.samples import PICTURE_TOKENS, SampleTranslations, markdown_table

SOURCES = ["", "one two", "three", "four five", "six", "seven eight", "nine"]
REFERENCES = ["", "two one", "three", "five four", "six", "eight seven", "nine"]


class WordTokenizer:
    @property
    def source(self):
        return self

    target = source

    def encode(self, text):
        return list(range(len(text.split())))


class Backwards:
    """A fake translator that reverses the words, slowly."""

    tokenizer = WordTokenizer()
    max_source_tokens = 100
    most_target_tokens = 149
    has_attention = True

    def __init__(self, num_target_tokens=3):
        self.asked_for = []
        self.num_target_tokens = num_target_tokens

    def __call__(self, texts):
        return [" ".join(reversed(text.split())) for text in texts]

    def attention(self, source, target):
        from keras_transformer.translator import AttentionWeights

        self.asked_for.append((source, target))
        source_tokens = [*source.split(), "</s>"]
        target_tokens = [f"piece{number}" for number in range(self.num_target_tokens)]
        weights = np.eye(self.num_target_tokens, len(source_tokens), dtype="float32")
        return AttentionWeights(source_tokens, target_tokens, np.stack([weights] * 3))


def samples(path, sources=SOURCES, references=REFERENCES, translator=None):
    return SampleTranslations(translator or Backwards(), sources, references, path)


class Endless(Backwards):
    has_attention = False

    def __call__(self, texts):
        return ["on and " * 1000 for _ in texts]


def test_an_endless_translation_is_cut_in_the_table(tmp_path):
    callback = samples(tmp_path, translator=Endless())
    callback.on_epoch_end(0)
    callback.close()
    [(_, table)] = events_of(tmp_path)["translations"]
    shown = [row[2] for row in cells_of(table)[1:]]
    assert shown == ["on and " * 28 + "o..."] * 5  # 200 characters


def events_of(path):
    """Returns values by tag, each with its step; texts as str, pictures as pixels."""
    import tensorflow as tf

    found = {}
    # Sorted by number, since names have no leading zeros and the tenth would come first.
    for file in sorted(path.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                if value.metadata.plugin_data.plugin_name == "images":
                    array = tf.io.decode_png(array[2]).numpy()
                else:
                    array = array.item().decode()
                found.setdefault(value.tag, []).append((event.step, array))
    return found


def cells_of(table):
    """Returns the text that Markdown shows in the cells, row by row."""
    from tensorboard.plugin_util import markdown_to_safe_html

    rows = re.findall(r"<tr>(.*?)</tr>", markdown_to_safe_html(table), re.DOTALL)
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[html.unescape(cell) for cell in row] for row in cells]


def test_each_epoch_has_a_table_of_the_first_sentences(tmp_path):
    callback = samples(tmp_path)
    for epoch in (0, 1):
        callback.on_epoch_end(epoch)
    callback.on_train_end()
    (first_step, table), (second_step, _) = events_of(tmp_path)["translations"]
    assert (first_step, second_step) == (0, 1)
    assert cells_of(table) == [
        ["source", "reference", "translation"],
        ["one two", "two one", "two one"],
        ["three", "three", "three"],
        ["four five", "five four", "five four"],
        ["six", "six", "six"],
        ["seven eight", "eight seven", "eight seven"],
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a | b",
        "one\ntwo\r\nthree",
        "**bold** _it_ `code` ~~gone~~",
        "a\\| b\\",
        "<script>x</script> &amp; <b>",
        "[a](http://b.c) ![d](e) <http://f.g> http://h.i",
        "| --- |",
        "# 1. - + = {x} $y$ ^z^ (c) \"q\" 'r'",
        "ein Mädchen fährt, 自転車 😀.",
    ],
)
def test_text_is_displayed_unchanged(text):
    [_, row, last] = cells_of(markdown_table([(text, "b", text), ("c", text, "d")]))
    assert row == [text, "b", text]
    assert last == ["c", text, "d"]


def test_a_picture_shows_the_first_sentence(tmp_path):
    translator = Backwards()
    callback = samples(tmp_path, translator=translator)
    callback.on_epoch_end(4)
    callback.close()
    assert translator.asked_for == [("one two", "two one")]
    [(step, pixels)] = events_of(tmp_path)["attention"]
    assert step == 4
    height, width, colours = pixels.shape
    assert 100 < height < 2000 and 100 < width < 3000 and colours == 4
    # Cells of weight 1 are dark blue, those of weight 0 nearly white.
    red, green, blue = (pixels[..., colour].astype(int) for colour in range(3))
    is_dark_blue = (blue > red + 80) & (red < 50) & (green < 80)
    assert is_dark_blue.mean() > 0.01
    assert ((red > 240) & (green > 240)).mean() > 0.3


def test_an_endless_translation_is_cut_in_the_picture(tmp_path):
    sizes = []
    for number, num_target_tokens in enumerate((PICTURE_TOKENS, 300)):
        path = tmp_path / str(number)
        callback = samples(path, translator=Backwards(num_target_tokens))
        callback.on_epoch_end(0)
        callback.close()
        [(_, pixels)] = events_of(path)["attention"]
        sizes.append(pixels.shape)
    assert sizes[0] == sizes[1]


def test_sentences_that_fit_in_a_picture_are_preferred(tmp_path):
    long = " ".join(["word"] * PICTURE_TOKENS)
    assert samples(tmp_path, [long, "short"], ["a", "b"]).samples == [("short", "b")]


def test_without_a_short_sentence_there_is_a_table_and_no_picture(tmp_path):
    long = " ".join(["word"] * PICTURE_TOKENS)
    callback = samples(tmp_path, [long] * 7, ["a"] * 7)
    callback.on_epoch_end(0)
    callback.close()
    events = events_of(tmp_path)
    assert events.keys() == {"translations"}
    [(_, table)] = events["translations"]
    assert len(cells_of(table)) == 1 + 5


def test_a_translation_that_is_too_long_when_tokenized_again_has_no_picture(tmp_path):
    translator = Backwards()
    translator.most_target_tokens = 2  # "two one", and the end
    callback = samples(tmp_path, translator=translator)
    callback.on_epoch_end(0)
    callback.close()
    assert translator.asked_for == []
    assert sorted(events_of(tmp_path)) == ["translations"]


def test_without_matplotlib_there_is_one_warning_and_no_picture(tmp_path, monkeypatch, caplog):
    monkeypatch.delitem(sys.modules, "training.pictures.attention", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        monkeypatch.setitem(sys.modules, name, None)
    callback = samples(tmp_path)
    with caplog.at_level(logging.WARNING):
        for epoch in (0, 1):
            callback.on_epoch_end(epoch)
    callback.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no pictures of attention for TensorBoard: " in caplog.text
    events = events_of(tmp_path)
    assert events.keys() == {"translations"}
    assert len(events["translations"]) == 2


def test_a_folder_that_cannot_be_created_raises_tensorflows_error(tmp_path):
    import tensorflow as tf

    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(tf.errors.OpError, match="not a directory"):
        samples(tmp_path / "file" / "samples").on_epoch_end(0)


def test_closing_twice_or_before_the_first_epoch_does_nothing(tmp_path):
    callback = samples(tmp_path / "samples")
    callback.close()
    assert not (tmp_path / "samples").exists()
    callback.on_epoch_end(0)
    callback.close()
    callback.close()
    callback.on_epoch_end(1)  # as after an interruption
    callback.close()
    assert [step for step, _ in events_of(tmp_path / "samples")["translations"]] == [0, 1]


def test_a_training_writes_samples_of_its_validation_text(finished_run, text_files):
    events = events_of(finished_run / "logs" / "samples")
    assert [step for step, _ in events["translations"]] == [0, 1, 2]
    assert [step for step, _ in events["attention"]] == [0, 1, 2]
    lines = {}
    for side in ("source", "target"):
        with open(text_files[f"validation_{side}"], encoding="utf-8") as file:
            lines[side] = file.read().splitlines()[:5]
    for _, table in events["translations"]:
        rows = cells_of(table)[1:]
        assert [row[0] for row in rows] == lines["source"]
        assert [row[1] for row in rows] == lines["target"]


def test_tensorboard_shows_the_norm_of_the_gradient(finished_run):
    import tensorflow as tf

    tags = set()
    for file in (finished_run / "logs" / "train").iterdir():
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            tags |= {value.tag for value in event.summary.value}
    assert {"epoch_gradient_norm", "epoch_loss", "epoch_learning_rate"} <= tags


def test_no_room_for_samples_is_reported_in_one_line(tmp_path, capfd, monkeypatch):
    """Not simulated: the kernel refuses to write beyond 4,096 bytes."""
    from tensorflow.python.ops import summary_ops_v2

    # Restored at the end, or TensorFlow would keep using a writer that could not flush.
    for name in ("writer", "step"):
        before = getattr(summary_ops_v2._summary_state, name)
        monkeypatch.setattr(summary_ops_v2._summary_state, name, before)

    def command(_):
        with (
            faults_named(types.SimpleNamespace(fault=None), tmp_path / "logs"),
            contextlib.closing(samples(tmp_path / "logs" / "samples")) as callback,
        ):
            callback.on_epoch_end(0)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        assert run_command(command) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "logs must fit on the disk. Received: File too large" in capfd.readouterr().err

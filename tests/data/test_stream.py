import gc
import itertools
import logging
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_transformer.data import Corpus, PairStream
from keras_transformer.data import stream as stream_module
from keras_transformer.errors import InputError
from tests.data.made_text import (
    OneIdACharacter,
    ids_of,
    numbered_line,
    numbers_of,
    write_numbered,
)
from tests.new_process import output_of

LENGTHS = np.random.default_rng(3).integers(4, 30, 2003).tolist()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Writes a file with 601 numbered pairs of 4 to 29 tokens."""
    folder = tmp_path_factory.mktemp("text")
    return Corpus(write_numbered(folder / "pairs.tsv", range(601), LENGTHS))


def make_stream(*corpora, max_tokens=211, **options):
    return PairStream(corpora, OneIdACharacter(), max_tokens, **options)


def take(stream, number, skip=0):
    return list(itertools.islice(stream.batches(skip), number))


def take_pairs(stream, number):
    """Returns the numbers of the first pairs."""
    numbers = []
    for batch in stream.batches():
        numbers += numbers_of([batch])
        if len(numbers) >= number:
            return numbers[:number]


# Which pairs


@given(
    seed=st.integers(0, 99),
    buffer_pairs=st.sampled_from([40, 211, 4001]),
    max_tokens=st.integers(31, 400),
    shuffle=st.booleans(),
)
@settings(max_examples=8, deadline=None)
def test_each_pass_yields_every_pair_once_except_those_still_waiting(
    text, seed, buffer_pairs, max_tokens, shuffle
):
    stream = make_stream(
        text, max_tokens=max_tokens, seed=seed, buffer_pairs=buffer_pairs, shuffle=shuffle
    )
    blocks = stream_module._Blocks(stream._settings)
    given_out, num_passes = Counter(), 0
    for block in blocks.blocks(lambda: False):
        given_out.update(numbers_of(block.pairs.batch(planned, 2, 3) for planned in block.plan))
        if blocks._readers[0].is_at_end:
            num_passes += 1
            waiting = num_passes * 601 - given_out.total()
            rows = [max_tokens // max(shape) for shape in blocks._plan._shapes.tolist()]
            assert 0 <= waiting <= sum(num_rows - 1 for num_rows in rows)
            assert max(given_out.values()) <= num_passes
        if num_passes == 2:
            return


@pytest.mark.parametrize("buffer_pairs", [37, 4001])
def test_every_batch_is_full_and_has_one_of_few_shapes(text, buffer_pairs):
    shapes = set()
    for inputs, labels in take(make_stream(text, buffer_pairs=buffer_pairs), 300):
        rows, source_length = inputs["source_ids"].shape
        assert labels.shape == inputs["target_ids"].shape == (rows, labels.shape[1])
        assert rows == 211 // max(source_length, labels.shape[1])
        shapes.add((source_length, labels.shape[1]))
    assert len(shapes) <= 36


def test_batches_have_the_same_content_as_batches_from_memory(text):
    inputs, labels = next(make_stream(text).batches())
    for source, target, label in zip(
        inputs["source_ids"].tolist(), inputs["target_ids"].tolist(), labels.tolist(), strict=True
    ):
        length = source.index(3)
        assert source == label
        assert set(source[length + 1 :]) <= {0}
        assert target == [2, *label[:length], *label[length + 1 :]]


def test_a_text_smaller_than_a_batch_is_repeated(tmp_path):
    corpus = Corpus(write_numbered(tmp_path / "a.tsv", range(3)))
    (inputs, _), *_ = batches = take(make_stream(corpus), 2)
    assert inputs["source_ids"].shape == (211 // 6, 6)
    # 70 rows are 23 passes and a pair; up to 34 pairs of other passes wait.
    assert set(Counter(numbers_of(batches))) == {0, 1, 2}


# The order


def test_the_order_is_repeatable_and_depends_on_the_seed(text):
    first = ids_of(take(make_stream(text, seed=5), 120))
    assert ids_of(take(make_stream(text, seed=5), 120)) == first
    assert ids_of(take(make_stream(text, seed=6), 120)) != first


@pytest.mark.parametrize("skip", [1, 17, 90])
@pytest.mark.parametrize("buffer_pairs", [37, 4001])
def test_skipped_batches_are_left_out_and_change_nothing(text, skip, buffer_pairs):
    stream = make_stream(text, buffer_pairs=buffer_pairs)
    assert ids_of(take(stream, 20, skip)) == ids_of(take(stream, 20 + skip))[skip:]


def test_passes_differ_in_their_order(tmp_path):
    corpus = Corpus(write_numbered(tmp_path / "a.tsv", range(350)))
    numbers = take_pairs(make_stream(corpus, max_tokens=60), 1050)  # 35 batches of 10 a pass
    passes = [numbers[first : first + 350] for first in (0, 350, 700)]
    assert [sorted(numbers) for numbers in passes] == [list(range(350))] * 3
    assert passes[0] != passes[1] != passes[2] != passes[0]


def test_a_text_no_larger_than_a_block_is_shuffled_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(stream_module, "_PAIRS_PER_CHUNK", 64)
    corpus = Corpus(write_numbered(tmp_path / "a.tsv", range(2000)))
    stream = make_stream(corpus, max_tokens=60, buffer_pairs=10_000)
    second_pass = take_pairs(stream, 4000)[2000:]
    correlation = np.corrcoef(second_pass, np.arange(2000))[0, 1]
    assert abs(correlation) < 4 / 2000**0.5  # four standard deviations of chance


def test_shuffling_moves_pairs_as_far_as_the_buffer_allows(tmp_path):
    # Blocks of 100 pairs; of the buffer's 500, a pair stays for the next block with 4/5. The
    # number of blocks that it waits has the standard deviation (4/5) ** 0.5 / (1/5) = 4.47, and
    # two pairs differ by 2 * (4/5) / ((1/5) * (1 + 4/5)) = 4.44 blocks in the mean.
    corpus = Corpus(write_numbered(tmp_path / "a.tsv", range(9000)))
    numbers = take_pairs(make_stream(corpus, max_tokens=60, buffer_pairs=500), 9000)
    place = np.argsort(numbers)[
        1000:8000
    ]  # the position of each pair, without both ends of the pass
    assert 400 < np.std(place - np.arange(1000, 8000)) < 500
    assert 400 < np.mean(np.abs(np.diff(place))) < 490


def test_files_are_read_in_a_different_order_in_each_pass(tmp_path):
    for number in range(8):
        write_numbered(tmp_path / f"{number}.tsv", [number] * 10)
    stream = make_stream(Corpus(f"{tmp_path}/*.tsv"), max_tokens=60, buffer_pairs=1)
    numbers = take_pairs(stream, 240)
    orders = [tuple(dict.fromkeys(numbers[first : first + 80])) for first in (0, 80, 160)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len(set(orders)) > 1


def test_without_shuffling_pairs_come_in_the_order_of_the_files(tmp_path):
    for number in range(4):
        write_numbered(tmp_path / f"{number}.tsv", range(10 * number, 10 * number + 10))
    stream = make_stream(Corpus(f"{tmp_path}/*.tsv"), max_tokens=60, shuffle=False)
    assert take_pairs(stream, 80) == [*range(40), *range(40)]


# Memory and the first batch


@pytest.mark.parametrize("num_files", [1, 7])
def test_memory_holds_only_the_buffer_and_the_waiting_pairs(tmp_path, monkeypatch, num_files):
    for number, numbers in enumerate(np.array_split(np.arange(5000), num_files)):
        write_numbered(tmp_path / f"{number}.tsv", numbers, LENGTHS)
    held = []

    class Recorder(stream_module._Blocks):
        def _mix(self, *pairs_and_number):
            block, kept = super()._mix(*pairs_and_number)
            held.append(block.pairs.num_pairs + kept.num_pairs)
            return block, kept

    monkeypatch.setattr(stream_module, "_Blocks", Recorder)
    stream = make_stream(Corpus(f"{tmp_path}/*.tsv"), buffer_pairs=100)
    take(stream, 700)
    waiting = 35 * (211 // 6)  # of each shape, fewer than a batch
    assert max(held) <= 100 + waiting
    assert len(held) > 100


def test_the_first_batch_needs_only_a_small_block(tmp_path, monkeypatch):
    monkeypatch.setattr(stream_module, "_PAIRS_PER_CHUNK", 16)
    read = []

    class Recorder(stream_module._Reader):
        def read(self, num_pairs):
            read.append(num_pairs)
            return super().read(num_pairs)

    monkeypatch.setattr(stream_module, "_Reader", Recorder)
    corpus = Corpus(write_numbered(tmp_path / "a.tsv", range(5000)))
    batches = make_stream(corpus, max_tokens=60, buffer_pairs=100_000).batches()
    next(batches)
    batches.close()
    assert sum(read) <= 120 + 240  # twice the tokens of a batch, and the next block read ahead


# Several texts


def test_each_texts_share_follows_its_weight_in_the_long_run(tmp_path):
    # Half of the small text is too long, and the text is repeated about 30 times.
    large = write_numbered(tmp_path / "large.tsv", range(4000))
    small = write_numbered(tmp_path / "small.tsv", range(9000, 9100), [5, 50])
    stream = make_stream(
        Corpus(large, weight=3), Corpus(small), max_tokens=60, max_length=20, buffer_pairs=500
    )
    numbers = np.array(take_pairs(stream, 6000))
    assert abs(np.mean(numbers >= 9000) - 1 / 4) < 0.02
    assert abs(np.mean(numbers[:1000] >= 9000) - 1 / 4) < 0.06
    assert set(Counter(numbers[numbers >= 9000].tolist())) == set(range(9000, 9100, 2))


# Which pairs are left out


def test_pairs_left_out_of_a_pass_are_reported_at_its_end(tmp_path, caplog):
    lines = [*map(numbered_line, range(50)), "", numbered_line(1, 30), numbered_line(2, 31)]
    other = [*lines[:50], "a", lines[51], "b"]
    path = tmp_path / "a.tsv"
    path.write_text("".join(f"{one}\t{two}\n" for one, two in zip(lines, other, strict=True)))
    (tmp_path / "uneven.tsv").write_text(path.read_text() + "abcdefghijk\tabc\n")
    stream = make_stream(
        Corpus(tmp_path / "uneven.tsv"), max_tokens=60, max_length=20, max_length_ratio=3
    )
    with caplog.at_level(logging.WARNING, logger="keras_transformer"):
        take(stream, 40)
    assert caplog.messages == [
        f"{tmp_path}/uneven.tsv, pass 1, 54 pairs: 1 pair is left out: with a blank side.",
        f"{tmp_path}/uneven.tsv, pass 1, 54 pairs: 2 pairs are left out: longer than 20 tokens.",
        f"{tmp_path}/uneven.tsv, pass 1, 54 pairs: 1 pair is left out: one side more than 3"
        " times the other.",
    ]


def test_a_streamed_text_with_no_usable_pair_is_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("aaa\taaa\naaaa\t\n")
    stream = make_stream(Corpus(tmp_path / "a.tsv"), max_length=3)
    with pytest.raises(
        InputError, match=r"a\.tsv must hold .* Received: 2 pairs, all left out: 1 "
    ):
        next(stream.batches())


# Errors


def test_an_error_in_the_middle_of_a_file_names_file_and_line(tmp_path, running_threads):
    for name, number, bad in (("1", 1000, ""), ("2", 77, "\0")):
        lines = [numbered_line(line) for line in range(number)]
        (tmp_path / f"{name}.en").write_text("\n".join([*lines, bad]) + "\n")
        (tmp_path / f"{name}.de").write_text("\n".join([*lines, bad]) + "\n")
    stream = make_stream(Corpus(f"{tmp_path}/*.en", f"{tmp_path}/*.de"), buffer_pairs=10)
    with pytest.raises(InputError, match=r"2\.en:78: a line must be text .* NUL byte"):
        for _ in stream.batches():
            pass
    assert not running_threads()


def test_files_of_different_length_are_refused_where_the_shorter_ends(tmp_path):
    lines = [numbered_line(line) for line in range(3000)]
    (tmp_path / "1.en").write_text("\n".join(lines) + "\n")
    (tmp_path / "1.de").write_text("\n".join(lines[:-1]) + "\n")
    stream = make_stream(Corpus(tmp_path / "1.en", tmp_path / "1.de"), buffer_pairs=10)
    batches = stream.batches()
    next(batches)
    with pytest.raises(
        InputError, match=r"1\.en and .*1\.de must .* Received: 3000 and 2999 lines"
    ):
        for _ in batches:
            pass


def test_a_missing_file_is_named_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match=r"absent\.tsv: must be a file that can be read"):
        make_stream(Corpus(tmp_path / "absent.tsv"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_tokens": 1}, r"max_tokens must be at least 2\. Received: max_tokens=1\."),
        ({"buffer_pairs": 0}, r"buffer_pairs must be at least 1\. Received: buffer_pairs=0\."),
        ({"max_length_ratio": 1}, r"max_length_ratio must be greater than 1"),
        ({"sampling": -0.1}, r"sampling must be at least 0\. Received: sampling=-0\.1\. Choose"),
    ],
)
def test_settings_out_of_range_are_refused(text, setting, message):
    with pytest.raises(InputError, match=message):
        make_stream(text, **setting)


# Epochs


def epoch_of(stream, number, steps_per_epoch, first_batch=0):
    """Returns the batches of one epoch in order."""
    epochs = stream.epochs(steps_per_epoch)
    return (epochs.batch(number, index) for index in range(first_batch, steps_per_epoch))


def test_an_epoch_is_a_number_of_batches_of_the_stream(text):
    stream = make_stream(text)
    epochs = [list(epoch_of(stream, number, 13)) for number in range(4)]
    assert ids_of(itertools.chain(*epochs)) == ids_of(take(stream, 52))


def test_epochs_can_be_repeated_and_requested_out_of_order(text):
    stream = make_stream(text)
    expected = ids_of(take(stream, 80))
    for number, first_batch in ((3, 0), (1, 7), (1, 0), (0, 19)):
        batches = ids_of(epoch_of(stream, number, 20, first_batch))
        assert batches == expected[20 * number + first_batch : 20 * number + 20]


def test_going_back_a_little_reads_nothing_again(text, monkeypatch):
    begun = []

    class Recorder(stream_module._Blocks):
        def __init__(self, settings):
            begun.append(settings)
            super().__init__(settings)

    monkeypatch.setattr(stream_module, "_Blocks", Recorder)
    stream = make_stream(text)
    stream.epochs(20).batch(0, 0)
    for epoch in (0, 1, 2):
        list(itertools.islice(epoch_of(stream, epoch, 20), 3))
        list(epoch_of(stream, epoch, 20))
    assert len(begun) == 1


def test_no_thread_outlives_a_stream(text, running_threads):
    stream = make_stream(text)
    batches = stream.batches()
    next(batches)
    stream.epochs(5).batch(0, 0)
    assert len(running_threads()) == 2
    del batches
    assert len(running_threads()) == 1
    del stream
    gc.collect()
    assert not running_threads()


# Sampling


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    from tests.random_models import TEXTS

    path = tmp_path_factory.mktemp("sampling") / "pairs.tsv"
    path.write_text("".join(f"{line}\t{line}\n" for line in TEXTS * 5))
    return path


def sampled(path, tokenizer, sampling, number=40):
    stream = PairStream([Corpus(path)], tokenizer, 500, sampling=sampling, seed=4)
    return ids_of(take(stream, number))


def test_sampled_splits_repeat_and_join_to_the_same_text(english, tokenizer):
    batches = sampled(english, tokenizer, 0.3)
    assert batches == sampled(english, tokenizer, 0.3)
    lines = {line.split("\t")[0] for line in english.read_text().splitlines()}
    ids = [tuple(row) for source, _, _ in batches for row in source]
    assert {tokenizer.decode(row) for row in ids} <= lines
    assert len(set(ids)) > 2 * len(lines)


def test_sampled_splits_are_the_same_in_another_process(english, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.model")
    program = (
        "import sys\n"
        "from keras_transformer.text.subword_tokenizer import SubwordTokenizer\n"
        "from tests.data.test_stream import sampled\n"
        "print(sampled(sys.argv[1], SubwordTokenizer.load(sys.argv[2]), 0.3, 11))\n"
    )
    found = output_of(program, english, tmp_path / "tokenizer.model")
    assert found == str(sampled(english, tokenizer, 0.3, 11))

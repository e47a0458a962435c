"""Tables and pictures of decoding speed, of this project and other programs."""

import json

import pytest
from matplotlib.image import imread

from training.benchmark import main
from training.benchmarks.speed_lines import US, Program, Work, read_memory, read_speeds
from training.benchmarks.speed_table import comparison
from training.command_line.running import run_command
from training.pictures.memory import cache_mib, memory_figure
from training.pictures.speed import speed_figure


def our_line(tokens_per_second, **changes):
    line = {"task": "decode", "preset": "base", "dtype": "int8", "threads": 1, "batch": 32}
    line |= {"beam_size": 4, "source_length": 25, "length": 100}
    return json.dumps({**line, "tokens_per_second": tokens_per_second, **changes})


def peers_line(tokens_per_second, **changes):
    line = {"peer": "other", "task": "decode", "size": "base", "dtype": "int8_float32"}
    line |= {"batch": 32, "beams": 4, "src": 25, "length": 100, "tokens_per_s": tokens_per_second}
    return json.dumps({**line, **changes})


@pytest.fixture
def write(tmp_path):
    def write_lines(name, *lines):
        path = tmp_path / name
        path.write_text("".join(line + "\n" for line in lines))
        return str(path)

    return write_lines


def test_lines_of_equal_work_are_reduced_to_their_median(write):
    ours = write("ours", our_line(100), our_line(400), "", our_line(300))
    peers = write("peers", peers_line(200), json.dumps({"task": "train"}))
    work = Work("base", batch=32, beam_size=4, source_length=25, threads=1, length=100)
    assert read_speeds([ours, peers]) == {
        Program(US, "int8"): {work: 300},
        Program("other", "int8"): {work: 200},
    }


def test_lines_of_real_text_and_of_other_tasks_are_not_compared(write):
    of_real_text = json.dumps({"task": "decode", "saved_model": "x", "sentences_per_second": 3})
    with pytest.raises(ValueError, match="must have lines of decoding speed. Received: no such"):
        read_speeds([write("ours", of_real_text, json.dumps({"task": "gemm"}))])


@pytest.mark.parametrize("line", ["{", "3", "[]", '{"task": "decode", "dtype": "int8"}'])
def test_a_line_that_is_not_a_measurement_is_named(line, write):
    with pytest.raises(ValueError, match="ours:2: a line must be one measurement in JSON."):
        read_speeds([write("ours", our_line(1), line)])


def test_the_table_has_ours_theirs_and_the_ratio(write, capsys):
    ours = write("ours", our_line(1500), our_line(600, length=200), our_line(9, batch=1))
    peers = write("peers", peers_line(1000), peers_line(800, length=200))
    assert run_command(main, ["compare", ours, peers]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| preset | batch | search | ours | theirs | length 100 | length 200 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| base | 32 | beam 4 | int8 | other int8 | 1,500 / 1,000 / 1.50 | 600 / 800 / 0.75 |",
    ]


def test_different_precisions_are_compared_only_on_request(write):
    speeds = read_speeds(
        [write("ours", our_line(3, dtype="bfloat16")), write("peers", peers_line(2))]
    )
    assert "| bfloat16 | other int8 | 3 / 2 / 1.50 |" in comparison(speeds, peer_dtype="int8")
    with pytest.raises(ValueError, match="Received: no equal work."):
        comparison(speeds)


@pytest.mark.parametrize("change", [{"threads": 2}, {"source_length": 26}, {"num_layers": 1}])
def test_different_work_is_not_compared(change, write):
    speeds = read_speeds([write("ours", our_line(3, **change)), write("peers", peers_line(2))])
    with pytest.raises(ValueError, match="Received: no equal work."):
        comparison(speeds)


def test_the_picture_has_milliseconds_per_token_by_length(write):
    ours = [our_line(500, length=200), our_line(1000), our_line(2000, beam_size=1)]
    figure = speed_figure(
        read_speeds([write("ours", *ours), write("peers", peers_line(250))]), "base", 32, [1, 4]
    )
    greedy, beam = figure.axes
    assert {line.get_label(): line.get_xydata().tolist() for line in beam.lines} == {
        "this project\nint8": [[100, 1.0], [200, 2.0]],
        "other\nint8": [[100, 4.0]],
    }
    [line] = greedy.lines
    assert line.get_xydata().tolist() == [[100, 0.5]]
    assert beam.get_xlabel() == "target tokens of each sentence"
    assert figure.get_supylabel() == "milliseconds per target token (log scale)"
    labels = {text.get_text() for text in beam.texts}
    assert labels == {"this project\nint8", "other\nint8"}


def test_the_picture_is_written_for_the_width_of_a_readme(write, tmp_path):
    ours = write("ours", our_line(1), our_line(2, beam_size=1))
    picture = tmp_path / "speed.png"
    assert run_command(main, ["curve", ours, "--output", str(picture)]) == 0
    height, width, _ = imread(picture).shape
    assert height < width
    assert 800 <= width <= 1200


def test_a_picture_without_lines_to_draw_is_refused(write, tmp_path, capfd):
    ours = write("ours", our_line(1))
    assert run_command(main, ["curve", ours]) == 2
    assert "--output must be given." in capfd.readouterr().err
    assert run_command(main, ["curve", ours, "--output", str(tmp_path / "speed.png")]) == 1
    assert "base, batch 32, beam size 1. Received: no such line." in capfd.readouterr().err
    assert run_command(main, ["compare", str(tmp_path / "missing")]) == 1
    assert "missing: No such file" in capfd.readouterr().err


def test_memory_is_the_peak_beyond_the_loaded_model(write):
    loaded_and_most = {"memory_mib": 1000, "peak_memory_mib": 1300}
    ours = write("ours", our_line(1, **loaded_and_most), our_line(2))
    memory = read_memory([ours, write("peers", peers_line(2))])
    assert memory == {Program(US, "int8"): {Work("base", 32, 4, 25, 1, 100): 300}}


def test_the_caches_hold_a_key_and_a_value_per_token_and_layer():
    floats = 2 * 512 * 6  # keys and values of the base model's six layers
    assert cache_mib("base", rows=128, length=200) == 128 * 200 * floats * 4 / 2**20
    assert (
        cache_mib("base", rows=128, length=200, dtype="bfloat16") == 128 * 200 * floats * 2 / 2**20
    )


def test_the_picture_of_memory_shows_the_caches_beside_the_measurements(write, tmp_path, capfd):
    def line(length, beam_size, most, **changes):
        of_memory = {"memory_mib": 7, "peak_memory_mib": most}
        return our_line(1, length=length, beam_size=beam_size, **of_memory, **changes)

    in_half = line(200, 4, 207, dtype="int8_bfloat16")
    ours = write("ours", line(200, 1, 47), line(100, 1, 27), line(100, 4, 107), in_half)
    [axes] = memory_figure(read_memory([ours]), "base", 32).axes
    drawn = {text.get_label(): text.get_xydata().tolist() for text in axes.lines}
    assert drawn["greedy, int8"] == [[100, 20], [200, 40]]
    assert drawn["4 beams, int8"] == [[100, 100]]
    assert drawn["4 beams, int8_bfloat16"] == [[200, 200]]
    for rows, search, dtype in (
        (32, "greedy", "float32"),
        (128, "4 beams", "float32"),
        (128, "4 beams", "bfloat16"),
    ):
        caches = [[length, cache_mib("base", rows, length, dtype)] for length in (100, 200)]
        assert drawn[f"keys and values,\n{search}, {dtype}"] == caches
    assert "keys and values,\ngreedy, bfloat16" not in drawn
    picture = str(tmp_path / "memory.png")
    assert run_command(main, ["memory", ours, "--output", picture]) == 0
    assert 800 <= imread(picture).shape[1] <= 1200
    assert run_command(main, ["memory", ours, "--output", picture, "--batch", "1"]) == 1
    assert "base, batch 1. Received: no such line." in capfd.readouterr().err

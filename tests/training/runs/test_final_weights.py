"""The choice of the final weights of a training run."""

import math

import numpy as np
import pytest

from keras_transformer.optimizers import Adam
from training.command_line.errors import InputError
from training.runs.checkpoints import save_checkpoint
from training.runs.final_weights import set_final_weights
from training.runs.folder import Position, RunFolder
from training.settings import TrainingSettings

AVERAGE_OF_TWO = {"average_checkpoints": 2}


def value_of(model):
    [value] = {float(number) for weight in model.get_weights() for number in np.ravel(weight)}
    return value


@pytest.fixture
def run(small_model, tmp_path):
    """A run of four epochs; all weights were 1 after the first, 2 after the second, and so on."""
    run = RunFolder(tmp_path)
    for epoch in range(1, 5):
        small_model.set_weights([np.full(w.shape, float(epoch)) for w in small_model.weights])
        save_checkpoint(run, small_model, Position(epoch, 0))
    return run


def judged(run, perplexities, **more):
    """Writes the epochs' metrics; `more` has a list of values by name."""
    run.write_metrics(
        [
            {
                "epoch": epoch,
                "loss": 9.0,
                "val_perplexity": perplexity,
                **{name: values[epoch - 1] for name, values in more.items()},
            }
            for epoch, perplexity in enumerate(perplexities, start=1)
        ]
    )


def choose(run, model, numbers, **settings):
    settings = TrainingSettings(**{**AVERAGE_OF_TWO, **settings})
    choice = set_final_weights(run, settings, model, lambda: numbers)
    return choice, choice.in_words(settings.monitor)


def test_an_average_that_is_better_than_every_epoch_is_kept(run, small_model):
    judged(run, [9.0, 4.0, 5.0, 6.0])
    choice, words = choose(run, small_model, {"val_perplexity": 3.5})
    assert choice.kept == ([3, 4], {"val_perplexity": 3.5})
    assert value_of(small_model) == 3.5
    assert words == (
        "weights of epochs 3, 4: validation perplexity 3.500; epoch 2 alone: validation perplexity"
        " 4.000"
    )


def test_the_best_epoch_is_kept_if_the_average_is_worse(run, small_model):
    judged(run, [9.0, 4.0, 5.0, 6.0])
    choice, words = choose(run, small_model, {"val_perplexity": 4.5})
    assert choice.kept == ([2], {"val_perplexity": 4.0})  # the numbers from validation
    assert value_of(small_model) == 2
    assert words == (
        "weights of epoch 2: validation perplexity 4.000; the average of epochs 3, 4: validation"
        " perplexity 4.500"
    )


def test_the_monitor_decides_and_perplexity_breaks_ties(run, small_model):
    by_bleu = {"monitor": "val_bleu", "validation_bleu": True}
    judged(run, [9.0, 4.0, 5.0, 6.0], val_bleu=[0.0, 20.0, 30.0, 10.0])
    choice, words = choose(run, small_model, {"val_perplexity": 3.0, "val_bleu": 29.0}, **by_bleu)
    assert choice.kept == ([3], {"val_perplexity": 5.0, "val_bleu": 30.0})
    assert words.startswith(
        "weights of epoch 3: validation BLEU 30.00, validation perplexity 5.000;"
    )
    choice, _ = choose(run, small_model, {"val_perplexity": 4.9, "val_bleu": 30.0}, **by_bleu)
    assert choice.kept.epochs == [3, 4]
    choice, _ = choose(run, small_model, {"val_perplexity": 5.1, "val_bleu": 30.0}, **by_bleu)
    assert choice.kept.epochs == [3]


def test_an_average_that_is_not_a_number_is_not_kept(run, small_model):
    judged(run, [9.0, 4.0, 5.0, 6.0])
    choice, _ = choose(run, small_model, {"val_perplexity": math.nan})
    assert choice.kept.epochs == [2]


def test_a_single_epoch_needs_no_comparison(run, small_model):
    judged(run, [9.0, 4.0, 5.0, 6.0])
    choice, words = choose(run, small_model, {"val_perplexity": 4.1}, average_checkpoints=1)
    assert choice.dropped is None
    assert words == "weights of epoch 2: validation perplexity 4.000"  # known without measuring
    assert value_of(small_model) == 2


def test_without_metrics_the_last_epoch_is_kept(run, small_model):
    choice, _ = choose(run, small_model, {"val_perplexity": 4.1})
    assert choice.kept == ([4], {"val_perplexity": 4.1})
    assert value_of(small_model) == 4


def test_the_average_is_kept_if_the_best_epoch_is_damaged(run, small_model, caplog):
    judged(run, [9.0, 4.0, 5.0, 6.0])
    run.checkpoint_path(Position(2, 0), "weights").write_bytes(b"")
    choice, _ = choose(run, small_model, {"val_perplexity": 4.5})
    assert choice.kept.epochs == [3, 4]
    assert value_of(small_model) == 3.5
    assert "epoch_0002_batch_00000.weights.npz cannot be read" in caplog.text


def test_moving_averages_are_compared_instead_of_weights(small_model, tmp_path):
    """Each epoch's average is ten times its weights, which were not validated."""
    small_model.compile(optimizer=Adam(ema_decay=0.5), loss="mse")
    small_model.fit(np.ones((8, 2)), np.ones((8, 3)), batch_size=8, verbose=0)
    run = RunFolder(tmp_path)
    [average] = small_model.optimizer.averages
    for epoch in range(1, 5):
        small_model.set_weights([np.full((2, 3), float(epoch))])
        average.assign(np.full((2, 3), 10.0 * epoch))
        save_checkpoint(run, small_model, Position(epoch, 0))
    judged(run, [9.0, 4.0, 5.0, 6.0])
    for perplexity, value in ((3.0, 35), (4.5, 20)):
        choose(run, small_model, {"val_perplexity": perplexity}, ema_decay=0.5)
        assert value_of(small_model) == value


@pytest.mark.parametrize("damaged", [False, True])
def test_workers_average_the_epochs_that_the_first_worker_could_read(run, small_model, damaged):
    """A worker with a damaged copy would otherwise keep the others waiting."""
    judged(run, [9.0, 4.0, 5.0, 6.0])
    told = iter([run.read_metrics(), [3, 4]])
    worker, settings = RunFolder(run.path, read_only=True), TrainingSettings(**AVERAGE_OF_TWO)
    arguments = (worker, settings, small_model, lambda: {"val_perplexity": 3.5})
    run.metrics_path.unlink()
    if not damaged:
        choice = set_final_weights(*arguments, lambda _: next(told))
        assert choice.kept == ([3, 4], {"val_perplexity": 3.5})
        assert value_of(small_model) == 3.5
        return
    run.checkpoint_path(Position(3, 0), "weights").write_bytes(b"")
    with pytest.raises(InputError, match=r"all workers must .*: epoch 4, and on .* epochs 3, 4\."):
        set_final_weights(*arguments, lambda _: next(told))

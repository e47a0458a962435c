"""Batching without HTTP and TensorFlow: the model is a function that records its inputs."""

import asyncio
import threading

import numpy as np
import pytest

from training.serving.batching import Batcher
from training.serving.errors import ServingError

SECONDS = 30


class Model:
    """Capitalizes texts. Records each batch; waits for `gate` if there is one; refuses "bad"."""

    def __init__(self, gate=None):
        self.batches = []
        self.gate = gate
        self.begun = threading.Semaphore(0)

    def run(self, inputs):
        texts = inputs["text"].tolist()
        self.batches.append(texts)
        self.begun.release()
        if self.gate:
            self.gate.wait(SECONDS)
        if b"bad" in texts:
            raise ServingError("INVALID_ARGUMENT", "a bad text")
        return {
            "translation": np.array([text.upper() for text in texts], object),
            "length": np.array([len(text) for text in texts], np.int32),
        }


def text_of(*texts):
    return {"text": np.array(texts, object)}


def outcomes_of(batcher, run, requests, *, in_rows=True):
    """Returns the outputs or errors of requests that arrive at the same time."""

    async def ask_all():
        waits = [batcher.submit(run, text_of(*texts), in_rows=in_rows) for texts in requests]
        return await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), SECONDS)

    return asyncio.run(ask_all())


def test_simultaneous_requests_share_a_batch_and_each_gets_its_own_outputs():
    model = Model()
    requests = [[b"a"], [b"bc", b"d"], [b"e"]]
    outcomes = outcomes_of(Batcher(1), model.run, requests)
    assert len(model.batches) == 1
    for texts, outputs in zip(requests, outcomes, strict=True):
        assert outputs["translation"].tolist() == [text.upper() for text in texts]
        assert outputs["length"].tolist() == [len(text) for text in texts]
        assert outputs["length"].dtype == np.int32


def test_requests_that_arrive_while_the_model_runs_form_the_next_batch():
    gate = threading.Event()
    model = Model(gate)
    batcher = Batcher(1)

    async def one_then_twenty():
        first = asyncio.ensure_future(batcher.submit(model.run, text_of(b"x"), in_rows=True))
        await asyncio.to_thread(model.begun.acquire)
        later = [
            asyncio.ensure_future(batcher.submit(model.run, text_of(b"%d" % n), in_rows=True))
            for n in range(20)
        ]
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(first, *later)

    asyncio.run(one_then_twenty())
    assert [len(batch) for batch in model.batches] == [1, 20]
    assert (batcher.counts.num_runs, batcher.counts.num_rows) == (2, 21)


def test_a_request_larger_than_the_largest_batch_is_split():
    model = Model()
    texts = [b"%d" % number for number in range(50)]
    [outputs] = outcomes_of(Batcher(2, max_batch_size=7), model.run, [texts])
    assert outputs["translation"].tolist() == [text.upper() for text in texts]
    assert max(map(len, model.batches)) == 7
    assert sum(map(len, model.batches)) == 50


def test_a_small_request_does_not_wait_for_the_end_of_a_large_one():
    model = Model()
    large = [b"l%d" % number for number in range(400)]
    outcomes_of(Batcher(1, max_batch_size=16), model.run, [large, [b"small"]])
    place = [b"small" in batch for batch in model.batches].index(True)
    assert place <= 1  # of 26


def test_long_texts_do_not_share_batches_with_short_ones():
    model = Model()
    requests = [[b"short"], [b"l" * 5000], [b"brief"], [b"m" * 6000], [b"n" * 700]]
    outcomes_of(Batcher(1), model.run, requests)
    assert sorted(map(len, model.batches)) == [1, 2, 2]
    for batch in model.batches:
        lengths = [len(text) for text in batch]
        assert max(lengths) < 256 or max(lengths) < 2 * min(lengths)


def test_a_bad_request_fails_alone():
    model = Model()
    outcomes = outcomes_of(Batcher(1), model.run, [[b"a"], [b"x", b"bad"], [b"c"]])
    assert outcomes[0]["translation"].tolist() == [b"A"]
    assert isinstance(outcomes[1], ServingError)
    assert outcomes[1].code == "INVALID_ARGUMENT"
    assert outcomes[2]["translation"].tolist() == [b"C"]


def test_an_exception_of_any_type_becomes_an_answer():
    def run(inputs):
        raise RuntimeError("broken")

    [outcome] = outcomes_of(Batcher(1), run, [[b"a"]])
    assert isinstance(outcome, ServingError)
    assert (outcome.code, outcome.message) == ("UNKNOWN", "broken")


def test_outputs_that_do_not_fit_their_inputs_are_refused():
    def run(inputs):
        return {"length": np.zeros(1, np.int32)}

    outcomes = outcomes_of(Batcher(1), run, [[b"a", b"b"]])
    assert outcomes[0].code == "INTERNAL"


@pytest.mark.parametrize("texts", [[], [b"a", b"b"]])
def test_requests_without_independent_rows_run_undivided(texts):
    model = Model()
    outcomes = outcomes_of(Batcher(1), model.run, [texts, [b"c"]], in_rows=False)
    assert sorted(model.batches) == sorted([texts, [b"c"]])
    assert outcomes[0]["translation"].tolist() == [text.upper() for text in texts]


def test_requests_to_different_models_do_not_share_batches():
    first, second = Model(), Model()
    batcher = Batcher(1)

    async def ask_both():
        waits = [
            batcher.submit(model.run, text_of(text), in_rows=True)
            for model, text in ((first, b"a"), (second, b"b"), (first, b"c"))
        ]
        await asyncio.wait_for(asyncio.gather(*waits), SECONDS)

    # A bound method is a new object each time, and equal to itself: what versions hand out is one.
    asyncio.run(ask_both())
    assert first.batches == [[b"a", b"c"]]
    assert second.batches == [[b"b"]]


def test_requests_beyond_a_full_queue_are_refused_and_the_others_answered():
    gate = threading.Event()
    model = Model(gate)
    batcher = Batcher(1, max_batch_size=2, queue_rows=4)

    async def overload():
        waits = [
            asyncio.ensure_future(batcher.submit(model.run, text_of(b"%d" % n), in_rows=True))
            for n in range(9)
        ]
        done, _ = await asyncio.wait(waits, timeout=0.5)
        refused = [wait.exception() for wait in done]
        gate.set()
        answers = await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), SECONDS)
        return refused, answers

    refused, answers = asyncio.run(overload())
    assert len(refused) == 5  # four wait; the model takes its first two after all have come
    assert {error.code for error in refused} == {"UNAVAILABLE"}
    assert sum(isinstance(answer, dict) for answer in answers) == 4


def test_a_canceled_request_is_not_run():
    gate = threading.Event()
    model = Model(gate)
    batcher = Batcher(1, max_batch_size=1)

    async def give_up():
        first = asyncio.ensure_future(batcher.submit(model.run, text_of(b"a"), in_rows=True))
        await asyncio.to_thread(model.begun.acquire)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(batcher.submit(model.run, text_of(b"b"), in_rows=True), 0.05)
        gate.set()
        await first
        await batcher.submit(model.run, text_of(b"c"), in_rows=True)

    asyncio.run(give_up())
    assert model.batches == [[b"a"], [b"c"]]

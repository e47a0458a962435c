import gc
import time

import pytest

from keras_transformer.data.read_ahead import read_ahead
from tests.new_process import output_of


def counting(begun):
    """Yields 0, 1, ... and records which items have been begun."""

    def produce(is_stopped):
        number = 0
        while not is_stopped():
            begun.append(number)
            yield number
            number += 1

    return produce


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


def test_items_come_in_order_and_the_end_is_reached(running_threads):
    assert list(read_ahead(lambda is_stopped: iter("abc"))) == ["a", "b", "c"]
    assert list(read_ahead(lambda is_stopped: iter(""))) == []
    assert not running_threads()


def test_one_item_is_prepared_ahead_and_no_more(running_threads):
    begun = []
    items = read_ahead(counting(begun))
    assert not running_threads()  # nothing has been requested yet
    assert [next(items), next(items)] == [0, 1]
    wait_for(lambda: begun == [0, 1, 2])
    time.sleep(0.05)
    assert begun == [0, 1, 2]
    items.close()


@pytest.mark.parametrize("end", ["close", "forget", "in a cycle"])
def test_the_thread_ends_with_the_iterator(end, running_threads):
    items = read_ahead(counting([]))
    next(items)
    assert len(running_threads()) == 1
    if end == "close":
        items.close()
    elif end == "in a cycle":
        cycle = [items]
        cycle.append(cycle)
        del cycle
    del items
    gc.collect()
    assert not running_threads()


def test_a_busy_thread_stops_on_request(running_threads):
    def produce(is_stopped):
        yield "first"
        while not is_stopped():
            time.sleep(0.002)

    items = read_ahead(produce)
    next(items)
    items.close()
    assert not running_threads()


def test_errors_are_raised_where_the_item_is_requested(running_threads):
    def produce(is_stopped):
        yield 1
        raise ValueError("line 7")

    items = read_ahead(produce)
    assert next(items) == 1
    with pytest.raises(ValueError, match="line 7"):
        next(items)
    assert not running_threads()
    assert list(items) == []


def test_python_ends_while_an_iterator_is_in_use():
    program = (
        "from keras_transformer.data.read_ahead import read_ahead\n"
        "import itertools\n"
        "def produce(is_stopped):\n"
        "    return itertools.takewhile(lambda _: not is_stopped(), itertools.count())\n"
        "items = read_ahead(produce)\n"
        "print(next(items), next(items))\n"
    )
    assert output_of(program) == "0 1"

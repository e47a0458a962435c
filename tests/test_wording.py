from keras_transformer.wording import counted, listed


def test_one_is_singular_and_all_other_numbers_are_plural():
    assert counted(1, "epoch") == "1 epoch"
    assert counted(0, "epoch") == "0 epochs"
    assert counted(2000, "batch", "batches") == "2,000 batches"


def test_a_list_has_commas_and_one_last_word():
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(["a", "b", "c"], "or") == "a, b or c"

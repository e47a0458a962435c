from keras_transformer.wording import counted


def test_one_is_singular_and_all_other_numbers_are_plural():
    assert counted(1, "epoch") == "1 epoch"
    assert counted(0, "epoch") == "0 epochs"
    assert counted(2000, "batch", "batches") == "2,000 batches"

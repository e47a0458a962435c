"""The documented signatures of exports, and functions that compare their answers."""

import numpy as np

# {signature: (inputs, {output: (type, shape)})}; -1 is any size. 3 beams, 3 heads.
SIGNATURES = {
    "serving_default": (["text"], {"translation": (str, [-1]), "score": (float, [-1])}),
    "greedy": (["text"], {"translation": (str, [-1]), "score": (float, [-1])}),
    "n_best": (["text"], {"translations": (str, [-1, 3]), "scores": (float, [-1, 3])}),
    "n_best_from_prefix": (
        ["text", "prefix"],
        {"translations": (str, [-1, 3]), "scores": (float, [-1, 3])},
    ),
    "score": (
        ["source", "target"],
        {"log_probability": (float, [-1]), "num_tokens": (int, [-1])},
    ),
    "attention": (
        ["source", "target"],
        {
            "source_tokens": (str, [-1, -1]),
            "target_tokens": (str, [-1, -1]),
            "weights": (float, [-1, 3, -1, -1]),
        },
    ),
}


def meta_graph(path):
    """Returns the graph of an export and its description."""
    from tensorflow.core.protobuf import saved_model_pb2

    with open(f"{path}/saved_model.pb", "rb") as file:
        [meta_graph] = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs
    return meta_graph


def assert_only_stock_operations(path):
    """All operations are TensorFlow's own, or TensorFlow Text's for SentencePiece."""
    import tensorflow as tf

    graph = meta_graph(path)
    library = graph.graph_def.library.function
    bodies = [graph.graph_def.node, *(function.node_def for function in library)]
    ops = {node.op for body in bodies for node in body}
    assert len(ops) > 50
    assert {op for op in ops if not hasattr(tf.raw_ops, op)} <= {
        "SentencepieceOp",
        "SentencepieceTokenizeOp",
        "SentencepieceDetokenizeOp",
    }
    # PyFunc is a core op, and needs the Python that exported it.
    assert not any(op.startswith(("Xla", "PyFunc", "EagerPyFunc")) for op in ops)


def assert_n_best(answer, live):
    """Compares rows of an answer with the live translator's results; missing ones are filled up."""
    for texts, scores, row in zip(answer["translations"], answer["scores"], live, strict=True):
        texts = [text.decode() if isinstance(text, bytes) else text for text in texts]
        missing = len(texts) - len(row)
        assert texts == [text for text, _ in row] + [""] * missing
        expected = [score for _, score in row] + [-1e9] * missing
        np.testing.assert_allclose(scores, expected, rtol=1e-4)

"""Requests that TensorFlow Serving uses to warm up a version before serving it.

The first call of a signature optimizes its graph and sets up its kernels, which takes many times
as long as later calls. Serving makes that call itself if it finds requests in
`assets.extra/tf_serving_warmup_requests`, a TFRecord file of PredictionLog messages.
"""

from collections.abc import Iterator
from pathlib import Path

from keras_transformer.export.prediction_log import WARMUP_FILE, prediction_log_class
from keras_transformer.translator import Translator

# Lengths of the texts in tokens, without the end: a word, a sentence, a long sentence.
_LENGTHS = (1, 10, 40)

# The inputs of signatures that take more than a text.
_INPUTS = {
    "n_best_from_prefix": ("text", "prefix"),
    "score": ("source", "target"),
    "attention": ("source", "target"),
}

_FIRST_SUBWORD = 4 + 256  # after the special ids and the bytes

Inputs = dict[str, list[str]]


def write_warmup_requests(
    version: Path, model_name: str, signatures: list[str], translator: Translator
) -> None:
    """Writes the warm-up file, with several requests for each signature.

    Args:
        version: The folder of the version.
        model_name: The model's name on the server: the name of the folder above the version.
        signatures: The names of the signatures.
        translator: Its tokenizer makes the texts, of at most `max_source_tokens` tokens.
    """
    import tensorflow as tf

    path = version / WARMUP_FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as file:
        for signature in signatures:
            for inputs in _requests(signature, translator):
                file.write(_prediction_log(model_name, signature, inputs))


def _requests(signature: str, translator: Translator) -> Iterator[Inputs]:
    """Yields each text alone, then all texts in one batch."""
    names = _INPUTS.get(signature, ("text",))
    texts = [_text(translator, length) for length in _LENGTHS]
    for batch in (*([text] for text in texts), texts):
        yield dict.fromkeys(names, batch)


def _text(translator: Translator, num_tokens: int) -> str:
    """Makes a text of sub-words from all over the vocabulary; it need not make sense."""
    tokenizer = translator.tokenizer.source
    last = tokenizer.vocabulary_size - 1
    first = min(_FIRST_SUBWORD, last)
    most = min(num_tokens, translator.max_source_tokens - 1)
    step = max((last - first) // num_tokens, 1)
    ids = [first + i * step % (last - first + 1) for i in range(most)]
    # The joined text may be split into more sub-words.
    while ids and len(tokenizer.encode(tokenizer.decode(ids))) > most:
        ids.pop()
    return tokenizer.decode(ids)


def _prediction_log(model_name: str, signature: str, inputs: Inputs) -> bytes:
    import tensorflow as tf

    log = prediction_log_class()()
    request = log.predict_log.request
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature
    for name, texts in inputs.items():
        tensor = tf.make_tensor_proto(texts, tf.string, [len(texts)])
        request.inputs.add(key=name, value=tensor.SerializeToString())
    return log.SerializeToString()

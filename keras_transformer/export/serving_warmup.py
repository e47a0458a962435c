"""Requests with which TensorFlow Serving warms a version up before it serves it.

The first call of a signature optimizes its graph and sets up its kernels, which takes many times
as long as later calls. Serving makes that call itself if it finds requests in
`assets.extra/tf_serving_warmup_requests`: a TFRecord file of PredictionLog messages.

These messages belong to TensorFlow Serving's API, a package of its own. Only some string and
message fields of four of them are needed, so they are written here:

    PredictionLog   6: PredictLog
    PredictLog      1: PredictRequest
    PredictRequest  1: ModelSpec    2: a map from the input's name to its TensorProto
    ModelSpec       1: the model's name    3: the signature's name
    a map's entry   1: key    2: value
"""

from collections.abc import Iterator
from pathlib import Path

from keras_transformer.translator import Translator

# Tokens of the texts, the end not included: a word, a sentence, a long one.
_LENGTHS = (1, 10, 40)

# Of signatures that take more than a text.
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
    """Writes the file, with several requests for each signature.

    Args:
        version: The folder of the version.
        model_name: The model's name on the server, which is that of the folder above the version.
        signatures: Their names.
        translator: Its tokenizer makes the texts, within its limit on their length.
    """
    import tensorflow as tf

    extra = version / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as file:
        for signature in signatures:
            for inputs in _requests(signature, translator):
                file.write(_prediction_log(model_name, signature, inputs))


def _requests(signature: str, translator: Translator) -> Iterator[Inputs]:
    """Each text alone, then all in one batch."""
    names = _INPUTS.get(signature, ("text",))
    texts = [_text(translator, length) for length in _LENGTHS]
    for batch in (*([text] for text in texts), texts):
        yield dict.fromkeys(names, batch)


def _text(translator: Translator, num_tokens: int) -> str:
    """Sub-words from all over the vocabulary; their meaning does not matter."""
    last = translator.tokenizer.vocabulary_size - 1
    first = min(_FIRST_SUBWORD, last)
    most = min(num_tokens, translator.max_source_tokens - 1)
    step = max((last - first) // num_tokens, 1)
    ids = [first + i * step % (last - first + 1) for i in range(most)]
    # The joined text may be split into more sub-words.
    while ids and len(translator.tokenizer.encode(translator.tokenizer.decode(ids))) > most:
        ids.pop()
    return translator.tokenizer.decode(ids)


def _prediction_log(model_name: str, signature: str, inputs: Inputs) -> bytes:
    import tensorflow as tf

    spec = _field(1, model_name.encode("utf-8")) + _field(3, signature.encode("utf-8"))
    request = _field(1, spec)
    for name, texts in inputs.items():
        tensor = tf.make_tensor_proto(texts, tf.string, [len(texts)]).SerializeToString()
        request += _field(2, _field(1, name.encode("utf-8")) + _field(2, tensor))
    return _field(6, _field(1, request))


def _field(number: int, content: bytes) -> bytes:
    """A string or message field in the wire format of protocol buffers."""
    length_delimited = 2
    return _varint(number << 3 | length_delimited) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth bit says that more follow."""
    lowest, rest = number & 127, number >> 7
    return bytes([lowest | 128]) + _varint(rest) if rest else bytes([lowest])

"""Times an exported version in a process that imports only TensorFlow and TensorFlow Text.

    python -I training/benchmarks/served_speed.py < request.json > answer.json

The request has `version` (its folder), `signature`, `batches` (lists of texts), `repeats`,
`fewest_bytes` (the least length of a translation in UTF-8) and `profile` (a folder, or null). A
repeat translates all batches, one after another. An error is one line on stderr.
"""

import json
import resource
import sys
import time


def answer(request: dict) -> dict:
    """Loads the version, translates all texts once to warm up, then `repeats` times, measured."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the SentencePiece ops

    start = time.perf_counter()
    export = tf.saved_model.load(request["version"])
    load_seconds = time.perf_counter() - start
    if request["signature"] not in export.signatures:
        raise ValueError(
            f"An export must have the signature {request['signature']}. Received:"
            f" {', '.join(export.signatures) or 'no signature'}. Export the model again."
        )
    signature = export.signatures[request["signature"]]
    memory_mib = _memory_mib("VmRSS")

    def translate(batch):
        return signature(text=tf.constant(batch))["translation"].numpy()

    def translate_all():
        for batch in request["batches"]:
            translate(batch)

    first_call_seconds, first = _timed(lambda: translate(request["batches"][0]))
    rest = [translate(batch) for batch in request["batches"][1:]]
    _check(request, [first, *rest])
    seconds = [_timed(translate_all)[0] for _ in range(request["repeats"])]
    peak_memory_mib = _memory_mib("VmHWM")
    if request["profile"]:
        tf.profiler.experimental.start(request["profile"])
        translate_all()
        tf.profiler.experimental.stop()
    return {
        "load_seconds": load_seconds,
        "first_call_seconds": first_call_seconds,
        "seconds": seconds,
        "memory_mib": memory_mib,
        "peak_memory_mib": peak_memory_mib,
    }


def _check(request, translated) -> None:
    """Raises an error unless every text was translated."""
    for batch, translations in zip(request["batches"], translated, strict=True):
        if len(translations) != len(batch):
            raise ValueError(
                f"A batch of {len(batch)} texts must have {len(batch)} translations. Received:"
                f" {len(translations)} translations."
            )
    lengths = [len(translation) for translations in translated for translation in translations]
    if not any(lengths) or min(lengths) < request["fewest_bytes"]:
        raise ValueError(
            f"Each translation must have {request['fewest_bytes']} bytes or more, and not all may"
            f" be blank. Received: {min(lengths)} to {max(lengths)} bytes."
        )


def _timed(call):
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def _memory_mib(field: str) -> int:
    """Returns this process's memory, current (VmRSS) or peak (VmHWM), from Linux' status file.

    Other systems only have `getrusage`. It reports only the peak, and includes the memory of the
    process that started this one.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            [line] = [line for line in status if line.startswith(field + ":")]
        return int(line.split()[1]) // 1024
    except OSError:
        bytes_per_unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit // 2**20


if __name__ == "__main__":
    try:
        result = answer(json.load(sys.stdin))
    except Exception as error:  # TensorFlow raises many kinds of errors, with many lines
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
    json.dump(result, sys.stdout)

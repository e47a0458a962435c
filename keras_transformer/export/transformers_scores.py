"""Scores pairs of token ids with transformers; a script, in a process without TensorFlow.

PyTorch and TensorFlow may crash in one process. Reads {"folder", "pairs"} as JSON from stdin, each
pair being the ids of a source and a target with the end ids, and writes the list of the targets'
log-probabilities as JSON to stdout.
"""

import json
import sys


def log_probabilities(folder: str, pairs: list[tuple[list[int], list[int]]]) -> list[float]:
    """Returns the log-probability of each target, given its source."""
    import torch
    from transformers import MarianMTModel

    model = MarianMTModel.from_pretrained(folder).eval()
    scores = []
    for source, target in pairs:
        begun = [model.config.decoder_start_token_id, *target[:-1]]
        with torch.no_grad():
            outputs = model(
                input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([begun])
            )
        of_tokens = torch.log_softmax(outputs.logits[0].float(), -1)  # (length, vocabulary)
        scores.append(float(of_tokens[range(len(target)), target].sum()))
    return scores


if __name__ == "__main__":
    work = json.load(sys.stdin)
    json.dump(log_probabilities(work["folder"], work["pairs"]), sys.stdout)

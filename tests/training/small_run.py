"""The settings of a training run that takes seconds."""

SMALL = {
    "vocabulary_size": 290,
    "num_layers": 1,
    "model_dim": 12,
    "feed_forward_dim": 17,
    "num_heads": 3,
    "batch_tokens": 256,
    "epochs": 3,
    "warmup_steps": 20,
    "peak_learning_rate": 0.01,
    "average_checkpoints": 2,
    "checkpoint_steps": 2,
    "beam_size": 3,
    "seed": 5,
}


def once(arguments):
    """Keeps the last of repeated options, since commands refuse repeated options."""
    values, name = {}, None
    for argument in arguments:
        if argument.startswith("--"):
            name = argument.partition("=")[0]
            values.pop(name, None)
        values.setdefault(name, []).append(argument)
    return [argument for arguments in values.values() for argument in arguments]

"""Loads the translator of a run."""

from training.command_line.errors import InputError
from training.command_line.running import import_tensorflow
from training.runs.folder import RunFolder
from training.runs.kept_epochs import check_kept, model_of_epoch


def load_translator(
    path: str,
    beam_size: int | None = None,
    length_penalty: float | None = None,
    length_normalization: str | None = None,
    precision: str = "float32",
    epoch: int | None = None,
):
    """Loads the translator of a run.

    Args:
        path: The run's folder.
        beam_size: Overrides the run's setting.
        length_penalty: Overrides the run's setting.
        length_normalization: Overrides the run's setting.
        precision: As for `Translator`.
        epoch: The epoch whose weights to use, even in an unfinished run. None uses the finished
            model.

    Raises:
        InputError: If the folder is not a finished run, the epoch is not kept, or a number is out
            of range.
    """
    run = RunFolder(path)
    settings = run.read_record().settings
    if epoch is None:
        run.check_finished()
    else:
        check_kept(run, settings, [epoch], "--epoch")
        if run.is_finished:
            run.check_unchanged()
    search = {
        "beam_size": settings.beam_size if beam_size is None else beam_size,
        "length_penalty": settings.length_penalty if length_penalty is None else length_penalty,
    }
    check_search(**search)
    import_tensorflow(f"loading {path}")
    import training.baselines  # noqa: F401  registers the classes of these models
    from keras_transformer.translator import Translator

    if epoch is None:
        return Translator.load(
            path, length_normalization=length_normalization, precision=precision, **search
        )
    model, tokenizer = model_of_epoch(run, settings, epoch)
    return Translator(
        model,
        tokenizer,
        length_normalization=length_normalization or settings.length_normalization,
        max_source_tokens=settings.max_source_tokens,
        precision=precision,
        **search,
    )


def check_search(beam_size: int, length_penalty: float) -> None:
    """Refuses numbers out of range; names their options."""
    if beam_size < 1:
        raise InputError(f"--beam-size must be at least 1. Received: {beam_size}. For example: 4.")
    if not 0 <= length_penalty < float("inf"):
        raise InputError(
            f"--length-penalty must be at least 0 and finite. Received: {length_penalty}. For"
            " example: 0.6."
        )

"""Writes a finished run from a model that another program trained."""

import dataclasses
from pathlib import Path

from keras_transformer.config import TransformerConfig
from keras_transformer.marian.foreign_model import ForeignModel
from keras_transformer.marian.import_marian import read_folder
from training.command_line.outputs import check_output_folder
from training.runs.claim import claim
from training.runs.files import replacing
from training.runs.final_weights import save_model
from training.runs.record import RunRecord
from training.settings import TrainingSettings


def import_run(
    folder: str,
    output: str,
    *,
    punctuation: tuple[str | None, str | None] = (None, None),
    overwrite: bool = False,
) -> TransformerConfig:
    """Imports a model into a run folder; returns the model's config.

    Args:
        folder: The model's folder, see `import_marian`.
        output: The run folder to write.
        punctuation: As for `import_marian`.
        overwrite: Whether to replace a run that is there.

    Raises:
        InputError: If the model cannot be imported, or the folder holds something else.
    """
    model, foreign = read_folder(folder, punctuation)
    check_output_folder("the run", output)
    record = RunRecord(_settings_of(foreign), {})
    with claim(Path(output), record, overwrite=overwrite) as run:
        run.write_record(record)
        with replacing(run.tokenizer_path) as temporary:
            foreign.tokenizer.save(temporary)
        run.write_metrics([{"final": True, "epochs": []}])
        save_model(run, model)
        run.write_checksums()
    return foreign.config


def _settings_of(foreign: ForeignModel) -> TrainingSettings:
    """Returns the settings of a run with this model and no text of its own."""
    config = dataclasses.asdict(foreign.config)
    return TrainingSettings(**config, **foreign.search)

"""Defines every setting of a training run and reads them from YAML; options override the file.

Importing it imports neither the library nor Keras, so --help and a mistyped option answer at once.
"""

import dataclasses
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import yaml

from training.command_line.errors import InputError, input_errors
from training.command_line.option_types import StrictLoader, from_yaml
from training.command_line.parser import CommandParser, option_name
from training.command_line.running import import_keras
from training.command_line.wording import closest
from training.runs.files import refuse_pipe

if TYPE_CHECKING:
    from keras_transformer.config import TransformerConfig
    from keras_transformer.data import Corpus

# What a run's config.yaml holds besides settings; ignored if that file is given as --config.
RECORD_KEYS = ("format_version", "package_version", "data_sha256", "asked_for")

DATA_SETTINGS = (
    "train_source",
    "train_target",
    "train_corpora",
    "validation_source",
    "validation_target",
)
# The settings that end a training run; raising one continues it.
LIMITS = ("epochs", "max_minutes", "early_stopping_epochs")

Monitor = Literal["val_perplexity", "val_bleu", "val_chrf"]
# sacreBLEU's other tokenizers download a model on first use.
BleuTokenizer = Literal["13a", "zh", "ja-mecab", "ko-mecab", "intl", "char", "none"]

RECURRENT_MODELS = ("gru", "lstm", "gru_attention", "lstm_attention")
MODELS = ("transformer", *RECURRENT_MODELS, "convolution")

# The settings that only some models read, each with the models that read it.
READERS = {
    **dict.fromkeys(
        "num_decoder_layers source_vocabulary_size feed_forward_dim num_heads head_dim value_dim"
        " activation normalize_first output_bias layer_norm_epsilon".split(),
        ("transformer",),
    ),
    "position_encoding": ("transformer", "convolution"),
    "max_positions": ("transformer", "convolution"),
    "recurrent_dim": RECURRENT_MODELS,
    "kernel_size": ("convolution",),
}

# Copied from the library, which is slow to import; a test compares them.
CORPUS_KEYS = ("source", "target", "weight", "columns")
CONFIG_SETTINGS = (
    "num_layers num_decoder_layers model_dim feed_forward_dim num_heads head_dim value_dim dropout"
    " label_smoothing activation normalize_first position_encoding max_positions max_source_tokens"
    " source_vocabulary_size output_bias layer_norm_epsilon"
).split()
EXTRA_TARGET_TOKENS = 50

MOST_SETTINGS_BYTES = 2**20


def _setting(default, help_text: str, *, minimum=None, above=None, below=None, example=None):
    """Returns a field with its help text, its range and, if the default is None, an example."""
    limits = {"minimum": minimum, "above": above, "below": below, "example": example}
    return dataclasses.field(default=default, metadata={"help": help_text, **limits})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The settings of `python -m training.train`; the default model is the paper's base model.

    Each field is a key of the YAML file and an option of the command line.

    Raises:
        ValueError: If a number is out of range or settings contradict each other.
    """

    train_source: str | list[str] | None = _setting(
        None,
        "Source sentences to train on, one per line: a file, a pattern such as 'part-*.en.gz', or a"
        " list. Files may be compressed (.gz, .bz2, .xz).",
    )
    train_target: str | list[str] | None = _setting(
        None,
        "Translations of train_source, line by line, in the same number of files. Leave it out if"
        " train_source names .tsv files, where each line holds a source, a tab and a translation.",
    )
    train_corpora: list[dict] | None = _setting(
        None,
        "Several texts to train on, instead of train_source and train_target: a list of"
        " {source: ..., target: ..., weight: ..., columns: [1, 2]}; only source is required."
        " Unequal weights need steps_per_epoch.",
    )
    validation_source: str | None = _setting(None, "Source sentences to validate on, one per line.")
    validation_target: str | None = _setting(
        None, "Translations of validation_source, line by line."
    )

    initial_run: str | None = _setting(
        None, "A finished run with the same model, to start from its tokenizer and weights."
    )
    tokenizer: str | None = _setting(
        None, "A tokenizer.model file to use; null uses that of initial_run, or trains a new one."
    )
    tokenizer_pairs: int = _setting(
        500_000, "The most pairs, drawn at random, to train the tokenizer on.", minimum=1
    )
    vocabulary_size: int = _setting(
        37_000,
        "The number of sub-words, shared by both languages, including the four special tokens and"
        " 256 bytes; a small text may yield fewer.",
        minimum=5,
    )
    source_vocabulary_size: int | None = _setting(
        None,
        "The number of sub-words of the source, with a vocabulary and an embedding matrix of its"
        " own; vocabulary_size is then the target's. Null shares one vocabulary. Two vocabularies"
        " suit languages of different scripts.",
        minimum=5,
        example=8000,
    )
    tokenizer_type: Literal["bpe", "unigram"] = _setting(
        "bpe", "The algorithm that finds the sub-words."
    )
    normalization: Literal["none", "nfkc"] = _setting(
        "none",
        "How to normalize text before splitting it into sub-words, in training and translation:"
        " not at all, or to Unicode's NFKC, where composed and decomposed accents are the same. A"
        " given tokenizer, or that of initial_run, keeps its own normalization.",
    )

    user_symbols: list[str] | None = _setting(
        None,
        "A list of texts that a new tokenizer never splits, such as language tags and markup. A"
        " given tokenizer, or that of initial_run, keeps its own.",
    )

    model: Literal[MODELS] = _setting(
        "transformer",
        "The model to train: the Transformer, or a kind of model that it replaced (recurrent,"
        " without or with attention, or convolutional). All use num_layers, model_dim and dropout.",
    )
    num_layers: int = _setting(6, "N: blocks in each of encoder and decoder.", minimum=1)
    num_decoder_layers: int | None = _setting(
        None,
        "Blocks in the decoder, if not num_layers. A deep encoder with a shallow decoder, such as"
        " 12 and 1, translates faster.",
        minimum=1,
        example=1,
    )
    model_dim: int = _setting(512, "d_model: width of the vectors between blocks.", minimum=1)
    feed_forward_dim: int = _setting(
        2048, "d_ff: inner width of the feed-forward networks.", minimum=1
    )
    num_heads: int = _setting(8, "h: attention heads.", minimum=1)
    head_dim: int | None = _setting(
        None, "d_k: width of a head's queries and keys; null: model_dim / num_heads.", minimum=1
    )
    value_dim: int | None = _setting(
        None, "d_v: width of a head's values; null: head_dim.", minimum=1
    )
    dropout: float = _setting(0.1, "P_drop: dropout probability, below 1.", minimum=0, below=1)
    activation: Literal["relu", "gelu", "silu"] = _setting(
        "relu", "Activation function of the feed-forward networks."
    )
    normalize_first: bool = _setting(
        False, "Normalize before each sub-layer; false normalizes after each sum, as in the paper."
    )
    position_encoding: Literal["sinusoidal", "learned", "sinusoidal_marian"] = _setting(
        "sinusoidal",
        "How positions are encoded; recurrent models need no encoding. sinusoidal_marian has the"
        " rates of models that Marian trained.",
    )
    max_positions: int = _setting(
        512, "Longest sequence, in tokens, that learned positions allow.", minimum=1
    )
    output_bias: bool = _setting(False, "Add a learned bias to the logits, as Marian's models do.")
    layer_norm_epsilon: float = _setting(
        1e-6, "Added to the variance in layer normalization.", above=0, below=1
    )
    recurrent_dim: int | None = _setting(
        None,
        "Width of recurrent layers; each direction of the encoder has half. Null: model_dim.",
        minimum=2,
        example=256,
    )
    kernel_size: int = _setting(
        3, "Odd number of positions that a convolutional layer sees at once.", minimum=1
    )
    max_source_tokens: int = _setting(
        256,
        "Longest source in tokens, including the end token; translation cuts longer ones.",
        minimum=1,
    )

    batch_tokens: int = _setting(
        25_000, "Tokens in a batch on each side, including padding.", minimum=1
    )
    max_length: int = _setting(
        256, "Leave out pairs with a side of more tokens than this, with the end token.", minimum=2
    )
    max_length_ratio: float | None = _setting(
        None,
        "Leave out pairs in which one side has more than this many times the tokens of the other;"
        " null sets no limit.",
        above=1,
        example=1.5,
    )
    steps_per_epoch: int | None = _setting(
        None,
        "Stream the training text, which may then be of any size, and count this many batches as"
        " an epoch. Null reads it into memory; an epoch is then one pass over all pairs.",
        minimum=1,
    )
    sampling: float = _setting(
        0.0,
        "Above 0, split a line into sub-words differently each time: for bpe, the probability of"
        " skipping a merge; for unigram, the exponent of a split's probability. 0.1 suits both."
        " Needs steps_per_epoch.",
        minimum=0,
    )
    accumulation_steps: int = _setting(
        1,
        "Compute each batch in this many parts, one after another: the same update with a fraction"
        " of the memory. The displayed loss weights a batch by its rows, rounded up to a multiple"
        " of this number; perplexity and accuracy weight all tokens equally.",
        minimum=1,
    )
    epochs: int = _setting(
        20,
        "Passes over the training pairs, or over steps_per_epoch batches. To train an existing run"
        " further, raise epochs, max_minutes or early_stopping_epochs; the result is the same as if"
        " the higher value had been given from the start.",
        minimum=1,
    )
    max_minutes: float | None = _setting(
        None,
        "The most minutes of training, including validation: no epoch starts that would end later."
        " Null sets no limit.",
        above=0,
    )
    peak_learning_rate: float | None = _setting(
        None,
        "Learning rate after warm-up; null: the paper's, (model_dim * warmup_steps) ** -0.5.",
        above=0,
    )
    warmup_steps: int = _setting(4000, "Updates until the learning rate peaks.", minimum=1)
    adam_beta_1: float = _setting(0.9, "Adam's decay of the mean gradient.", minimum=0, below=1)
    adam_beta_2: float = _setting(
        0.98, "Adam's decay of the mean squared gradient.", minimum=0, below=1
    )
    adam_epsilon: float = _setting(1e-9, "Adam's epsilon.", above=0)
    clip_norm: float | None = _setting(
        None,
        "Scale gradients down if their norm over all weights exceeds this number; null never does,"
        " as in the paper.",
        above=0,
        example=1.0,
    )
    ema_decay: float | None = _setting(
        None,
        "Keep an exponential moving average of the weights with this decay, such as 0.999, and"
        " validate and save the average (best with average_checkpoints 1); null keeps none.",
        above=0,
        below=1,
        example=0.999,
    )
    label_smoothing: float = _setting(
        0.1,
        "epsilon_ls: probability to spread over the whole vocabulary, from 0 to below 1.",
        minimum=0,
        below=1,
    )
    dtype_policy: Literal["float32", "mixed_bfloat16", "mixed_float16"] = _setting(
        "float32", "Number format of the computation; the weights stay float32."
    )
    xla: bool | None = _setting(
        None,
        "Compile the update with XLA, once for each batch shape; null does so on a GPU, where it is"
        " faster, and with JAX.",
    )
    seed: int = _setting(0, "Random seed of weights, dropout and the order of pairs.", minimum=0)
    checkpoint_steps: int | None = _setting(
        1000,
        "Batches between checkpoints within an epoch; with accumulation_steps, parts of batches."
        " Null writes a checkpoint only at the end of each epoch.",
        minimum=1,
    )
    keep_checkpoints: int = _setting(
        2,
        "The number of latest checkpoints to keep for resuming, besides the best epoch and the"
        " epochs that average_checkpoints needs.",
        minimum=1,
    )
    validation_bleu: bool = _setting(
        False,
        "Translate the validation text greedily after each epoch, and log BLEU and chrF.",
    )
    bleu_tokenizer: BleuTokenizer = _setting(
        "13a",
        "How sacreBLEU splits text into words: zh, ja-mecab and ko-mecab for Chinese, Japanese and"
        " Korean (the last two need pip install 'sacrebleu[ja]' or 'sacrebleu[ko]'), char for other"
        " text without spaces, none for text that is already tokenized.",
    )
    monitor: Monitor = _setting(
        "val_perplexity",
        "The measure that ranks epochs; perplexity breaks ties. val_bleu and val_chrf need"
        " validation_bleu.",
    )
    early_stopping_epochs: int | None = _setting(
        None,
        "Stop after this many epochs in a row without improvement; null never stops early.",
        minimum=1,
    )
    average_checkpoints: int = _setting(
        5,
        "The number of epochs whose weights to average at the end, unless the best epoch alone is"
        " better by `monitor`. Last epochs are limited to half of all, rounded up. 1 keeps the best"
        " epoch.",
        minimum=1,
    )
    average_epochs: Literal["last", "best"] = _setting(
        "last", "Whether to average the last epochs or the best ones by `monitor`."
    )

    beam_size: int = _setting(
        4, "Beams of the search; 1 means greedy search.", minimum=1, below=1001
    )
    length_penalty: float = _setting(
        0.6, "alpha: higher values give longer translations.", minimum=0
    )
    length_normalization: Literal["gnmt", "length"] = _setting(
        "gnmt",
        "The base that alpha is the exponent of: the paper's (5 + length) / 6, or the length.",
    )

    def __post_init__(self):
        for name in SETTING_NAMES:
            complaint = _range_complaint(name, getattr(self, name))
            if complaint:
                raise ValueError(complaint)
        if self.position_encoding == "learned" and self.max_length > self.max_positions:
            raise ValueError(
                "max_length must be at most max_positions if positions are learned. Received:"
                f" max_length={self.max_length}, max_positions={self.max_positions}. Choose"
                f" max_positions={self.max_length} or position_encoding=sinusoidal."
            )
        if self.monitor != "val_perplexity" and not self.validation_bleu:
            raise ValueError(
                "monitor must be val_perplexity unless validation_bleu is true. Received:"
                f" monitor={self.monitor}, validation_bleu=false. Choose validation_bleu=true."
            )
        if self.sampling and self.steps_per_epoch is None:
            raise ValueError(
                "sampling needs steps_per_epoch, because the number of batches differs from pass"
                f" to pass. Received: sampling={self.sampling}, steps_per_epoch=null. For example:"
                " steps_per_epoch=1000."
            )
        if self.train_corpora is not None and (self.train_source or self.train_target):
            raise ValueError(
                "train_corpora must be the only text to train on. Received: train_corpora with"
                f" train_source={self.train_source}, train_target={self.train_target}. Put all text"
                " into train_corpora."
            )
        if self.tokenizer is not None and self.initial_run is not None:
            raise ValueError(
                "tokenizer must not be given with initial_run, which has its own. Received:"
                f" tokenizer={self.tokenizer}, initial_run={self.initial_run}. Leave one out."
            )
        self._check_model()

    def _check_model(self) -> None:
        """Refuses settings that the model does not read or cannot be built with."""
        unread = [
            name
            for name, readers in READERS.items()
            if self.model not in readers and getattr(self, name) != FIELDS[name].default
        ]
        if unread:
            values = ", ".join(f"{name}={getattr(self, name)}" for name in unread)
            raise ValueError(
                f"Settings that model={self.model} does not read must keep their defaults."
                f" Received: {values}. Leave {'them' if len(unread) > 1 else 'it'} out."
            )
        is_divided = self.model == "transformer" and self.head_dim is None
        if is_divided and self.model_dim % self.num_heads:
            lower = self.model_dim - self.model_dim % self.num_heads
            near = f"{lower} or {lower + self.num_heads}" if lower else self.num_heads
            raise ValueError(
                "model_dim must be a multiple of num_heads unless head_dim is given. Received:"
                f" model_dim={self.model_dim}, num_heads={self.num_heads}. Choose model_dim={near}."
            )
        if self.model in RECURRENT_MODELS and (self.recurrent_dim or self.model_dim) % 2:
            raise ValueError(
                "recurrent_dim (model_dim if null) must be even, because each direction of the"
                f" encoder has half of it. Received: recurrent_dim={self.recurrent_dim},"
                f" model_dim={self.model_dim}. Choose an even number."
            )
        if self.kernel_size % 2 == 0:
            raise ValueError(
                "kernel_size must be odd, to reach equally far to both sides. Received:"
                f" kernel_size={self.kernel_size}. Choose {self.kernel_size + 1}."
            )
        if self.model in READERS["max_positions"]:
            self._check_positions()

    def _check_positions(self) -> None:
        longest = self.max_source_tokens + EXTRA_TARGET_TOKENS
        if self.position_encoding == "learned" and self.max_positions < longest:
            raise ValueError(
                f"max_positions must be at least max_source_tokens + {EXTRA_TARGET_TOKENS} if"
                " positions are learned, since a translation may be that long. Received:"
                f" max_positions={self.max_positions}, max_source_tokens={self.max_source_tokens}."
                f" Choose max_positions={longest} or a smaller max_source_tokens."
            )
        is_sinusoidal = self.position_encoding != "learned"
        if is_sinusoidal and self.model_dim % 2:
            raise ValueError(
                "model_dim must be even, since sinusoidal positions come in pairs of sine and"
                f" cosine. Received: model_dim={self.model_dim}. Choose"
                f" model_dim={self.model_dim + 1} or position_encoding=learned."
            )
        if self.position_encoding == "sinusoidal_marian" and self.model_dim < 4:
            raise ValueError(
                "model_dim must be at least 4 for position_encoding=sinusoidal_marian. Received:"
                f" model_dim={self.model_dim}. Choose model_dim=4 or more."
            )

    @property
    def decoder_layers(self) -> int:
        """The number of blocks in the decoder."""
        return self.num_decoder_layers or self.num_layers

    def model_config(self, vocabulary_size: int | None = None) -> "TransformerConfig":
        """Returns the Transformer's config, with another `vocabulary_size` if given."""
        from keras_transformer.config import TransformerConfig

        values = {name: getattr(self, name) for name in CONFIG_SETTINGS}
        return TransformerConfig(vocabulary_size=vocabulary_size or self.vocabulary_size, **values)

    @property
    def highest_rate(self) -> float:
        """The learning rate's peak: `peak_learning_rate`, or the paper's."""
        return self.peak_learning_rate or (self.model_dim * self.warmup_steps) ** -0.5

    def corpora(self) -> list["Corpus"]:
        """Returns the texts to train on.

        Raises:
            InputError: If no text is given, or a corpus is invalid.
        """
        self._check_given()
        if self.train_corpora is not None:
            return [_corpus(values) for values in self.train_corpora]
        import_keras()
        from keras_transformer.data import Corpus

        return [Corpus(self.train_source, self.train_target or None)]

    def validation_files(self) -> tuple[str, str]:
        """Returns the source file and the target file to validate on.

        Raises:
            InputError: If these files or the training text are not given.
        """
        self._check_given()
        return self.validation_source, self.validation_target

    def _check_given(self) -> None:
        """Refuses settings that lack a text."""
        needed = ["validation_source", "validation_target"]
        if self.train_corpora is None:
            needed = ["train_source", *([] if self._is_tsv() else ["train_target"]), *needed]
        elif not self.train_corpora:
            needed = ["train_corpora", *needed]
        missing = [option_name(name) for name in needed if not getattr(self, name)]
        if missing:
            raise InputError(
                "Training needs text to train on and text to validate on. Received: no"
                f" {', '.join(missing)}. Give them as options or in the YAML file."
            )

    def _is_tsv(self) -> bool:
        """Whether the files of train_source are .tsv files, which hold both sides."""
        names = [self.train_source] if isinstance(self.train_source, str) else self.train_source
        return bool(names) and all(
            re.search(r"\.tsv(\.gz|\.bz2|\.xz)?$", name, re.IGNORECASE) for name in names
        )


def _corpus(values: dict[str, Any]) -> "Corpus":
    """Converts one item of train_corpora."""
    columns, weight = values.get("columns"), values.get("weight", 1.0)
    if (
        not values.get("source")
        or not {*values} <= {*CORPUS_KEYS}
        or not isinstance(weight, int | float)
        or not isinstance(columns, list | tuple | None)
    ):
        raise InputError(
            "Each of train_corpora must have a source, and may have target, weight (a number) and"
            f" columns (two numbers). Received: {_shown(values)}. For example:"
            " {source: part-*.tsv, weight: 2}."
        )
    import_keras()
    from keras_transformer.data import Corpus

    return Corpus(
        values["source"], values.get("target"), weight, None if columns is None else tuple(columns)
    )


FIELDS = {field.name: field for field in dataclasses.fields(TrainingSettings)}
SETTING_NAMES = tuple(FIELDS)
TYPES = typing.get_type_hints(TrainingSettings)


def make_settings_parser(
    name: str = "train", description: str = "Trains a Transformer."
) -> CommandParser:
    """Returns a parser for `python -m training.NAME` that takes --config and every setting."""
    parser = CommandParser(name, description)
    parser.add_option("config", str | None, None, "YAML file with settings; options override it.")
    for setting, field in FIELDS.items():
        parser.add_option(setting, TYPES[setting], field.default, field.metadata["help"])
    return parser


class FileSettings(dict):
    """The settings that a YAML file gives, by name.

    Args:
        values: The settings.
        places: FILE:LINE of each setting.
    """

    def __init__(self, values: Mapping[str, Any], places: Mapping[str, str]):
        super().__init__(values)
        self.places = places

    def place_of(self, complaint: str, values: Mapping[str, Any]) -> str | None:
        """Returns FILE:LINE of the last setting that a complaint names; None if it names none.

        Args:
            complaint: Names the settings that contradict each other as `name=value`.
            values: The values in use, which may differ from those in the file.
        """
        named = re.findall(r"(\w+)=", complaint)
        lines = [name for name in self if name in named and self[name] == values.get(name)]
        return self.places[lines[-1]] if lines else None


def make_settings(values: Mapping[str, Any], file: FileSettings | None = None) -> TrainingSettings:
    """Makes settings from typed values; reports a contradiction as the user's error.

    Args:
        values: Values by setting name; missing settings keep their defaults.
        file: The settings file that some of the values come from.

    Raises:
        InputError: If `TrainingSettings` raises ValueError. Names the line of the file if a
            setting in the file is involved.
    """
    try:
        return TrainingSettings(**values)
    except ValueError as error:
        place = file and file.place_of(str(error), values)
        raise InputError(f"{place}: {error}" if place else str(error)) from error


def read_settings_file(path: str | Path) -> FileSettings:
    """Reads the settings in a YAML file and checks them one by one.

    Raises:
        InputError: If the file is missing or not a YAML mapping, or a setting is unknown, given
            twice, of the wrong type or out of range. Names the file and the line.
    """
    values, places = {}, {}
    for name, (value, line, lines_of_items) in read_yaml_mapping(path).items():
        where = f"{path}:{line}"
        if name in RECORD_KEYS:
            continue
        if name not in FIELDS:
            close = closest(name[:80], SETTING_NAMES)
            advice = "`python -m training.train --help` lists the settings."
            raise InputError(
                f"{where}: every key must be a setting. Received: {name[:80]}."
                f" {f'Did you mean {close}?' if close else advice}"
            )
        values[name], places[name] = convert_value(name, value, where), where
        if name == "train_corpora" and value is not None:
            _check_corpora(value, [f"{path}:{line}" for line in lines_of_items])
    return FileSettings(values, places)


def _check_corpora(corpora: list[dict], places: list[str]) -> None:
    for values, place in zip(corpora, places, strict=True):
        try:
            _corpus(values)
        except input_errors() as error:
            raise InputError(f"{place}: {error}") from error


class YamlEntry(NamedTuple):
    """The value of a top-level key of a YAML file.

    Attributes:
        value: The value, of plain YAML types.
        line: The line of the key, counted from 1.
        lines_of_items: The line of each item, if the value is a list.
    """

    value: Any
    line: int
    lines_of_items: tuple[int, ...]


def read_yaml_mapping(path: str | Path) -> dict[str, YamlEntry]:
    """Reads the top-level keys of a YAML file; constructs only plain YAML types.

    Raises:
        InputError: If the file is missing, unreadable, a pipe or not a mapping, or gives a key
            twice.
    """
    refuse_pipe(path)
    try:
        loader = StrictLoader(_text_of(path))
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise InputError(
                f"{path}: a settings file must hold `name: value` lines. Received: something else."
                " See training/configs for examples."
            )
        mapping = {}
        for key_node, value_node in root.value:
            key, line = str(loader.construct_object(key_node)), key_node.start_mark.line + 1
            if key in mapping:
                raise InputError(
                    f"{path}:{line}: a setting must be given once. Received: {key[:80]} again,"
                    f" first on line {mapping[key].line}. Remove one."
                )
            items = value_node.value if isinstance(value_node, yaml.SequenceNode) else ()
            lines_of_items = tuple(item.start_mark.line + 1 for item in items)
            value = loader.construct_object(value_node, deep=True)
            mapping[key] = YamlEntry(value, line, lines_of_items)
        return mapping
    except OSError as error:
        raise InputError(
            f"{path}: the settings file must be readable. Received: {error.strerror}. Check the"
            " path."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(
            f"{path}{f':{mark.line + 1}' if mark else ''}: the settings file must be plain YAML in"
            f" UTF-8. Received: {problem}. Correct the line."
        ) from error


def _text_of(path: str | Path) -> str:
    with open(path, "rb") as file:
        content = file.read(MOST_SETTINGS_BYTES + 1)
    if len(content) > MOST_SETTINGS_BYTES:
        raise InputError(
            f"{path}: a settings file must have at most {MOST_SETTINGS_BYTES:,} bytes. Received: a"
            " larger file. Check the path."
        )
    return content.decode("utf-8-sig")


def convert_value(name: str, value, where: str):
    """Converts a value to the type of the setting `name`.

    Raises:
        InputError: If the value has the wrong type or is out of range. Begins with `where`.
    """
    try:
        converted = from_yaml(value, TYPES[name])
    except ValueError as error:
        raise InputError(
            f"{where}: {name} {error}. Received: {name}={_shown(value)}. Correct the line."
        ) from error
    complaint = _range_complaint(name, converted)
    if complaint:
        raise InputError(f"{where}: {complaint}")
    return converted


def _shown(value) -> str:
    """Writes a value for an error message, which stays a line."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _range_complaint(name: str, value) -> str | None:
    """Returns an error message if the value is out of range, else None."""
    limits = FIELDS[name].metadata
    if value is None or isinstance(value, bool | str | list):
        return None
    if limits["minimum"] is not None and not value >= limits["minimum"]:
        rule = f"at least {limits['minimum']}"
    elif limits["above"] is not None and not value > limits["above"]:
        rule = f"above {limits['above']}"
    elif limits["below"] is not None and not value < limits["below"]:
        rule = f"below {limits['below']}"
    elif value in (float("inf"), float("-inf")):
        rule = "finite"
    else:
        return None
    examples = (FIELDS[name].default, limits["example"], 1)
    example = next(value for value in examples if value is not None)
    return f"{name} must be {rule}. Received: {name}={value}. For example: {example}."

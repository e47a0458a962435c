"""The Transformer of "Attention Is All You Need" as a Keras package, from text to text.

Importing the package needs only Keras; TensorFlow and TensorFlow Text are imported when text is
first converted to tensors.
"""

from keras_transformer.averaging import average_weights, averaged_variables
from keras_transformer.callbacks import AveragedWeights, GradientNorm, TokensPerSecond
from keras_transformer.config import TransformerConfig
from keras_transformer.data import Corpus, PairBatches, PairStream, pair_batches, sample_pairs
from keras_transformer.decoding.steps import decoding_steps
from keras_transformer.errors import InputError
from keras_transformer.export.ctranslate2 import export_ctranslate2
from keras_transformer.export.hugging_face import export_hugging_face
from keras_transformer.export.saved_model import export_saved_model
from keras_transformer.export.verification import verify_saved_model
from keras_transformer.layers.attention import (
    MultiHeadCrossAttention,
    MultiHeadSelfAttention,
    scaled_dot_product_attention,
)
from keras_transformer.layers.decoder import DecoderBlock
from keras_transformer.layers.embedding import PositionalEmbedding
from keras_transformer.layers.encoder import EncoderBlock
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.residual import AddAndNorm
from keras_transformer.losses import LabelSmoothedCrossentropy
from keras_transformer.marian.import_marian import import_marian
from keras_transformer.masks import causal_mask, padding_mask
from keras_transformer.metrics import Perplexity, TokenAccuracy
from keras_transformer.model import (
    AttentionOfLayers,
    Transformer,
    attention_of_layers,
    build_transformer,
    cross_attention_weights,
    has_cross_attention,
)
from keras_transformer.optimizers import Adam, paper_adam
from keras_transformer.schedules import InverseSquareRootSchedule
from keras_transformer.search.beam import beam_search
from keras_transformer.search.greedy import greedy_search
from keras_transformer.search.hypotheses import Hypotheses
from keras_transformer.search.state import DecodingState
from keras_transformer.text.marian_tokenizer import MarianTokenizer
from keras_transformer.text.subword_tokenizer import SubwordTokenizer
from keras_transformer.text.tokenizer_pair import TokenizerPair, load_tokenizer
from keras_transformer.translator import AttentionByLayer, AttentionWeights, Translator

__version__ = "0.1.0"

__all__ = [
    "Adam",
    "AddAndNorm",
    "AttentionByLayer",
    "AttentionOfLayers",
    "AttentionWeights",
    "AveragedWeights",
    "Corpus",
    "DecoderBlock",
    "DecodingState",
    "EncoderBlock",
    "FeedForward",
    "GradientNorm",
    "Hypotheses",
    "InputError",
    "InverseSquareRootSchedule",
    "LabelSmoothedCrossentropy",
    "MarianTokenizer",
    "MultiHeadCrossAttention",
    "MultiHeadSelfAttention",
    "PairBatches",
    "PairStream",
    "Perplexity",
    "PositionalEmbedding",
    "SubwordTokenizer",
    "TokenAccuracy",
    "TokenizerPair",
    "TokensPerSecond",
    "Transformer",
    "TransformerConfig",
    "Translator",
    "attention_of_layers",
    "average_weights",
    "averaged_variables",
    "beam_search",
    "build_transformer",
    "causal_mask",
    "cross_attention_weights",
    "decoding_steps",
    "export_ctranslate2",
    "export_hugging_face",
    "export_saved_model",
    "greedy_search",
    "has_cross_attention",
    "import_marian",
    "load_tokenizer",
    "padding_mask",
    "pair_batches",
    "paper_adam",
    "sample_pairs",
    "scaled_dot_product_attention",
    "verify_saved_model",
]

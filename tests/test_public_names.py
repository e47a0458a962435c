"""The public interface: its names, and what works after importing only the package."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import keras_transformer as kt
from tests.random_models import numbers, random_transformer, small_config

ROOT = Path(__file__).parent.parent

# Code outside the project uses these names: more may be added, none may be removed or renamed.
PUBLIC_NAMES = """
    Adam AddAndNorm AttentionByLayer AttentionOfLayers AttentionWeights AveragedWeights Corpus
    DecoderBlock DecodingState EncoderBlock FeedForward GradientNorm Hypotheses InputError
    InverseSquareRootSchedule LabelSmoothedCrossentropy MarianTokenizer MultiHeadCrossAttention
    MultiHeadSelfAttention PairBatches PairStream Perplexity PositionalEmbedding SubwordTokenizer
    TokenAccuracy TokenizerPair TokensPerSecond Transformer TransformerConfig Translator
    attention_of_layers average_weights averaged_variables beam_search build_transformer causal_mask
    cross_attention_weights decoding_steps export_ctranslate2 export_hugging_face export_saved_model
    greedy_search has_cross_attention import_marian load_tokenizer padding_mask pair_batches
    paper_adam sample_pairs scaled_dot_product_attention verify_saved_model
""".split()

IMPORT_THE_PACKAGE_ALONE = """
import json, sys
import keras_transformer
import keras
import numpy as np

registered = [name for name in keras.saving.get_custom_objects() if ">" in name]
model = keras.models.load_model(sys.argv[1])
ids = {"source_ids": np.array([[5, 7, 3]]), "target_ids": np.array([[2, 9]])}
logits = keras.ops.convert_to_numpy(model(ids))
print(json.dumps({"registered": registered, "logits": logits.tolist()}))
"""


def test_the_public_names_are_these():
    assert sorted(kt.__all__) == PUBLIC_NAMES
    for name in PUBLIC_NAMES:
        assert callable(getattr(kt, name)), name


def registered_in_the_sources():
    """Returns the names under which the package's decorators register classes."""
    for path in (ROOT / "keras_transformer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            decorators = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
            if any("register_keras_serializable" in decorator for decorator in decorators):
                yield f"keras_transformer>{node.name}"


def test_importing_the_package_alone_registers_every_class_and_opens_a_saved_model(tmp_path):
    model = random_transformer(small_config())
    model.save(tmp_path / "model.keras")
    process = subprocess.run(
        [sys.executable, "-c", IMPORT_THE_PACKAGE_ALONE, str(tmp_path / "model.keras")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert sorted(found["registered"]) == sorted(registered_in_the_sources())
    expected = model({"source_ids": np.array([[5, 7, 3]]), "target_ids": np.array([[2, 9]])})
    np.testing.assert_allclose(found["logits"], numbers(expected), rtol=1e-5)

"""The names that Hugging Face gives to the tensors of a Marian model."""

import re

from keras_transformer.marian.parts import LOGIT_BIAS

EMBEDDING, BIAS = "model.shared.weight", "final_logits_bias"
POSITIONS = {stack: f"model.{stack}.embed_positions.weight" for stack in ("encoder", "decoder")}
# Copies of the embedding, which some files hold.
COPIES = (
    "model.encoder.embed_tokens.weight",
    "model.decoder.embed_tokens.weight",
    "lm_head.weight",
)

_ATTENTIONS = {"self": "self_attn", "context": "encoder_attn"}
_KINDS = {"W": "weight", "b": "bias", "scale": "weight", "bias": "bias"}
_PROJECTION = re.compile(r"(encoder|decoder)_l(\d+)_(self|context)_([Wb])([qkvo])")
_NORMALIZATION = re.compile(
    r"(encoder|decoder)_l(\d+)_(self_Wo|context_Wo|ffn_ffn)_ln_(scale|bias)"
)
_FEED_FORWARD = re.compile(r"(encoder|decoder)_l(\d+)_ffn_([Wb])([12])")


def hugging_face_name(name: str) -> str:
    """Returns Hugging Face's name for a tensor that has this name in Marian."""
    if name in ("Wemb", LOGIT_BIAS):
        return EMBEDDING if name == "Wemb" else BIAS
    if match := _PROJECTION.fullmatch(name):
        stack, number, attention, kind, letter = match.groups()
        part = f"{_ATTENTIONS[attention]}.{'out' if letter == 'o' else letter}_proj"
    elif match := _FEED_FORWARD.fullmatch(name):
        stack, number, kind, layer = match.groups()
        part = f"fc{layer}"
    elif match := _NORMALIZATION.fullmatch(name):
        stack, number, layer, kind = match.groups()
        attention = layer.removesuffix("_Wo")
        part = f"{_ATTENTIONS.get(attention, 'final')}_layer_norm"
    else:
        raise KeyError(name)  # pre-norm's, for example, which Hugging Face does not have
    return f"model.{stack}.layers.{int(number) - 1}.{part}.{_KINDS[kind]}"


def is_transposed(name: str) -> bool:
    """Whether the tensor of this name in Marian is a kernel, which Hugging Face transposes."""
    return bool(re.search(r"_W[qkvo12]$", name))

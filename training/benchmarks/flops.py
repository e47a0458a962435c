"""Counts floating-point operations of the model's matrix products, 2 for each multiply-add."""


def forward_flops(config, batch: int, source_length: int, target_length: int) -> int:
    """Returns the operations of one forward pass over whole sentences.

    Training takes three times as many: each product needs two more in the backward pass.
    """
    heads_dim = _keys_and_values_dim(config)

    def attention(query_length, key_length):
        queries_and_output = query_length * config.model_dim * heads_dim
        keys_and_values = key_length * config.model_dim * heads_dim
        scores_and_sums = query_length * key_length * heads_dim
        return queries_and_output + keys_and_values + scores_and_sums

    def feed_forward(length):
        return 2 * length * config.model_dim * config.feed_forward_dim

    encoder = attention(source_length, source_length) + feed_forward(source_length)
    decoder = (
        attention(target_length, target_length)
        + attention(target_length, source_length)
        + feed_forward(target_length)
    )
    logits = target_length * config.model_dim * config.vocabulary_size
    layers = config.num_layers * encoder + config.decoder_layers * decoder
    return 2 * batch * (layers + logits)


def decoding_flops(config, batch: int, beam_size: int, source_length: int, length: int) -> int:
    """Returns the operations of a cached search whose translations all have `length` tokens.

    The encoder and the decoder's keys and values of its output are computed once per sentence;
    everything else once per beam and position, with attention to the positions so far.
    """
    heads_dim = _keys_and_values_dim(config)
    once = forward_flops(config, batch, source_length, target_length=0)
    positions_seen = length * (length + 1) // 2
    self_attention = (2 * length * config.model_dim + positions_seen) * heads_dim
    cross_attention = length * (config.model_dim + source_length) * heads_dim
    feed_forward = 2 * length * config.model_dim * config.feed_forward_dim
    logits = length * config.model_dim * config.vocabulary_size
    decoder = config.decoder_layers * (self_attention + cross_attention + feed_forward) + logits
    return once + 2 * batch * beam_size * decoder


def _keys_and_values_dim(config) -> int:
    """Returns the width of all heads' keys plus the width of their values."""
    head_dim = config.head_dim or config.model_dim // config.num_heads
    return config.num_heads * (head_dim + (config.value_dim or head_dim))

"""Types whose configurations cannot be shrunk by the meaning of their fields, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_INDEXER: Final = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}

EXCEPTIONS: Final[dict[str, dict[str, Any]]] = {
    # the kinds of layers are written as a product
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    # positions are the product of two shapes, and sequences whole chunks
    "reformer": {
        "axial_pos_shape": [4, 4],
        "axial_pos_embds_dim": [16, 48],
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 4,
    },
    # the two widths of four corners, a height and a width must make up the hidden width
    "layoutlmv3": {"coordinate_size": 8, "shape_size": 16},
    # the hidden width must be a multiple of six, and of four times the heads
    "lilt": {"hidden_size": 96, "intermediate_size": 160},
    # shorter sequences turn the block-sparse attention into an ordinary one
    "big_bird": {"block_size": 1},
    "bigbird_pegasus": {"block_size": 1},
    # a stage needs more layers than there are stages before it
    "cvt": {"depth": [1, 2, 3]},
    # of smaller images the last stage would see one patch, a single key
    "mobilevit": {"image_size": 128},
    # there is an adapter for each language, and none by default
    "xmod": {"default_language": "en_XX"},
    # the default configuration has no rotary positions for its layers
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}
    },
    # the default configuration does not say which layers are convolutions
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "num_hidden_layers": 4,
        "num_dense_layers": 2,
    },
    # the default configurations have layers of one kind only
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    # two periods, which must not coincide: attention comes with dense layers
    "jamba": {
        "num_hidden_layers": 4,
        "attn_layer_period": 4,
        "attn_layer_offset": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    # the state-space width is that of its heads together
    "falcon_h1": {"mamba_d_ssm": 64},
    # one block is shared by all hybrid layers, so there must be more than one
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4},
    # the default configuration has no sizes for the index of its sparse attention
    "qwen4_exp_text": _INDEXER,
    # the width of a head is a sum in some layers only
    "dots3_note_text": {"head_dim": 24},
    # the attention part lacks a base for its rotary positions and a bound
    "dbrx": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}},
}
"""Fields that are given instead of being shrunk, by type."""

LENGTHS: Final[dict[str, dict[str, int]]] = {
    # the labels are not shifted, and the decoder reads the source where it is given no input
    "fsmt": {"targets": 16},
}
"""Lengths of sequences, where the usual ones do not fit."""


STATES: Final[dict[str, str]] = {
    "whisper": "encoder_outputs",
    "trocr": "encoder_hidden_states",
    "mllama": "cross_attention_states",
    "musicgen": "encoder_hidden_states",
}
"""Argument of decoders whose cross-attention runs only where somebody else's states are given."""


def _encoder_decoder() -> PretrainedConfig:
    from transformers import BertConfig, EncoderDecoderConfig

    from model_tables.shrink import shrink

    encoder = shrink(BertConfig())
    decoder = shrink(BertConfig(), is_decoder=True, add_cross_attention=True)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    return config


COMPOSITES: Final[dict[str, Callable[[], PretrainedConfig]]] = {"encoder-decoder": _encoder_decoder}
"""Types that have no sizes of their own, but are put together from others."""

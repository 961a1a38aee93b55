"""A small value for each field of a configuration, by the meaning of its name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

HIDDEN: Final = 64
HEADS: Final = 4
HEAD: Final = HIDDEN // HEADS
FEED_FORWARD: Final = 88
"""Neither it nor its double is a multiple of the hidden width, which queries, keys and values have
together, so that no two layers have one shape by chance."""
VOCABULARY: Final = 128
POSITIONS: Final = 64
WINDOW: Final = 8
IMAGE: Final = 64
"""Pixels along a side."""

Rule = Callable[[int, dict[str, Any]], int]


def _vocabulary(old: int, fields: dict[str, Any]) -> int:
    return VOCABULARY


def _heads(old: int, fields: dict[str, Any]) -> int:
    """Return the number of heads, twice as many where a state-space model is twice as wide."""
    head, hidden = fields.get("head_dim"), fields.get("hidden_size")
    is_wide = "expand" in fields and hidden is not None and old * (head or 0) == 2 * hidden
    return 2 * HEADS if is_wide else min(old, HEADS)


def _key_value_heads(old: int, fields: dict[str, Any]) -> int:
    names = ("num_attention_heads", "n_heads", "n_head", "swa_num_attention_heads")
    heads = next((fields[name] for name in names if isinstance(fields.get(name), int)), None)
    return HEADS if old == heads else min(old, HEADS // 2)


def _head(old: int, fields: dict[str, Any]) -> int:
    """Return the width of a head, which with latent attention is a sum or a part of two."""
    turned, still = fields.get("qk_rope_head_dim"), fields.get("qk_nope_head_dim")
    if old == turned:
        return HEAD // 2
    return HEAD + HEAD // 2 if turned and still and old == turned + still else min(old, HEAD)


def _kernel(old: int, fields: dict[str, Any]) -> int:
    """Return an odd width of a convolution for an odd one."""
    return min(old, 3 if old % 2 else 4)


def _stage(old: int, fields: dict[str, Any]) -> int:
    """Return a width that is doubled from stage to stage, or else one that is not."""
    is_doubled = isinstance(fields.get("depths"), list | tuple)
    return min(old, 16) if is_doubled else _multiple_of_hidden(old, fields)


def _multiple_of_hidden(old: int, fields: dict[str, Any]) -> int:
    """Return the same multiple of the hidden width as before, or a small width of its own."""
    hidden = next((v for n in _HIDDEN_NAMES if isinstance(v := fields.get(n), int)), 0)
    return HIDDEN * (old // hidden) if hidden and old % hidden == 0 else min(old, 32)


_HIDDEN_NAMES: Final = ("hidden_size", "d_model", "n_embd", "dim", "hidden_dim", "emb_dim")

_RULES: Final[tuple[tuple[int | Rule, str], ...]] = (
    # vocabularies
    (4, "type_vocab_size|type_sequence_label_size|task_type_vocab_size"),
    (
        _vocabulary,
        r"(\w+_)?vocab_size(_per_layer_input)?|codebook_size|encoder_hash_byte_group_vocab"
        r"|\w+_vocab_size_base",
    ),
    # heads and the widths inside attention
    (2, r"(linear|gdn|kda)_num_key_heads|num_query_groups|(index|indexer)_n_heads|n_index_heads"),
    (8, r"mamba_(n|num)_heads|n_mamba_heads"),
    (_key_value_heads, r"(\w+_)?(num_key_value_heads|kv_n_heads|num_kv_heads|n_kv_heads)"),
    (_heads, "num_heads"),
    (HEADS, r"(\w+_)?heads|n_heads?|(\w+_)?num(_\w+)?_heads"),
    (lambda old, fields: HEAD // 2, "qk_rope_head_dim"),
    (lambda old, fields: HEAD + HEAD // 2, "qk_head_dim"),
    (_head, "head_dim"),
    (
        HEAD,
        r"(\w+_)?head_dim(_\w+)?|d_kv|d_head|dim_head|kv_channels|\w+_d_head|attention_head_size"
        r"|mamba_headdim",
    ),
    (HEAD // 2, "rotary_dim"),
    (24, r"(\w+_)?lora_rank|\w+_rank|hc_lowrank|(\w+_)?dt_rank"),
    # feed-forward widths, which differ from each other and from the hidden width
    (40, "moe_(shared_expert_)?intermediate_size|expert_ffn_hidden_size"),
    (48, "shared_(expert_|experts_)?intermediate_size"),
    (
        FEED_FORWARD,
        r"(\w+_)?intermediate_size(_\w+)?|(\w+_)?ffn_dim|ffn_hidden_size|d_ff|dff|dim_ff|d_inner"
        r"|n_inner|feed_forward_size|mlp_dim|inner_dim",
    ),
    # hidden widths
    (
        HIDDEN,
        r"(\w+_)?hidden_size(_global)?|d_model|n_embd|emb_dim|dim|hidden_dim|lru_width|d_latents"
        r"|adapter_(in|out)_dim|(\w+_)?projection_dim|projection_size",
    ),
    # state-space models, latent arrays and convolutions
    (16, r"(\w+_)?(state_size|d_state)|num_latents"),
    (2, r"(\w+_)?n_?groups|num_groups|mamba_ngroups|num_self_attends_per_block"),
    (4, "num_filters"),
    (_kernel, r"\w*kernel_size"),
    # experts
    (4, r"(\w+_)?num_(local_)?experts|n_routed_experts|zero_expert_num"),
    (2, "num_experts_per_tok(en)?|moe_topk|moe_top_k|moe_k|top_k|n_group|num_expert_group"),
    (1, "topk_group|n_shared_experts|num_shared_experts"),
    # lengths
    (
        POSITIONS,
        r"(\w+_)?position_embeddings|n_positions|n_ctx|(\w+_)?max_seq_len(gth)?|model_max_length"
        r"|context_length|max_(source|target)_positions|max_\w*position\w*",
    ),
    (
        WINDOW,
        r"(\w+_)?sliding_window(_size)?|local_attention(_window_len)?|attention_chunk_size"
        r"|attention_window(_size)?|rel_extent|keep_window_size|mem_len|index_topk"
        r"|(mamba_)?chunk_size|block_size|index_block_size",
    ),
    (WINDOW // 4, "window_size"),
    (IMAGE, "image_size|input_size"),
    (8, "patch_size"),
    # whatever else is wide
    (_stage, "embed_dim"),
    (_multiple_of_hidden, r"(?!\w*_(chunk|step|hop)_size)\w+_(size|dim|width|channels|hidden)"),
)
"""The largest value, or a function of the old one and all fields, and the names that it is for."""

_TOKEN: Final = re.compile(r"\w+_token(s)?(_id|_index)(s)?|\w+_id|(pad|bos|eos|unk|mask)_index")


def smaller(name: str, value: Any, fields: dict[str, Any]) -> Any:
    """Return a small value for a field, or the value itself where its name says no size.

    Args:
        name: the field's name.
        value: its value.
        fields: all fields of the same configuration, as they were before.
    """
    if isinstance(value, bool) or value is None:
        return value
    if is_token(name):
        return token_id(name, value)
    if isinstance(value, list | tuple):
        return _smaller_list(name, value, fields)
    if not isinstance(value, int):
        return value
    rule = next((rule for rule, names in _RULES if re.fullmatch(names, name)), value)
    return min(value, rule) if isinstance(rule, int) else rule(value, fields)


def is_token(name: str) -> bool:
    """Whether a field holds the id of a token."""
    return _TOKEN.fullmatch(name) is not None


def token_id(name: str, value: Any) -> Any:
    """Return an id within the small vocabulary, another one for each name."""
    if isinstance(value, list | tuple):
        return type(value)(token_id(f"{name}{index}", entry) for index, entry in enumerate(value))
    if not isinstance(value, int) or value < VOCABULARY:
        return value
    return VOCABULARY - 1 - sum(name.encode()) % 24


def _smaller_list(name: str, value: Any, fields: dict[str, Any]) -> Any:
    """Shrink a list with one width, number of heads or depth for each stage of a model."""
    if not value or not all(
        isinstance(entry, int) and not isinstance(entry, bool) for entry in value
    ):
        return value
    if re.fullmatch(r"image_size|input_size|intermediate_size", name):
        return type(value)(smaller(name, entry, fields) for entry in value)
    if re.fullmatch(r"depths?|\w*num_block\w*|num_layers|block_sizes", name):
        return type(value)(min(entry, 2) for entry in value)
    if re.fullmatch(r"\w*heads", name):
        return type(value)(min(entry, 2) for entry in value)
    if re.fullmatch(r"\w*(sizes|dims?|channels|dim)", name) and max(value) > 128:
        ranks = sorted(set(value))
        return type(value)(16 * (1 + ranks.index(entry)) for entry in value)
    return value

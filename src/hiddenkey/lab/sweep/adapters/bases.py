"""Tiny random models that adapters are tried on, and a batch for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

BASES = ("llama", "bert", "gpt2")
LINEARS = {
    "llama": r".*\.(q_proj|k_proj|v_proj|down_proj)",
    "bert": r".*\.layer\.\d+\.(attention\.self\.(query|key|value)|output\.dense)",
    "gpt2": r".*\.(c_attn|mlp\.c_proj)",
}
"""Projections inside attention, and the dense layer whose output HiddenKey drops."""
EMBEDDINGS = {"llama": "embed_tokens", "bert": "word_embeddings", "gpt2": "wte"}
LAYERS = 2
_VOCABULARY, _HEADS, _SEQUENCES, _TOKENS = 60, 4, 4, 9


def is_causal(base: str) -> bool:
    """Whether a base is a language model; the others classify sequences."""
    return base != "bert"


def tiny_model(base: str, width: int = 32) -> Any:
    """Build a model of two layers, whose weights are the same each time.

    Args:
        base: one of :data:`BASES`.
        width: of its hidden states.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto = AutoModelForCausalLM if is_causal(base) else AutoModelForSequenceClassification
    with seeded(0):
        return auto.from_config(_config(base, width), attn_implementation="sdpa").train()


def tiny_batch(base: str) -> dict[str, Tensor]:
    """Draw a batch without padding, ``[4, 9]`` tokens, with labels for the base's task."""
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(3, _VOCABULARY, (_SEQUENCES, _TOKENS), generator=draws)
    labels = ids.clone() if is_causal(base) else torch.arange(_SEQUENCES) % 3
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch inside, and give the generator's state back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _config(base: str, width: int) -> Any:
    import transformers

    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    # weights wide enough for noise to be felt, and no cache, which X-LoRA and Poly refuse
    common = {"vocab_size": _VOCABULARY, "initializer_range": 0.2, "use_cache": False, **tokens}
    if base == "gpt2":
        sizes = {"n_embd": width, "n_head": _HEADS, "n_layer": LAYERS, "n_positions": 48}
        return transformers.GPT2Config(**common, **sizes)
    common |= {"hidden_size": width, "num_hidden_layers": LAYERS, "intermediate_size": 2 * width}
    common |= {"num_attention_heads": _HEADS, "max_position_embeddings": 48}
    if base == "llama":
        return transformers.LlamaConfig(**common, num_key_value_heads=2)
    return transformers.BertConfig(**common, num_labels=3)

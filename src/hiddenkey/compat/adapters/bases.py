"""Tiny random models that adapters are tried on, and a batch for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

TASKS = {"llama": "CAUSAL_LM", "bert": "SEQ_CLS", "gpt2": "CAUSAL_LM", "bart": "SEQ_2_SEQ_LM"}
"""PEFT's name of the task that each base is built for."""
LINEARS = {
    "llama": r".*\.(q_proj|k_proj|v_proj|down_proj)",
    "bert": r".*\.layer\.\d+\.(attention\.self\.(query|key|value)|output\.dense)",
    "gpt2": r".*\.(c_attn|mlp\.c_proj)",
    "bart": r".*\.(q_proj|k_proj|v_proj|fc2)",
}
"""Projections inside attention, and the dense layer whose output HiddenKey drops."""
EMBEDDINGS = {"llama": "embed_tokens", "bert": "word_embeddings", "gpt2": "wte", "bart": "shared"}
PLACES = {"llama": 4, "bert": 4, "gpt2": 4, "bart": 10}
"""Attention and feed-forward blocks of two layers; of two encoder and two decoder layers."""
_LAYERS, _VOCABULARY, _HEADS, _SEQUENCES, _TOKENS = 2, 60, 4, 4, 9


def tiny_model(base: str, width: int = 32) -> Any:
    """Build a model of two layers, whose weights are the same each time.

    Args:
        base: a key of :data:`TASKS`.
        width: of its hidden states.
    """
    with seeded(0):
        config = _config(base, width)
        return auto_class(base).from_config(config, attn_implementation="sdpa").train()


def auto_class(base: str) -> Any:
    """Return transformers' class for a base's task."""
    import transformers

    names = {
        "CAUSAL_LM": "AutoModelForCausalLM",
        "SEQ_CLS": "AutoModelForSequenceClassification",
        "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    }
    return getattr(transformers, names[TASKS[base]])


def tiny_batch(base: str) -> dict[str, Tensor]:
    """Draw a batch without padding, ``[4, 9]`` tokens, with labels for the base's task."""
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(3, _VOCABULARY, (_SEQUENCES, _TOKENS), generator=draws)
    labels = torch.arange(_SEQUENCES) % 3 if TASKS[base] == "SEQ_CLS" else ids.clone()
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    if TASKS[base] == "SEQ_2_SEQ_LM":
        batch["decoder_input_ids"] = torch.nn.functional.pad(ids[:, :-1], (1, 0))
    return batch


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
    if base == "bart":
        sizes: dict[str, Any] = {
            "d_model": width,
            "max_position_embeddings": 48,
            "decoder_start_token_id": 0,
        }
        sizes["dropout"] = 0.0  # numbers of its modules, which would pass for the adapter's draws
        for half in ("encoder", "decoder"):
            sizes |= {f"{half}_layers": _LAYERS, f"{half}_attention_heads": _HEADS}
            sizes |= {f"{half}_ffn_dim": 2 * width}
        return transformers.BartConfig(**common, init_std=0.2, **sizes)
    if base == "gpt2":
        sizes = {"n_embd": width, "n_head": _HEADS, "n_layer": _LAYERS, "n_positions": 48}
        return transformers.GPT2Config(**common, **sizes)
    common |= {"hidden_size": width, "num_hidden_layers": _LAYERS, "intermediate_size": 2 * width}
    common |= {"num_attention_heads": _HEADS, "max_position_embeddings": 48}
    if base == "llama":
        return transformers.LlamaConfig(**common, num_key_value_heads=2)
    return transformers.BertConfig(**common, num_labels=3)

"""The tiny models that adapters are tried on, and a batch for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import tiny_models as tiny

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
_SEQUENCES, _TOKENS = 4, 9


def tiny_model(base: str, width: int = 32) -> Any:
    """Build a model of two layers, whose weights are the same each time.

    Args:
        base: a key of :data:`TASKS`.
        width: of its hidden states.
    """
    with seeded(0):  # without a cache, which X-LoRA and Poly refuse
        return tiny.tiny_model(base, TASKS[base], width=width, attention="sdpa", use_cache=False)


def tiny_batch(base: str) -> dict[str, Tensor]:
    """Draw a batch without padding, ``[4, 9]`` tokens, with labels for the base's task."""
    draws = torch.Generator().manual_seed(0)
    size = (_SEQUENCES, _TOKENS)
    ids = torch.randint(tiny.FIRST_WORD, tiny.VOCABULARY, size, generator=draws)
    classes = torch.arange(_SEQUENCES) % tiny.CLASSES
    labels = classes if TASKS[base] == "SEQ_CLS" else ids.clone()
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

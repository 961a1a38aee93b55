"""Tiny models with the heads of each task type, and batches for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DebertaV2Config,
)

from models import PAD, VOCABULARY, configuration, seeded

LABELS, CHOICES, BATCH, TOKENS = 5, 3, 4, 9
HEADS = {
    "labels": AutoModelForSequenceClassification,
    "answers": AutoModelForQuestionAnswering,
    "choices": AutoModelForMultipleChoice,
    "tokens": AutoModelForTokenClassification,
}


def model_for(family: str, task: str, **more: Any) -> Any:
    if task == "labels":
        more = {"num_labels": LABELS, "problem_type": "multi_label_classification", **more}
    if task == "tokens":
        more = {"num_labels": LABELS, **more}
    if family == "deberta":
        plain = configuration("bert").to_dict()
        names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        names += ("intermediate_size", "max_position_embeddings", "initializer_range")
        relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pad_token_id": PAD}
        built = DebertaV2Config(**{name: plain[name] for name in names}, **relative, **more)
    else:
        built = configuration(family, **more)
    with seeded(0):
        return HEADS[task].from_config(built).train()


def batch_for(task: str, size: int = BATCH, seed: int = 0) -> dict[str, Tensor]:
    """Draw a batch of texts of different lengths, padded on the right."""
    draws = torch.Generator().manual_seed(seed)
    shape = (size, CHOICES, TOKENS) if task == "choices" else (size, TOKENS)
    ids = torch.randint(3, VOCABULARY, shape, generator=draws)
    lengths = torch.randint(4, TOKENS + 1, shape[:-1], generator=draws)
    mask = (torch.arange(TOKENS) < lengths[..., None]).long()
    inputs = {"input_ids": ids.masked_fill(mask == 0, PAD), "attention_mask": mask}
    if task == "labels":
        inputs["labels"] = torch.randint(0, 2, (size, LABELS), generator=draws).float()
    elif task == "choices":
        inputs["labels"] = torch.randint(0, CHOICES, (size,), generator=draws)
    elif task == "tokens":
        labels = torch.randint(0, LABELS, shape, generator=draws)
        sparse = torch.rand(shape, generator=draws) < 0.3
        inputs["labels"] = labels.masked_fill((mask == 0) | sparse, -100)
    else:  # one start and two ends are outside of the text that the model sees
        inputs["start_positions"] = torch.tensor([1, TOKENS + 7, 0, 2])[:size]
        inputs["end_positions"] = torch.tensor([3, TOKENS, 2, TOKENS + 1])[:size]
    return inputs

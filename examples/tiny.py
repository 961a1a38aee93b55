"""Tiny random models and batches, so that the examples run in seconds and without a download.

In a script of your own: ``from_pretrained``, a tokenizer and your data.
"""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertConfig,
    LlamaConfig,
    T5Config,
)

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 64, "vocab_size": 100, "initializer_range": 0.2}


def classifier() -> Any:
    """Return a BERT with LoRA, for three classes."""
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SIZES, num_labels=3))
    lora = LoraConfig(task_type="SEQ_CLS", target_modules=["key", "value"])
    return get_peft_model(model, lora)


def language_model() -> Any:
    """Return a LLaMA, without an adapter."""
    return AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, pad_token_id=0))


def encoder_decoder() -> Any:
    """Return a T5 with LoRA."""
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    config = T5Config(**sizes, vocab_size=100, decoder_start_token_id=0)
    model = AutoModelForSeq2SeqLM.from_config(config)
    return get_peft_model(model, LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["k", "v"]))


def rows(count: int = 32) -> list[dict[str, Tensor]]:
    """Return token sequences with a class each."""
    tokens = torch.randint(3, 100, (count, 10))
    return [{"input_ids": each, "labels": each.sum() % 3} for each in tokens]


def sequence_rows(count: int = 32) -> list[dict[str, Tensor]]:
    """Return token sequences that are to be predicted."""
    tokens = torch.randint(3, 100, (count, 10))
    return [{"input_ids": each, "labels": each} for each in tokens]


def collate(batch: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack rows of the same length to a batch."""
    return {name: torch.stack([row[name] for row in batch]) for name in batch[0]}

"""The models and batches of step.py.

One model is built for all methods; each method gets a copy that shares the frozen weights and has
LoRA, a classification head and hooks of its own, so that a large model takes its memory once.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from hiddenkey.lab.run.models import model_source

CLASSES = 5
IGNORED = -100
OWN_RATE = 0.1  # of a model's own dropout, where it has any
LORA_ALPHA = 16
BOTH, ATTENTION_ONLY = "attention and hidden", "attention only, it has no other"


@dataclass(frozen=True)
class Spec:
    """A model to measure.

    Attributes:
        build: makes it with its own dropout at 0.1, given the number format of its weights.
        task: PEFT's name of the task.
        targets: linear layers that get LoRA.
        batch: sequences in a batch, unless the caller says otherwise.
        tokens: tokens in a sequence, likewise.
        rank: of LoRA.
        transposed: whether the layers that get LoRA store their weights transposed (GPT-2).
        own_dropout: where the model's own dropout acts.
        dtype: number format, unless the caller says otherwise.
        bundled: whether its weights are read instead of drawn.
        gpu_only: whether it is too large to be measured on a CPU.
    """

    build: Callable[[torch.dtype], PreTrainedModel]
    task: str
    targets: tuple[str, ...]
    batch: int
    tokens: int
    rank: int = 8
    transposed: bool = False
    own_dropout: str = BOTH
    dtype: str = "float32"
    bundled: bool = False
    gpu_only: bool = False


def _encoder(bundled: str, dtype: torch.dtype) -> PreTrainedModel:
    name, how = model_source(bundled)
    rates = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), OWN_RATE)
    config = AutoConfig.from_pretrained(name, num_labels=CLASSES, **rates, **how)
    return AutoModelForSequenceClassification.from_pretrained(name, config=config, dtype=dtype)


def _smollm2(dtype: torch.dtype) -> PreTrainedModel:
    name, how = model_source("smollm2")
    config = AutoConfig.from_pretrained(name, attention_dropout=OWN_RATE, **how)
    return AutoModelForCausalLM.from_pretrained(name, config=config, dtype=dtype, **how)


def _roberta_large(dtype: torch.dtype) -> PreTrainedModel:
    config = RobertaConfig(
        vocab_size=50265,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=OWN_RATE,
        attention_probs_dropout_prob=OWN_RATE,
        num_labels=CLASSES,
    )
    return AutoModelForSequenceClassification.from_config(config, dtype=dtype)


def _gpt2_medium(dtype: torch.dtype) -> PreTrainedModel:
    config = GPT2Config(
        n_embd=1024,
        n_layer=24,
        n_head=16,
        resid_pdrop=OWN_RATE,
        embd_pdrop=OWN_RATE,
        attn_pdrop=OWN_RATE,
    )
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def _llama2_7b(dtype: torch.dtype) -> PreTrainedModel:
    # LlamaConfig's defaults are the 7B model's dimensions; stated, since they may change
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        intermediate_size=11008,
        max_position_embeddings=4096,
        attention_dropout=OWN_RATE,
    )
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


_BERT, _GPT2, _LLAMA = ("key", "value"), ("c_attn",), ("k_proj", "v_proj")
_CLASSIFIER, _LANGUAGE_MODEL = "SEQ_CLS", "CAUSAL_LM"

SPECS: dict[str, Spec] = {
    "minilm": Spec(partial(_encoder, "minilm"), _CLASSIFIER, _BERT, 32, 64, bundled=True),
    "mpnet": Spec(
        partial(_encoder, "mpnet"), _CLASSIFIER, ("k", "v"), 16, 64, dtype="bfloat16", bundled=True
    ),
    "smollm2": Spec(
        _smollm2, _LANGUAGE_MODEL, _LLAMA, 4, 64, own_dropout=ATTENTION_ONLY, bundled=True
    ),
    "roberta-large": Spec(_roberta_large, _CLASSIFIER, _BERT, 4, 64),
    "gpt2-medium": Spec(_gpt2_medium, _LANGUAGE_MODEL, _GPT2, 4, 64, rank=4, transposed=True),
    "llama2-7b": Spec(
        _llama2_7b,
        _LANGUAGE_MODEL,
        _LLAMA,
        8,
        512,
        own_dropout=ATTENTION_ONLY,
        dtype="bfloat16",
        gpu_only=True,
    ),
}


def build(spec: Spec, dtype: str, device: str) -> PreTrainedModel:
    """The model without LoRA, all its weights frozen; random ones are drawn on the device."""
    torch.manual_seed(0)
    with torch.device("cpu" if spec.bundled else device):
        model = spec.build(getattr(torch, dtype))
    # a training step has no use for the keys and values that generating would look up again
    model.config.use_cache = False
    return model.to(device).requires_grad_(False)


def share(model: PreTrainedModel) -> PreTrainedModel:
    """Copy a frozen model with all its modules, but not its tensors: those are the same ones."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def add_lora(base: PreTrainedModel, spec: Spec, lora_dropout: float = 0.0) -> PeftModel:
    """A copy that shares the frozen weights, with LoRA: equal in every copy, but its own.

    LoRA's weights are float32 whatever the model's are, by PEFT's ``autocast_adapter_dtype``.
    """
    lora = LoraConfig(
        task_type=spec.task,
        target_modules=list(spec.targets),
        r=spec.rank,
        lora_alpha=LORA_ALPHA,
        lora_dropout=lora_dropout,
        fan_in_fan_out=spec.transposed,
    )
    torch.manual_seed(0)
    return get_peft_model(share(base), lora).train()


def make_batch(
    spec: Spec, config: PreTrainedConfig, batch: int, tokens: int, *, padded: bool, device: str
) -> dict[str, Tensor]:
    """Random ids; a quarter of the sequences each is padded by 0, 1/8, 2/8 or 3/8 on the right.

    Without padding the mask is all ones, as a collator gives it.
    """
    draws = torch.Generator().manual_seed(1)
    ids = torch.randint(5, config.vocab_size, (batch, tokens), generator=draws)
    mask = torch.ones_like(ids)
    for row in range(batch) if padded else ():
        mask[row, tokens - (row % 4) * tokens // 8 :] = 0
    pad = config.pad_token_id
    ids = ids.masked_fill(mask == 0, 0 if pad is None else pad)
    if spec.task == _CLASSIFIER:
        labels = torch.randint(0, config.num_labels, (batch,), generator=draws)
    else:
        labels = ids.masked_fill(mask == 0, IGNORED)
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: tensor.to(device) for name, tensor in inputs.items()}

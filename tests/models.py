"""Tiny random models of each family, batches for them, and ways to run them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    LlamaModel,
    RobertaConfig,
)

from hiddenkey.testing.plainness import snapshot as snapshot

# Models this small gain nothing from a second thread, and two that wait for each other on a busy
# machine make a step two hundred times slower.
torch.set_num_threads(1)

FAMILIES = ("bert", "roberta", "gpt2", "llama")
ENCODERS = ("bert", "roberta")
DECODERS = ("gpt2", "llama")
FAMILY_TASKS = [
    *((family, task) for family in FAMILIES for task in ("classification", "regression")),
    *((family, "causal") for family in DECODERS),
]
ATTENTIONS = ("sdpa", "eager")
WIDTH, HEADS, VOCABULARY, PAD, LABELS = 32, 4, 60, 0, 3

# transformers 5.24 renamed it
CACHE = "cache" if "cache" in signature(LlamaModel.forward).parameters else "past_key_values"

_KEY_VALUE = {
    "bert": r".*\.(key|value)",
    "roberta": r".*\.(key|value)",
    "gpt2": r".*\.c_attn",
    "llama": r".*\.(k_proj|v_proj)",
}
_FEED_FORWARD = {
    "bert": r".*\.layer\.\d+\.(intermediate|output)\.dense",
    "roberta": r".*\.layer\.\d+\.(intermediate|output)\.dense",
    "gpt2": r".*\.mlp\.(c_fc|c_proj)",
    "llama": r".*\.mlp\.(gate_proj|up_proj|down_proj)",
}
LAYER_STACK = {
    "bert": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
    "gpt2": "transformer.h",
    "llama": "model.layers",
}
ATTENTION = {
    "bert": "attention.self",
    "roberta": "attention.self",
    "gpt2": "attn",
    "llama": "self_attn",
}
SECOND_DENSE = {
    "bert": "output.dense",
    "roberta": "output.dense",
    "gpt2": "mlp.c_proj",
    "llama": "mlp.down_proj",
}


def configuration(family: str, *, layers: int = 2, dropout: float = 0.1, **more: Any) -> Any:
    """Return a tiny configuration; the weights are wide enough for noise to be felt."""
    common: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": 1}
    common |= {"eos_token_id": 2, "initializer_range": 0.2}
    if family == "gpt2":
        rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
        sizes = {"n_embd": WIDTH, "n_head": HEADS, "n_layer": layers, "n_positions": 48}
        return GPT2Config(**{**common, **rates, **sizes, **more})
    common |= {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": layers}
    common |= {"intermediate_size": 64, "max_position_embeddings": 48}
    if family == "llama":
        own = {"num_key_value_heads": 2, "attention_dropout": dropout}
        return LlamaConfig(**{**common, **own, **more})
    own = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return {"bert": BertConfig, "roberta": RobertaConfig}[family](**{**common, **own, **more})


def plain_model(
    family: str,
    task: str = "classification",
    *,
    attention: str = "sdpa",
    layers: int = 2,
    dropout: float = 0.1,
    seed: int = 0,
    **more: Any,
) -> Any:
    """Build a tiny random model; equal arguments give equal weights. The seed is left as it was."""
    if task != "causal":
        more = {"num_labels": LABELS if task == "classification" else 1, **more}
    config = configuration(family, layers=layers, dropout=dropout, **more)
    auto = AutoModelForCausalLM if task == "causal" else AutoModelForSequenceClassification
    with seeded(seed):
        return auto.from_config(config, attn_implementation=attention).train()


def lora_model(
    family: str,
    task: str = "classification",
    *,
    feed_forward: bool = False,
    lora_dropout: float = 0.0,
    seed: int = 0,
    **more: Any,
) -> Any:
    """Build a tiny model with LoRA on keys and values, its B matrices random instead of zero."""
    return with_lora(
        plain_model(family, task, seed=seed, **more),
        family,
        task,
        feed_forward=feed_forward,
        lora_dropout=lora_dropout,
        seed=seed,
    )


def with_lora(
    model: Any,
    family: str,
    task: str,
    *,
    feed_forward: bool = False,
    lora_dropout: float = 0.0,
    seed: int = 0,
) -> Any:
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM if task == "causal" else TaskType.SEQ_CLS,
        target_modules=_KEY_VALUE[family] + (f"|{_FEED_FORWARD[family]}" if feed_forward else ""),
        r=4,
        lora_alpha=8,
        lora_dropout=lora_dropout,
        fan_in_fan_out=family == "gpt2",
    )
    with seeded(seed + 1), warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for an attribute by its old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        model = get_peft_model(model, config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.2)
    return model.train()


def build(family: str, task: str, *, peft: bool, **more: Any) -> Any:
    return (lora_model if peft else plain_model)(family, task, **more)


def batch(
    task: str = "classification",
    padding: str = "right",
    *,
    size: int = 4,
    tokens: int = 9,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Draw a batch; with padding every other sequence is shorter, each by another length."""
    draws = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (size, tokens), generator=draws)
    mask = torch.ones_like(ids)
    for row in range(1, size, 2) if padding != "none" else ():
        short = 2 + row % (tokens - 4)
        mask[row, :short] = 0
    if padding == "right":
        mask = mask.flip(-1)
    ids = ids.masked_fill(mask == 0, PAD)
    if task == "causal":
        # the first token has nothing visible to be predicted from
        first = mask.cumsum(-1) <= 1
        labels = ids.masked_fill((mask == 0) | first, -100)
    elif task == "regression":
        labels = torch.randn(size, generator=draws)
    else:
        labels = torch.randint(0, LABELS, (size,), generator=draws)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch inside, and give the generator's state back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def run(model: nn.Module, inputs: dict[str, Tensor], seed: int = 0) -> Any:
    """Call a model with a fixed seed."""
    with seeded(seed):
        return model(**inputs)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of all parameters that have one, and clear them."""
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def step(model: nn.Module, inputs: dict[str, Tensor], seed: int = 0) -> tuple[float, dict]:
    """Run forward and backward with a fixed seed; return the loss and the gradients."""
    model.zero_grad(set_to_none=True)
    with seeded(seed):
        loss = model(**inputs).loss
        loss.backward()
    return loss.item(), gradients(model)


def assert_same_gradients(
    one: dict[str, Tensor], two: dict[str, Tensor], **tolerances: Any
) -> None:
    assert one.keys() == two.keys()
    assert one
    for name in one:
        torch.testing.assert_close(
            one[name], two[name], msg=lambda text, name=name: f"{name}: {text}", **tolerances
        )


def transformer_in(model: Any) -> Any:
    """Return the Hugging Face model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def kl_by_hand(one: Tensor, two: Tensor) -> Tensor:
    p, q = one.double().softmax(-1), two.double().softmax(-1)
    return 0.5 * ((p * (p.log() - q.log())).sum(-1) + (q * (q.log() - p.log())).sum(-1))

"""What a Hugging Face model says about itself: its inner model, its config, its task, its head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hiddenkey.anatomy.code import loss_forwards
from hiddenkey.anatomy.part import Part
from hiddenkey.errors import AttachError

_CLASSIFIERS = ("ForSequenceClassification", "ForImageClassification")
_LANGUAGE = ("ForCausalLM", "ForMaskedLM", "ForConditionalGeneration")


def transformer_of(model: Any) -> nn.Module:
    """Return the model inside its wrappers: PEFT's, DistributedDataParallel's, torch.compile's.

    Raises:
        AttachError: if it is no ``torch.nn.Module``.
    """
    inner = model
    while True:
        # PEFT also writes peft_config on the transformer inside, which has no get_base_model
        if hasattr(inner, "peft_config") and hasattr(inner, "get_base_model"):
            inner = inner.get_base_model()
        elif isinstance(inner, DistributedDataParallel | nn.DataParallel):
            inner = inner.module
        elif type(inner).__module__.startswith("peft.mixed"):  # which hands every attribute on
            inner = inner.base_model.model
        elif type(inner).__module__.startswith("peft.tuners") and hasattr(inner, "model"):
            inner = inner.model
        elif isinstance(compiled := getattr(inner, "_orig_mod", None), nn.Module):
            inner = compiled
        else:
            break
    if not isinstance(inner, nn.Module):
        raise AttachError(
            "attach needs a model: a transformers PreTrainedModel, a PeftModel around one, or a"
            f" torch.nn.Module, got {type(model).__name__}"
        )
    return inner


def text_config(transformer: Any) -> Any:
    """Return the text part of a model's config; ``None`` for a module that has no such config."""
    config: Any = getattr(transformer, "config", None)
    if not hasattr(config, "get_text_config"):
        return None
    try:
        return config.get_text_config()
    except ValueError:  # several text models in one, such as an encoder's and a decoder's
        return config


def is_encoder_decoder(transformer: Any) -> bool:
    """Whether a model reads with one stack of layers and writes with another."""
    return bool(getattr(getattr(transformer, "config", None), "is_encoder_decoder", False))


def in_decoder(transformer: Any, name: str) -> bool:
    """Whether a module belongs to an encoder-decoder's decoder, told by its name."""
    return is_encoder_decoder(transformer) and "decoder" in name.split(".")


def task_of(transformer: Any) -> str | None:
    """Return the name of the model's loss, such as ``ForSequenceClassification``.

    It is transformers' own but for language models, where it says which labels the loss compares:
    ``ForCausalLM`` the following token's, ``ForMaskedLM`` each position's own, and
    ``ForConditionalGeneration`` each position's own in an encoder-decoder. ``ForMultipleChoice`` is
    of this library.
    """
    kind = getattr(transformer, "loss_type", None)
    if not isinstance(kind, str):
        kind = None
    if kind is not None and kind not in _LANGUAGE:
        return kind
    if "ForMultipleChoice" in type(transformer).__name__:
        return "ForMultipleChoice"
    if is_encoder_decoder(transformer):
        return "ForConditionalGeneration"
    if kind == "ForMaskedLM" or (kind is None and not _is_language_model(transformer)):
        return kind
    return "ForCausalLM" if _shifts_labels(transformer) else "ForMaskedLM"


def is_regression(transformer: Any) -> bool:
    """Whether a classifier's loss is the mean squared error, by transformers' own rule.

    Its loss for images (``ForImageClassification``) is that for sequences.
    """
    if task_of(transformer) not in _CLASSIFIERS:
        return False
    kind = getattr(transformer.config, "problem_type", None)
    return kind == "regression" or (kind is None and transformer.config.num_labels == 1)


def is_multi_label(transformer: Any, labels: Tensor | None = None) -> bool:
    """Whether a classifier's loss is binary cross-entropy, by transformers' own rule.

    Args:
        transformer: the model.
        labels: of a batch, whose type decides where the configuration leaves it open.
    """
    if task_of(transformer) not in _CLASSIFIERS:
        return False
    kind = getattr(transformer.config, "problem_type", None)
    if kind is not None or labels is None:
        return bool(kind == "multi_label_classification")
    return transformer.config.num_labels > 1 and labels.dtype not in (torch.long, torch.int)


def _is_language_model(transformer: Any) -> bool:
    name = type(transformer).__name__
    return any(part in name for part in ("LMHead", "CausalLM", "ConditionalGeneration")) or (
        name.endswith("Decoder")
    )


def _shifts_labels(transformer: Any) -> bool:
    """Whether a language model's own loss compares each position with the following label."""
    codes = [forward.__code__ for forward, _ in loss_forwards(transformer)]
    return not codes or any(
        "loss_function" in code.co_names
        or any("shift" in name for name in (*code.co_varnames, *code.co_names))
        for code in codes
    )


def find_head(transformer: nn.Module) -> Part:
    """Find the module that turns the last representation into predictions.

    Raises:
        AttachError: if it is under no known name.
    """
    for name in ("classifier", "score", "lm_head", "qa_outputs", "embed_out"):
        module = getattr(transformer, name, None)
        if isinstance(module, nn.Module):
            return Part(None, name, module)
    children = ", ".join(name for name, _ in transformer.named_children())
    raise AttachError(
        f"no classifier or language-model head found in {type(transformer).__name__} (it has"
        f" {children}); load it with a head, for instance AutoModelForSequenceClassification"
    )

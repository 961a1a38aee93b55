"""The update of LoRA shrunk by a factor: weights between the frozen ones and the trained ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

from hiddenkey import anatomy
from hiddenkey.anatomy.low_rank import moved_start
from hiddenkey.errors import AttachError, ConfigError, is_number
from hiddenkey.step.tasks import LANGUAGE

_OUTPUTS: Final = (".lora_B.", ".lora_embedding_B.")


def scale_update(model: nn.Module, factor: float) -> None:
    """Multiply the update of a model's LoRA: its weights become W₀ + factor · (W − W₀).

    The factor goes into LoRA's B, so that whoever loads what is saved afterwards gets it. A new
    head that was trained beside the adapter stays: it had no weights before. Other weights that
    were (biases, embeddings, a language model's head) are refused.

    Args:
        model: with LoRA of PEFT, or of the same names.
        factor: in [0, 1]; 1 does nothing, 0 gives the model of before.

    Raises:
        ConfigError: if the factor is outside of [0, 1].
        AttachError: if the model's update cannot be scaled this way, with the reason.
    """
    if not is_number(factor) or not 0 <= factor <= 1:
        raise ConfigError(
            f"the factor of an update must be in [0, 1], got {factor!r}; 1 leaves it as it is"
        )
    with torch.no_grad():
        torch._foreach_mul_(_outputs(model), float(factor))


@contextmanager
def scaled_update(model: nn.Module, factor: float) -> Iterator[None]:
    """The model as :func:`scale_update` makes it, for as long as the block lasts."""
    outputs = _outputs(model)
    kept = [each.detach().clone() for each in outputs]
    scale_update(model, factor)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(outputs, kept)


def unscalable(model: nn.Module) -> str:
    """Say why the update of a model cannot be scaled; empty if it can."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    if any("lora_magnitude_vector" in name for name in names):
        return "DoRA divides by the length of its weights, which are not linear in B"
    if not any(output in name for name in names for output in _OUTPUTS):
        return "it has no LoRA that is trained"
    if start := moved_start(model):
        return f"its initialisation {start!r} moved part of the frozen weights into LoRA"
    if name := _trained_beside(model):
        return f"{name} is trained beside LoRA, and its weights of before are not known"
    return ""


def _trained_beside(model: nn.Module) -> str | None:
    """Name a weight that was pretrained and is trained by itself: a bias, an embedding, a norm.

    A new head is none: it had no weights before. A language model's head had.
    """
    transformer = anatomy.transformer_of(model)
    body = getattr(transformer, "base_model", transformer)
    if anatomy.task_of(transformer) in LANGUAGE:
        body = transformer
    elif body is transformer:  # what is its head is not known
        return None
    trained = (name for name, p in body.named_parameters() if p.requires_grad)
    return next((name for name in trained if "lora_" not in name), None)


def _outputs(model: nn.Module) -> list[Tensor]:
    if why := unscalable(model):
        raise AttachError(f"the update of this model cannot be scaled: {why}; take factor 1")
    return [
        p
        for name, p in model.named_parameters()
        if p.requires_grad and any(output in name for output in _OUTPUTS)
    ]

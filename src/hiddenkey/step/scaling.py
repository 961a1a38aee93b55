"""The update of LoRA shrunk by a factor: weights between the frozen ones and the trained ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from hiddenkey.errors import AttachError, ConfigError

_OUTPUTS: Final = (".lora_B.", ".lora_embedding_B.")
_MOVED: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations of PEFT that take the adapter's first update out of the frozen weights."""


def scale_update(model: nn.Module, factor: float) -> None:
    """Multiply the update of a model's LoRA: its weights become W₀ + factor · (W − W₀).

    The factor goes into LoRA's B, so that whoever loads what is saved afterwards gets it. A head
    that was trained beside the adapter stays: it had no weights before.

    Args:
        model: with LoRA of PEFT, or of the same names.
        factor: in [0, 1]; 1 does nothing, 0 gives the model of before.

    Raises:
        ConfigError: if the factor is outside of [0, 1].
        AttachError: if the model's update cannot be scaled this way, with the reason.
    """
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor <= 1:
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
    configs: Any = getattr(model, "peft_config", {})
    for config in configs.values():
        start = str(getattr(config, "init_lora_weights", "")).lower()
        if start.startswith(_MOVED):
            return f"its initialisation {start!r} moved part of the frozen weights into LoRA"
    return ""


def _outputs(model: nn.Module) -> list[Tensor]:
    if why := unscalable(model):
        raise AttachError(f"the update of this model cannot be scaled: {why}; take factor 1")
    return [
        p
        for name, p in model.named_parameters()
        if p.requires_grad and any(output in name for output in _OUTPUTS)
    ]

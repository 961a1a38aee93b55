"""Which adapters a model has, and which of them act: they may take turns, or be added later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


class Adapters:
    """The adapters of one model.

    Args:
        transformer: the Hugging Face model.
        prompts: the PeftModel around it whose adapters are prompts or prefixes, which leave no
            module in the model; ``None`` for others.
    """

    def __init__(self, transformer: nn.Module, prompts: nn.Module | None = None) -> None:
        self._transformer, self._prompts = transformer, prompts

    @property
    def settings(self) -> Mapping[str, Any]:
        """PEFT's settings of each adapter, by its name, now; empty without PEFT."""
        holder = self._transformer if self._prompts is None else self._prompts
        found = getattr(holder, "peft_config", None)
        return found if isinstance(found, Mapping) else {}

    def at_work(self) -> tuple[str, ...]:
        """Return the names of the adapters that the model's call goes through now."""
        if self._prompts is not None:
            disabled = getattr(self._prompts, "_adapters_disabled", False)
            return () if disabled else (str(self._prompts.active_adapter),)
        for module in self._transformer.modules():
            active = getattr(module, "active_adapters", None)
            if hasattr(module, "base_layer") and isinstance(active, list):  # as in all other layers
                return () if getattr(module, "disable_adapters", False) else tuple(active)
        return ()

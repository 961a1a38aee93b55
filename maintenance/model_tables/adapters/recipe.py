"""What it takes to put one of PEFT's adapters on a tiny model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_tables.adapters.bases import LINEARS, TASKS, seeded, tiny_batch, tiny_model

Settings = Mapping[str, Any] | Callable[[str, Path], Mapping[str, Any]]
Around = Callable[[Any, Any, Mapping[str, Tensor]], None]
_RANK = 4
_VIRTUAL_TOKENS = 3


@dataclass(frozen=True)
class AdapterMethod:
    """One way of adapting a model.

    Attributes:
        peft_type: name in ``peft.PeftType``.
        variant: initialisation or form; empty for the method as such.
        settings: fields of PEFT's configuration beside the task, a rank of 4, three virtual tokens
            and the base's linear layers; or a function of the base and of a folder for files.
        bases: the models that it is tried on.
        inputs: further arguments of the model's call.
        before: called before ``get_peft_model`` with model, configuration and batch.
        after: called after it, with the same.
        base_model: builds the model that is adapted.
        needs: a package without which it cannot be tried.
        note: what a reader of the result must know.
    """

    peft_type: str
    variant: str = ""
    settings: Settings = field(default_factory=dict)
    bases: tuple[str, ...] = ("llama", "bert")
    inputs: Mapping[str, Tensor] | None = None
    before: Around | None = None
    after: Around | None = None
    base_model: Callable[[str], Any] = tiny_model
    needs: str = ""
    note: str = ""

    @property
    def name(self) -> str:
        """PEFT's name and the variant, such as ``LORA (DoRA)``."""
        return f"{self.peft_type} ({self.variant})" if self.variant else self.peft_type

    def batch(self, base: str) -> dict[str, Tensor]:
        """Return a batch that the adapted model takes."""
        return {**tiny_batch(base), **(self.inputs or {})}

    def build(self, base: str, folder: Path) -> Any:
        """Put the adapter on a tiny model, with all its weights moved away from the identity.

        Args:
            base: one of :data:`~model_tables.adapters.bases.TASKS`.
            folder: for the files that a method reads.
        """
        from peft import get_peft_model

        model, batch = self.base_model(base), tiny_batch(base)
        config = self._config(base, folder)
        with seeded(1):
            if self.before is not None:
                self.before(model, config, batch)
            adapted = get_peft_model(model, config)
            if self.after is not None:
                self.after(adapted, config, batch)
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.05 * torch.randn_like(parameter)
        return adapted.train()

    def _config(self, base: str, folder: Path) -> Any:
        from peft import PromptLearningConfig
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        kind = next(
            found
            for key, found in PEFT_TYPE_TO_CONFIG_MAPPING.items()
            if key.value == self.peft_type
        )
        known = {field.name for field in dataclasses.fields(kind)}
        common: dict[str, Any] = {"r": _RANK, "target_modules": LINEARS[base]}
        if issubclass(kind, PromptLearningConfig):
            common = {"num_virtual_tokens": _VIRTUAL_TOKENS}
        if base == "gpt2":  # whose Conv1D keeps its weight the other way round
            common["fan_in_fan_out"] = True
        own = self.settings(base, folder) if callable(self.settings) else self.settings
        fields = {key: value for key, value in common.items() if key in known}
        return kind(task_type=TASKS[base], **{**fields, **own})

"""On which side of its layer's norms a module's output lies, seen in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class _Watch:
    """Records, for each module watched, what the norms of its layer do with its output."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.found: dict[str, str] = {}
        self._outputs: dict[str, Tensor] = {}
        self._handles: list[Any] = []
        for name in names:
            layer = _layer_of(name)
            self._handles.append(model.get_submodule(name).register_forward_hook(self._keep(name)))
            for inner, module in model.get_submodule(layer).named_modules():
                if "norm" in type(module).__name__.lower() and not list(module.children()):
                    self._handles.append(module.register_forward_hook(self._compare(name, inner)))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._outputs[name] = output[0] if isinstance(output, tuple) else output

        return hook

    def _compare(self, name: str, norm: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            given = self._outputs.pop(name, None)
            if given is None or not args:
                return
            own = args[0].numel() == given.numel() and torch.equal(
                args[0].flatten(), given.flatten()
            )
            self.found[name] = f"before {norm}" if own else f"residual add, then {norm}"

        return hook


def norm_sides(
    model: nn.Module, names: Sequence[str], batch: Mapping[str, Tensor]
) -> dict[str, str]:
    """Say for each module what the norms of its own layer do next with its output.

    Args:
        model: the model that names the modules; run once in evaluation mode.
        names: of modules within numbered layers.
        batch: the model's arguments.

    Returns:
        ``before NORM`` where a norm takes the output itself, as in Gemma 2 and OLMo 2; ``residual
        add, then NORM`` where it takes a sum, as in BERT; ``residual add`` where none follows.
    """
    watch = _Watch(model, [name for name in names if _layer_of(name)])
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(**batch)
    finally:
        watch.remove()
        model.train(was_training)
    return {name: watch.found.get(name, "residual add") for name in names}


def _layer_of(name: str) -> str:
    """Return the name of the innermost numbered module around a module."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts[:-1]) if part.isdigit()), default=-1)
    return ".".join(parts[: last + 1])

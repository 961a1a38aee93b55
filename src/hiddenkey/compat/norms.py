"""On which side of its layer's norms a module's output lies, seen in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def norm_sides(
    model: nn.Module, names: Sequence[str], batch: Mapping[str, Tensor]
) -> dict[str, str]:
    """Say for each module what the norms of its own layer do next with its output.

    The outputs of all modules are set to zero in one pass: a norm that takes nothing else is then
    given zeros, and one behind the residual add is not.

    Args:
        model: the model that names the modules; run once in evaluation mode.
        names: of modules within numbered layers.
        batch: the model's arguments.

    Returns:
        ``before NORM`` where a norm takes the output itself, as in Gemma 2 and OLMo 2; ``residual
        add, then NORM`` where it takes a sum, as in BERT; ``residual add`` where none follows.
    """
    watch = _Watch(model, [name for name in names if layer_of(name)])
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(**batch)
    finally:
        watch.remove()
        model.train(was_training)
    return {name: watch.found.get(name, "residual add") for name in names}


class _Watch:
    """Silences modules, and records which norm of their layer comes next."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.found: dict[str, str] = {}
        layers = {layer: model.get_submodule(layer) for layer in map(layer_of, names)}
        self._waiting: dict[str, list[str]] = {layer: [] for layer in layers}
        self._handles = [
            model.get_submodule(name).register_forward_hook(self._silence(name)) for name in names
        ]
        for layer, module in layers.items():
            self._handles.append(module.register_forward_pre_hook(self._forget(layer)))
            self._handles += [
                norm.register_forward_pre_hook(self._look(layer, name))
                for name, norm in module.named_modules()
                if is_norm(norm)
            ]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _silence(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            self._waiting[layer_of(name)].append(name)
            if isinstance(output, tuple):
                return (torch.zeros_like(output[0]), *output[1:])
            return torch.zeros_like(output)

        return hook

    def _forget(self, layer: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            self._waiting[layer].clear()

        return hook

    def _look(self, layer: str, norm: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            side = f"residual add, then {norm}" if args and args[0].any() else f"before {norm}"
            for name in self._waiting[layer]:
                self.found.setdefault(name, side)
            self._waiting[layer].clear()

        return hook


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm, by the name of its class."""
    return "norm" in type(module).__name__.lower() and not list(module.children())


def layer_of(name: str) -> str:
    """Return the name of the innermost numbered module around a module."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts[:-1]) if part.isdigit()), default=-1)
    return ".".join(parts[: last + 1])

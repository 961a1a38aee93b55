"""Whether what is taken for a feed-forward block's output can be added to its layer's residual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hiddenkey.lab.sweep.norms import layer_of
from hiddenkey.testing.passes import tensors_of


def misfits(model: nn.Module, names: Sequence[str], batch: Mapping[str, Tensor]) -> list[str]:
    """Name the modules whose output has another width than all that their layer gives.

    A router or a projection inside a block is found so, which every other check would let pass:
    noise acts there too, but at the wrong place.

    Args:
        model: the model that names the modules; run once in evaluation mode.
        names: of modules within numbered layers.
        batch: the model's arguments.
    """
    layers = {name: layer for name in names if (layer := layer_of(name))}
    watched = {*layers, *layers.values()}
    widths: dict[str, set[int]] = {name: set() for name in watched}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            found = tensors_of(output).values()
            widths[name] |= {tensor.shape[-1] for tensor in found if tensor.dim() > 1}

        return hook

    handles = [model.get_submodule(n).register_forward_hook(note(n)) for n in watched]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(**batch)
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return [
        f"{name} gives {min(widths[name])} features, and its layer {max(widths[layer])}"
        for name, layer in layers.items()
        if widths[name] and widths[layer] and not widths[name] & widths[layer]
    ]

"""Whether what is taken for a feed-forward block's output can be added to its layer's residual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hiddenkey.anatomy import text_config
from hiddenkey.compat.norms import is_norm, layer_of
from hiddenkey.testing.passes import tensors_of


def misfits(model: nn.Module, names: Sequence[str], batch: Mapping[str, Tensor]) -> list[str]:
    """Name the modules whose output has a width that no stream of their layer has.

    A router or a projection inside a block is found so, which every other check would let pass:
    noise acts there too, but at the wrong place. Streams are what the layer and its norms give, and
    have the configured width; there are several where a layer has a bottleneck or mixes streams.

    Args:
        model: the model that names the modules; run once in evaluation mode.
        names: of modules within numbered layers.
        batch: the model's arguments.
    """
    layers = {name: layer for name in names if (layer := layer_of(name))}
    own: dict[str, set[int]] = {name: set() for name in layers}
    configured = getattr(text_config(model), "hidden_size", 0)
    streams: dict[str, set[int]] = {layer: {configured} - {0} for layer in layers.values()}
    handles = [model.get_submodule(name).register_forward_hook(_note(own[name])) for name in own]
    for layer, widths in streams.items():
        module = model.get_submodule(layer)
        norms = [inner for inner in module.modules() if is_norm(inner)]
        handles += [inner.register_forward_hook(_note(widths)) for inner in (module, *norms)]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(**batch)
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return [
        f"{name} gives {', '.join(map(str, sorted(own[name])))} features, and its layer works on"
        f" {', '.join(map(str, sorted(streams[layer])))}"
        for name, layer in layers.items()
        if own[name] and not own[name] & streams[layer]
    ]


def _note(widths: set[int]) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        found = tensors_of(output).values()
        widths.update(tensor.shape[-1] for tensor in found if tensor.dim() > 1)

    return hook

"""What the arguments of a model's call say of its batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from hiddenkey.errors import ConsistencyError
from hiddenkey.step import caches

_MEDIA = (
    *("pixel_", "image_", "video_", "visual_", "audio_", "input_features", "feature_"),
    *("second_per_grid", "spatial_shapes"),
)
NO_INPUT: Final = (
    *("position_ids", "decoder_position_ids", "cache_position", "decoder_input_ids"),
    *("start_positions", "end_positions", "num_items_in_batch", "seq_idx"),
)
"""What follows from the other inputs and changes with a batch's padding, or decides no
prediction."""

_NO_INPUT_INSIDE = ("attention_mask", "label", "weight")
_LEADING = ("input_ids", "inputs_embeds", "pixel_values", "input_features", "input_values")


def visible_tokens(arguments: Mapping[str, Any], shape: torch.Size) -> Tensor | None:
    """Return the tokens that are not padding, boolean ``[batch, tokens]``, if the batch tells."""
    mask = arguments.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        return None
    if caches.given(arguments) is not None:  # the mask also covers the keys in the cache
        mask = mask[:, -shape[1] :]
    return mask.bool() if mask.shape == shape else None


def select(arguments: Mapping[str, Any], chosen: Tensor | None) -> dict[str, Any]:
    """Return the arguments for the chosen sequences only.

    Args:
        arguments: of a model call, by name.
        chosen: ``[sequences]`` indices, or ``None`` for all.

    Raises:
        ConsistencyError: if images, sounds or films are not laid out by sequences.
    """
    if chosen is None:
        return dict(arguments)
    total = lead(arguments).shape[0]
    return {name: _of_chosen(name, value, chosen, total) for name, value in arguments.items()}


def _of_chosen(name: str, value: Any, chosen: Tensor, total: int) -> Any:
    if name == "encoder_outputs":  # computed beforehand: a tuple, or one of transformers' outputs
        return _of_outputs(name, value, chosen, total)
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    if name == "position_ids" and value.dim() == 3 and value.shape[1] == total:
        return value[:, chosen]  # one for each axis of an image, of which there can be as many
    if value.shape[0] == total:
        return value[chosen]
    if is_media(name):
        raise ConsistencyError(
            f"consistency.fraction below 1 chooses sequences of the batch, but {name} of shape"
            f" {list(value.shape)} is not laid out by its {total} sequences; use fraction=1"
        )
    return value


def _of_outputs(name: str, value: Any, chosen: Tensor, total: int) -> Any:
    if isinstance(value, Mapping):
        own = {key: _of_outputs(name, part, chosen, total) for key, part in value.items()}
        return type(value)(**own) if hasattr(value, "to_tuple") else own
    if isinstance(value, list | tuple):
        return type(value)(_of_outputs(name, part, chosen, total) for part in value)
    has_batch = isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == total
    return value[chosen] if has_batch else value


def is_media(name: str) -> bool:
    """Whether an argument of a model call holds, or describes, images, films or sounds."""
    return name.startswith(_MEDIA)


def is_further_input(name: str, value: Any, batch: int) -> bool:
    """Whether an argument, beside the first, says something of the examples of the batch."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return False
    if is_media(name):
        return True
    is_other = name in NO_INPUT or any(part in name for part in _NO_INPUT_INSIDE)
    return len(value) == batch and not is_other


def lead(arguments: Mapping[str, Any]) -> Tensor:
    """Return the input whose first dimension is the batch.

    Raises:
        ConsistencyError: if there is none.
    """
    tensor: Tensor = arguments[lead_name(arguments)]
    return tensor


def lead_name(arguments: Mapping[str, Any]) -> str:
    """Return the name of the input whose first dimension is the batch.

    Raises:
        ConsistencyError: if there is none.
    """
    for name in _LEADING:
        if isinstance(arguments.get(name), Tensor):
            return name
    raise ConsistencyError(
        "the consistency loss needs input_ids or inputs_embeds in the model call, got"
        f" {', '.join(arguments)}"
    )

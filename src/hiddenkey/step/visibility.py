"""Which tokens of the batch at work are no padding, for positions outside attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hiddenkey.step.arguments import visible_tokens


class VisibleTokens:
    """The visible tokens of the pass at work, boolean ``[batch, tokens]``, of each side."""

    def __init__(self) -> None:
        self._by_side: dict[bool, Tensor] = {}

    def see(self, arguments: Mapping[str, Any]) -> None:
        """Take them from the arguments of a model's call, by name."""
        given = (arguments.get(name) for name in ("input_ids", "inputs_embeds", "attention_mask"))
        tokens = next((tensor for tensor in given if isinstance(tensor, Tensor)), None)
        self._by_side = {}
        if tokens is not None and tokens.dim() > 1:
            visible = visible_tokens(arguments, tokens.shape[:2])
            if visible is not None:
                self._by_side[False] = visible
        mask = arguments.get("decoder_attention_mask")
        if isinstance(mask, Tensor) and mask.dim() == 2:
            self._by_side[True] = mask.bool()

    def of(self, decoder: bool) -> Tensor | None:
        """Return those of an encoder-decoder's decoder, or of what comes first."""
        return self._by_side.get(decoder)

    def stored(self) -> dict[bool, Tensor]:
        """Return what :meth:`restore` takes."""
        return self._by_side

    def restore(self, stored: dict[bool, Tensor]) -> None:
        """See what an earlier pass saw."""
        self._by_side = stored

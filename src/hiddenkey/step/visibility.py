"""Which tokens the batch at work has and which are no padding, for positions outside attention."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hiddenkey.anatomy import Part
from hiddenkey.anatomy.model import in_decoder
from hiddenkey.chunked_loss.sums import IGNORED_LABEL
from hiddenkey.step.arguments import visible_tokens

_TOKENS = {"input_ids", "inputs_embeds"}
T = TypeVar("T")
Stored = tuple[dict[bool, Tensor], dict[bool, torch.Size], Tensor | None]


class VisibleTokens:
    """The visible tokens of the pass at work, boolean ``[batch, tokens]``, of each side.

    Args:
        reads_labels: whether the model makes its decoder's tokens of its labels, which then show
            what of them is padding: collators give no mask of the decoder.
    """

    def __init__(self, *, reads_labels: bool = False) -> None:
        self._reads_labels = reads_labels
        self._labelled: Tensor | None = None
        self._by_side: dict[bool, Tensor] = {}
        self._shapes: dict[bool, torch.Size] = {}

    def see_inside(self, decoder: bool, arguments: Mapping[str, Any]) -> None:
        """Take those of one side from the arguments of a call inside of the model's, by name.

        The model's own call may hold its tokens in another form: several texts for each sequence,
        two texts to compare.
        """
        visible = _visible(arguments)
        if visible is not None:
            self._by_side = {**self._by_side, decoder: visible}
        elif arguments.get("attention_mask") is None:
            self._by_side = {side: own for side, own in self._by_side.items() if side != decoder}
            if decoder and self._labelled is not None and self._labelled.shape == _shape(arguments):
                self._by_side[True] = self._labelled
        if (shape := _shape(arguments)) is not None:
            self._shapes = {**self._shapes, decoder: shape}

    def see(self, arguments: Mapping[str, Any]) -> None:
        """Take them from the arguments of a model's call, by name."""
        visible = _first_of_call(_visible, arguments)
        self._by_side = {} if visible is None else {False: visible}
        mask = arguments.get("decoder_attention_mask")
        self._labelled = None
        if isinstance(mask, Tensor) and mask.dim() == 2:
            self._by_side[True] = mask.bool()
        elif self._reads_labels and mask is None:
            self._labelled = _up_to_the_last_label(arguments.get("labels"))
            if self._labelled is not None:
                self._by_side[True] = self._labelled
        shape = _first_of_call(_shape, arguments)
        self._shapes = {} if shape is None else {False: shape}

    def of(self, decoder: bool) -> Tensor | None:
        """Return those of an encoder-decoder's decoder, or of what comes first."""
        return self._by_side.get(decoder)

    def labelled(self) -> Tensor | None:
        """Return those of a decoder whose padding the labels alone show; ``None`` elsewhere."""
        return self._labelled

    def shape(self, decoder: bool) -> torch.Size | None:
        """Return ``[batch, tokens]`` of one side, padding included, as far as it is known."""
        return self._shapes.get(decoder)

    def stored(self) -> Stored:
        """Return what :meth:`restore` takes."""
        return self._by_side, self._shapes, self._labelled

    def restore(self, stored: Stored) -> None:
        """See what an earlier pass saw."""
        self._by_side, self._shapes, self._labelled = stored


def models_inside(
    transformer: nn.Module, entry: nn.Module, layers: Iterable[Part]
) -> dict[nn.Module, bool]:
    """Return the innermost modules around the layers that are called with tokens and their mask.

    Args:
        transformer: the model.
        entry: the module whose call is one training pass; it is not among them.
        layers: the model's layers.

    Returns:
        For each module, whether it belongs to an encoder-decoder's decoder.
    """
    found: dict[nn.Module, bool] = {}
    for layer in layers:
        name = layer.name
        while name:
            name = name.rpartition(".")[0]
            module = transformer.get_submodule(name)
            names = inspect.signature(module.forward).parameters
            if "attention_mask" in names and not _TOKENS.isdisjoint(names):
                if module is not entry:
                    found[module] = in_decoder(transformer, name)
                break
    return found


def _up_to_the_last_label(labels: Any) -> Tensor | None:
    """Mark the tokens that predict a label or come before one that does, ``[batch, tokens]``."""
    if not isinstance(labels, Tensor) or labels.dim() != 2 or labels.is_floating_point():
        return None
    return labels.ne(IGNORED_LABEL).flip(1).cumsum(1).flip(1).gt(0)


def _visible(arguments: Mapping[str, Any]) -> Tensor | None:
    shape = _shape(arguments)
    return None if shape is None else visible_tokens(arguments, shape)


def _shape(arguments: Mapping[str, Any]) -> torch.Size | None:
    given = (arguments.get(name) for name in ("input_ids", "inputs_embeds", "attention_mask"))
    tokens = next((tensor for tensor in given if isinstance(tensor, Tensor)), None)
    return None if tokens is None or tokens.dim() < 2 else tokens.shape[:2]


def _first_of_call(
    find: Callable[[Mapping[str, Any]], T | None], call: Mapping[str, Any]
) -> T | None:
    """Return what a model's call says, which may hold its tokens in a dictionary.

    sentence-transformers' model is called so, and runs the model in it by its ``forward``, whose
    call no hook sees.
    """
    inside = (value for value in call.values() if isinstance(value, Mapping))
    found = (find(given) for given in (call, *inside))
    return next((each for each in found if each is not None), None)

"""What an adapter does by its nature that no check of the suite allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from hiddenkey.testing import padded_batches
from hiddenkey.testing.passes import Runner, buffers_kept, without_dropout_modules
from model_tables.adapters.bases import seeded

_DRAWS: Final = "its own draws stay on"
_UNSEEDED: Final = "its own draws, which do not follow PyTorch's seed, stay on"
_PADDING: Final = "what stands in padding reaches the loss through it"
_NO_EQUALITY: Final = "its weights cannot be compared, so that detaching was not checked"
_OWN_NETWORK: Final = "the attention of its own network, outside the model, does not drop"
BESIDE: Final = {
    _DRAWS: ("own dropout", "rate zero"),
    _UNSEEDED: ("own dropout", "rate zero", "seeds", "visibility"),
    _PADDING: ("visibility",),
    _NO_EQUALITY: ("detach",),
    _OWN_NETWORK: ("coverage",),
}
"""Checks that an adapter of such a nature does not pass, with or without the library."""


def own_nature(model: Any, batch: Mapping[str, Tensor]) -> list[str]:
    """Return a key of :data:`BESIDE` for each such thing that shows without the library."""
    notes = [_own_noise(model, batch)]
    padded = padded_batches(batch)["padded right"]
    ids = padded["input_ids"]
    other = torch.where(padded["attention_mask"] == 0, (ids + 1) % 50 + 3, ids)
    losses = [Runner(model).evaluate({**padded, "input_ids": i})["loss"] for i in (ids, other)]
    if not torch.equal(*losses):
        notes.append(_PADDING)
    if hasattr(model, "shadow_backbone"):
        notes.append(_OWN_NETWORK)
    if not _has_equality(model):
        notes.append(_NO_EQUALITY)
    return [note for note in notes if note]


def _has_equality(model: Any) -> bool:
    try:
        return all(torch.equal(parameter, parameter) for parameter in model.parameters())
    except NotImplementedError:  # as with torchao's tensors
        return False


def _own_noise(model: Any, batch: Mapping[str, Tensor]) -> str:
    with without_dropout_modules(model), buffers_kept(model):
        losses = []
        for _ in range(2):
            with seeded(0):
                before = torch.get_rng_state()
                losses.append(model.train()(**batch).loss)
                draws = not torch.equal(torch.get_rng_state(), before)
    if not torch.equal(*losses):
        return _UNSEEDED
    return _DRAWS if draws else ""

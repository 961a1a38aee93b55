"""The check that noise shows nobody what was hidden: padding, and in decoders later tokens.

A query that lost every key it may see must get its own keys back, and no hidden one. Where masks
are numbers that are added to the logits, that is easily missed: once all visible keys are gone,
softmax makes the hidden ones look visible.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from hiddenkey.testing.examination import Examination
from hiddenkey.testing.findings import fail_if
from hiddenkey.testing.passes import Batch, Tensors, distance, without_dropout_modules

_RATE = 0.7  # queries lose all their keys often
_SEEDS = 4

Run = Callable[[Batch], Tensors]


def check_visibility(examination: Examination) -> str:
    """Outputs that do not depend on hidden tokens without noise do not with noise either.

    Outputs of visible tokens are compared before and after another word was put into the padding,
    and outputs of all tokens but the last before and after another last word. Whether the model
    itself hides these words is seen in evaluation.
    """
    drops = tuple(dataclasses.replace(d, rate=_RATE) for d in examination.config.drops if d.rate)
    noisy = dataclasses.replace(
        examination.config, drops=drops, consistency=None, keep_model_dropout=False
    )
    faults: list[str] = []
    looked: list[str] = []
    for name, batch in examination.batches.items():
        for what, other, seen in _changes(batch):
            hidden = _unmoved(examination.runner.evaluate, batch, other, seen, examination)
            if not hidden:
                continue
            looked.append(f"{what} ({name})")
            with without_dropout_modules(examination.model), examination.attached(noisy):
                for seed in range(_SEEDS):
                    run = partial(examination.runner.forward, seed=seed)
                    if moved := hidden - _unmoved(run, batch, other, seen, examination):
                        faults.append(f"{name}: {what} changes {', '.join(sorted(moved))}")
                        break
    fail_if(faults)
    return f"nothing shows of {', '.join(looked)}" if looked else "the model hides no tokens"


def _changes(batch: Batch) -> list[tuple[str, Batch, Tensor]]:
    """Return batches with another word where it may be hidden, and who must not see it."""
    ids, mask = batch.get("input_ids"), batch.get("attention_mask")
    if not (isinstance(ids, Tensor) and ids.dim() == 2 and ids.shape[1] > 1):
        return []
    visible = torch.ones_like(ids, dtype=torch.bool)
    if isinstance(mask, Tensor) and mask.shape == ids.shape:
        visible = mask.bool()
    found: list[tuple[str, Batch, Tensor]] = []
    if not visible.all():
        found.append(
            ("padding", {**batch, "input_ids": _reworded(ids, visible, ~visible)}, visible)
        )
    last = visible & (visible.flip(1).cumsum(1).flip(1) == 1)
    earlier = visible & ~last
    found.append(("the last token", {**batch, "input_ids": _reworded(ids, visible, last)}, earlier))
    return found


def _reworded(ids: Tensor, visible: Tensor, where: Tensor) -> Tensor:
    """Put another word of the batch wherever ``where`` says."""
    words = torch.unique(ids[visible])
    other = words[(torch.searchsorted(words, ids.clamp(words[0], words[-1])) + 1) % len(words)]
    return torch.where(where, other, ids)


def _unmoved(
    run: Run, batch: Batch, other: Batch, seen: Tensor, examination: Examination
) -> set[str]:
    """Return the outputs of tokens that are equal for both batches."""
    before, after = run(batch), run(other)
    return {
        name
        for name, tensor in before.items()
        if tensor.is_floating_point() and tensor.shape[:2] == seen.shape
        if distance(after[name][seen], tensor[seen]) <= examination.tolerance
    }

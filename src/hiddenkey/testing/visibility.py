"""The check that noise shows nobody what was hidden: padding, and in decoders later tokens.

A query that lost every key it may see must get its own keys back, and no hidden one. Where masks
are numbers that are added to the logits, that is easily missed: once all visible keys are gone,
softmax makes the hidden ones look visible.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hiddenkey.testing.examination import Examination
from hiddenkey.testing.findings import fail_if
from hiddenkey.testing.passes import (
    Batch,
    Tensors,
    differences,
    distance,
    without_dropout_modules,
)

_RATE = 0.7  # queries lose all their keys often
_SEEDS = 3


@dataclass(frozen=True)
class _Change:
    """Another word where it may be hidden."""

    what: str  # was changed, in words
    batch: Batch  # with the other words
    blind: Tensor  # the tokens that must not see them, boolean [batch, tokens]
    pooled: bool  # outputs that belong to no token must not see them either


def check_visibility(examination: Examination) -> str:
    """Outputs that do not depend on hidden tokens without noise do not with noise either.

    Outputs of visible tokens are compared before and after another word was put into the padding,
    and outputs of all tokens but the last before and after another last word. Whether the model
    itself hides these words is seen in evaluation.
    """
    noisy = examination.at_rate(_RATE, [drop for drop in examination.config.drops if drop.rate])
    faults: list[str] = []
    looked: list[str] = []
    for name, batch in examination.batches.items():
        changes = _changes(batch)
        hidden = _unmoved(examination, examination.runner.evaluate, batch, changes)
        looked += [f"{change.what} ({name})" for change in changes if hidden[change.what]]
        with without_dropout_modules(examination.model), examination.attached(noisy):
            for seed in range(_SEEDS):
                run = partial(examination.runner.forward, seed=seed)
                found = _unmoved(examination, run, batch, changes)
                moved = {what: hidden[what] - found[what] for what in hidden}
                if any(moved.values()) and not differences(run(batch), run(batch)):
                    faults += [
                        f"{name}: {what} changes {', '.join(sorted(outputs))}"
                        for what, outputs in moved.items()
                        if outputs
                    ]
    fail_if(list(dict.fromkeys(faults)))
    return f"nothing shows of {', '.join(looked)}" if looked else "the model hides no tokens"


def _changes(batch: Batch) -> list[_Change]:
    ids, mask = batch.get("input_ids"), batch.get("attention_mask")
    if not (isinstance(ids, Tensor) and ids.dim() == 2 and ids.shape[1] > 1):
        return []
    visible = torch.ones_like(ids, dtype=torch.bool)
    if isinstance(mask, Tensor) and mask.shape == ids.shape:
        visible = mask.bool()
    last = visible & (visible.flip(1).cumsum(1).flip(1) == 1)
    others = {**batch, "input_ids": _reworded(ids, visible, last)}
    found = [_Change("the last token", others, visible & ~last, pooled=False)]
    if not visible.all():
        others = {**batch, "input_ids": _reworded(ids, visible, ~visible)}
        found.append(_Change("padding", others, visible, pooled=True))
    return found


def _reworded(ids: Tensor, visible: Tensor, where: Tensor) -> Tensor:
    """Put another word of the batch wherever ``where`` says."""
    words = torch.unique(ids[visible])
    other = words[(torch.searchsorted(words, ids.clamp(words[0], words[-1])) + 1) % len(words)]
    return torch.where(where, other, ids)


def _unmoved(
    examination: Examination, run: Callable[[Batch], Tensors], batch: Batch, changes: list[_Change]
) -> dict[str, set[str]]:
    """Return for each change the outputs that it leaves equal."""
    before = run(batch) if changes else {}
    return {
        change.what: {
            name
            for name, tensor in run(change.batch).items()
            if name in before and _is_equal(tensor, before[name], change, examination.tolerance)
        }
        for change in changes
    }


def _is_equal(found: Tensor, expected: Tensor, change: _Change, tolerance: float) -> bool:
    if not expected.is_floating_point() or found.shape != expected.shape:
        return False
    if not (found.isfinite().all() and expected.isfinite().all()):
        return True  # which the check of padding names
    if expected.shape[:2] == change.blind.shape:
        return distance(found[change.blind], expected[change.blind]) <= tolerance
    is_pooled = expected.dim() <= 2  # a loss, or one vector per sequence; a memory has more axes
    return change.pooled and is_pooled and distance(found, expected) <= tolerance

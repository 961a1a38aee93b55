"""Earlier predictions of texts that are packed into a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import hiddenkey
from earlier_passes import TOP, change, config
from hiddenkey import DropoutConfig
from models import PAD, assert_same_gradients, plain_model, seeded, step

TEXTS = [torch.tensor(ids) for ids in ([5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15, 16], [17, 18])]


def packed(*order: int) -> dict[str, Any]:
    """Return one row of texts, as TRL's collator flattens a batch."""
    ids = torch.cat([TEXTS[each] for each in order])
    places = torch.cat([torch.arange(len(TEXTS[each])) for each in order])
    labels = ids.masked_fill(places == 0, -100)
    row = {"input_ids": ids[None], "position_ids": places[None], "labels": labels[None]}
    return {**row, "use_cache": False}  # as Trainer has it: with a cache texts see each other


def apart() -> dict[str, Tensor]:
    """Return the same texts, a row for each."""
    ids = torch.nn.utils.rnn.pad_sequence(TEXTS, batch_first=True, padding_value=PAD)
    mask = (ids != PAD).long()
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, 0] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
def test_packed_texts_are_recognised_one_by_one(lm_loss):
    found = []
    for inputs in ([apart()] * 2, [packed(0, 1, 2, 3), packed(2, 0, 3, 1)]):
        model = plain_model("llama", "causal")
        attachment = hiddenkey.attach(model, config(DropoutConfig(), top=TOP), lm_loss=lm_loss)
        for each in inputs:
            _, gradient = step(model, each)
            change(model)
        assert len(attachment.history) == attachment.history.recognised == len(TEXTS)
        found.append((attachment.losses["consistency"], gradient))
    assert found[0][0] > 1e-4
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-3)
    assert_same_gradients(found[1][1], found[0][1], rtol=1e-3, atol=1e-5)


def test_only_packed_texts_that_were_seen_are_compared():
    model = plain_model("llama", "causal")
    attachment = hiddenkey.attach(model, config(DropoutConfig(), top=TOP))
    step(model, packed(0, 1))
    step(model, packed(2, 1, 3))
    assert len(attachment.history) == 4
    assert attachment.history.recognised == 1
    assert attachment.losses["consistency"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("lm_loss", ["full", "chunked"])
def test_a_fraction_chooses_rows_with_all_texts_in_them(lm_loss):
    rows = [packed(0, 1), packed(2, 3)]  # as long as each other
    both = {
        name: torch.cat([row[name] for row in rows]) if name != "use_cache" else False
        for name in rows[0]
    }

    def compared(first: dict[str, Any], **settings: Any) -> float:
        model = plain_model("llama", "causal")
        attachment = hiddenkey.attach(model, config(DropoutConfig(), **settings), lm_loss=lm_loss)
        step(model, first)
        change(model)
        step(model, both, seed=3)
        return attachment.losses["consistency"]

    alone = [compared(row) for row in rows]
    assert sum(alone) == pytest.approx(compared(both), rel=1e-4)
    with seeded(3):
        chosen = int(torch.randperm(2)[0])
    assert compared(both, fraction=0.5) == pytest.approx(2 * alone[chosen], rel=1e-4)


def test_texts_that_predict_each_other_are_one_example():
    model = plain_model("llama", "causal")
    attachment = hiddenkey.attach(model, config(DropoutConfig(), top=TOP))
    whole = packed(0, 1, 2)
    whole["labels"] = whole["input_ids"].clone()
    step(model, whole)
    step(model, whole)
    assert len(attachment.history) == attachment.history.recognised == 1
    assert attachment.losses["consistency"] == pytest.approx(0, abs=1e-6)

"""Earlier predictions of answers, however their texts are padded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BartConfig, BartForQuestionAnswering

import hiddenkey
from earlier_passes import change, config
from hiddenkey import DropoutConfig
from models import PAD, VOCABULARY, assert_same_gradients, gradients, kl_by_hand, seeded, step
from task_models import model_for

LENGTHS = (6, 4, 5)


def answering(family: str) -> Any:
    if family != "bart":
        return model_for(family, "answers")
    sizes = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "init_std": 0.2}
    sizes |= {"encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 48}
    sizes |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    with seeded(0):
        return BartForQuestionAnswering(
            BartConfig(vocab_size=VOCABULARY, pad_token_id=PAD, **sizes)
        ).train()


def questions(family: str, side: str, tokens: int) -> dict[str, Tensor]:
    """Return the same texts of different lengths, padded to so many tokens."""
    draws = torch.Generator().manual_seed(2)
    size = (len(LENGTHS), tokens)
    inputs = {name: torch.zeros(size, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    first = [tokens - length if side == "left" else 0 for length in LENGTHS]
    for row, (start, length) in enumerate(zip(first, LENGTHS, strict=True)):
        where = slice(start, start + length)
        inputs["input_ids"][row, where] = torch.randint(3, VOCABULARY, (length,), generator=draws)
        inputs["attention_mask"][row, where] = 1
    if family != "bart":  # which counts its places from the padding on
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    inputs["start_positions"] = torch.tensor(first) + 1
    inputs["end_positions"] = torch.tensor(first) + 3
    return inputs


def divergence_of_answers(now: Any, earlier: Any, *inputs: dict[str, Tensor]) -> Tensor:
    """Return the mean over texts, then over start and end, each over the text's own tokens."""
    present, past = (each["attention_mask"].bool() for each in inputs)
    values = [
        kl_by_hand(getattr(now, name)[row][present[row]], getattr(earlier, name)[row][past[row]])
        for name in ("start_logits", "end_logits")
        for row in range(len(present))
    ]
    return torch.stack(values).mean()


@pytest.mark.parametrize("by", [0.0, 0.03], ids=["same weights", "other weights"])
@pytest.mark.parametrize(("first", "second"), [(6, 9), (9, 6)], ids=["wider", "narrower"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "bart"])
def test_answers_are_compared_over_the_texts_own_tokens(family, side, first, second, by):
    before, after = questions(family, side, first), questions(family, side, second)
    by_hand = answering(family).eval()
    with torch.no_grad():
        earlier = by_hand(**before)
    change(by_hand, by)
    output = by_hand(**after)
    expected = divergence_of_answers(output, earlier, after, before)
    (output.loss + expected).backward()
    moves = by > 0 or (family, side) == ("bart", "left")
    assert (expected > 1e-4) == moves

    model = answering(family)
    attachment = hiddenkey.attach(model, config(DropoutConfig()))
    step(model, before)
    change(model, by)
    _, found = step(model, after)
    assert attachment.history.recognised == len(LENGTHS)
    assert attachment.losses["consistency"] == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)
    assert_same_gradients(found, gradients(by_hand), rtol=1e-3, atol=1e-5)


def test_a_running_mean_of_answers_does_not_depend_on_padding():
    found = []
    for widths in ((6, 6, 6, 6), (6, 9, 7, 10)):
        model = answering("llama")
        attachment = hiddenkey.attach(model, config(DropoutConfig(), momentum=0.75))
        for tokens in widths:
            step(model, questions("llama", "left", tokens))
            change(model)
        found.append(attachment.losses["consistency"])
    assert found[0] > 1e-4
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_the_padding_token_marks_an_answers_tokens_where_no_mask_does():
    before, after = (questions("llama", "right", tokens) for tokens in (6, 9))
    del before["attention_mask"], after["attention_mask"]
    model = answering("llama")
    attachment = hiddenkey.attach(model, config(DropoutConfig()))
    step(model, before)
    step(model, after)
    assert attachment.history.recognised == len(LENGTHS)
    assert attachment.losses["consistency"] == pytest.approx(0, abs=1e-6)

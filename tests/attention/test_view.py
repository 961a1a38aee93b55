"""Reading the mask formats that transformers hands to attention."""

import math

import pytest
import torch

from hiddenkey.attention.view import read_mask

BATCH, LENGTH = 2, 5
VISIBLE = torch.tensor([[True] * 5, [False, False, True, True, True]])
CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()


def lines(mask):
    return mask.expand(BATCH, -1, LENGTH, -1)


def test_no_mask_restricts_nothing_but_order():
    encoder, causal = read_mask(None, causal=False), read_mask(None, causal=True)
    assert encoder.dense(LENGTH, LENGTH, torch.device("cpu")).all()
    assert causal.dense(LENGTH, LENGTH, torch.device("cpu"))[0, 0].equal(CAUSAL)
    for view in (encoder, causal):
        assert view.sdpa_mask() is None
        assert view.bias is None
        assert view.visible_keys(BATCH, LENGTH, torch.device("cpu")).visible.equal(
            torch.ones(2, 5).bool()
        )


def test_a_mask_expanded_over_queries_is_read_as_one_line():
    view = read_mask(lines(VISIBLE[:, None, None, :]), causal=False)
    assert view.allowed.shape == (BATCH, 1, 1, LENGTH)
    assert view.visible_keys(BATCH, LENGTH, torch.device("cpu")).visible.equal(VISIBLE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("hidden", ["smallest", "infinite"])
def test_boolean_and_float_masks_say_the_same(dtype, hidden):
    allowed = VISIBLE[:, None, None, :] & CAUSAL
    floor = torch.finfo(dtype).min if hidden == "smallest" else -math.inf
    added = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, floor)
    boolean, floating = read_mask(allowed, causal=False), read_mask(added, causal=False)
    device = torch.device("cpu")
    assert boolean.dense(LENGTH, LENGTH, device).equal(allowed)
    assert floating.dense(LENGTH, LENGTH, device).equal(allowed)
    assert floating.bias.eq(0).all()
    assert floating.sdpa_mask().isneginf().equal(~allowed)
    for view in (boolean, floating):
        assert view.visible_keys(BATCH, LENGTH, device).visible.equal(VISIBLE)


def test_a_bias_stays_and_is_not_taken_for_a_hidden_key():
    bias = -10.0 * torch.arange(LENGTH * LENGTH).view(1, 1, LENGTH, LENGTH)
    mask = bias.masked_fill(~CAUSAL, torch.finfo(torch.float32).min)
    view = read_mask(mask, causal=False)
    assert view.allowed[0, 0].equal(CAUSAL)
    assert view.bias.equal(bias.masked_fill(~CAUSAL, 0.0))
    assert view.sdpa_mask().equal(bias.masked_fill(~CAUSAL, -math.inf))


def test_a_key_is_visible_if_any_query_and_any_head_sees_it():
    allowed = torch.zeros(1, 3, 4, LENGTH, dtype=torch.bool)
    allowed[0, 0, 1, 2] = allowed[0, 2, 3, 4] = True
    keys = read_mask(allowed, causal=False).visible_keys(2, LENGTH, torch.device("cpu"))
    assert keys.visible.tolist() == [[False, False, True, False, True]] * 2

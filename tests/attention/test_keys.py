"""Properties of the masks over attention keys."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hiddenkey.attention import reference
from hiddenkey.attention.keys import VisibleKeys, draw_entries, draw_keys
from masks import RATES, SEEDS, padded, within_chance

HEADS = 4


def keys(pattern, rate, visible, seed, **switches):
    torch.manual_seed(seed)
    switches = {"protect_first": False, "share_heads": False, **switches}
    return draw_keys(pattern, rate, VisibleKeys(visible), HEADS, **switches)


def entries(rate, allowed, seed, **switches):
    torch.manual_seed(seed)
    switches = {"protect_first": False, "share_heads": False, **switches}
    return draw_entries("element", rate, allowed, HEADS, **switches)


def causal(visible):
    tokens = visible.shape[-1]
    return visible[:, None, None, :] & torch.ones(tokens, tokens, dtype=torch.bool).tril()


@st.composite
def views(draw):
    """What each query may see: ``[batch, 1, queries, keys]``, encoder or causal, padded."""
    visible = draw(padded(max_tokens=12))
    if draw(st.booleans()):
        return causal(visible)
    return visible[:, None, None, :].expand(-1, -1, visible.shape[-1], -1)


KEY_PATTERNS = pytest.mark.parametrize("pattern", ["column", "span"])


@KEY_PATTERNS
@given(visible=padded(), rate=RATES, seed=SEEDS, protect=st.booleans(), share=st.booleans())
def test_one_mask_for_all_queries_that_spares_padding(pattern, visible, rate, seed, protect, share):
    keep = keys(pattern, rate, visible, seed, protect_first=protect, share_heads=share)
    assert keep.shape == (len(visible), HEADS, visible.shape[1])
    assert keep.dtype == torch.bool
    assert (keep | visible.unsqueeze(1)).all()


@KEY_PATTERNS
@given(visible=padded(), rate=RATES, seed=SEEDS)
def test_every_head_keeps_a_visible_key(pattern, visible, rate, seed):
    keep = keys(pattern, rate, visible, seed)
    has_key = visible.any(-1)
    assert (keep & visible.unsqueeze(1)).any(-1)[has_key].all()


@given(visible=padded(), seed=SEEDS)
def test_a_head_that_would_lose_every_key_keeps_them_all(visible, seed):
    keep = keys("span", 0.999, visible, seed)  # 24 keys at most: the run covers them all
    assert keep.all()


@KEY_PATTERNS
@given(visible=padded(), rate=RATES, seed=SEEDS)
def test_protected_first_visible_key_never_falls(pattern, visible, rate, seed):
    keep = keys(pattern, rate, visible, seed, protect_first=True)
    for sample, row in enumerate(visible.tolist()):
        if True in row:
            assert keep[sample, :, row.index(True)].all()


@KEY_PATTERNS
@given(visible=padded(), rate=RATES, seed=SEEDS)
def test_protecting_the_first_key_leaves_every_causal_query_a_key(pattern, visible, rate, seed):
    keep = keys(pattern, rate, visible, seed, protect_first=True).unsqueeze(-2)
    allowed = causal(visible)
    assert (keep & allowed).any(-1).equal(allowed.any(-1).expand(-1, HEADS, -1))


@KEY_PATTERNS
def test_unprotected_first_key_falls_as_often_as_any(pattern):
    visible = torch.ones(500, 40, dtype=torch.bool)
    fallen = ~keys(pattern, 0.5, visible, seed=1)[..., 0]
    # a run of 20 among 40 covers the first key at 1 of 21 starts
    rate = 0.5 if pattern == "column" else 1 / 21
    assert within_chance(fallen.sum().item(), fallen.numel(), rate)


@pytest.mark.parametrize("pattern", ["column", "span", "element"])
def test_heads_differ_unless_they_share(pattern):
    visible = torch.ones(2, 40, dtype=torch.bool)

    def draw(share):
        if pattern == "element":
            allowed = visible[:, None, None, :].expand(-1, -1, 40, -1)
            return entries(0.5, allowed, seed=0, share_heads=share)
        return keys(pattern, 0.5, visible, seed=0, share_heads=share)

    own, shared = draw(False), draw(True)
    assert own.shape == shared.shape
    for sample in range(2):
        assert all(shared[sample, 0].equal(shared[sample, h]) for h in range(HEADS))
        assert len({tuple(own[sample, h].flatten().tolist()) for h in range(HEADS)}) == HEADS
    assert not shared[0].equal(shared[1])


@KEY_PATTERNS
@given(visible=padded(), rate=RATES, seed=SEEDS, protect=st.booleans(), share=st.booleans())
def test_same_seed_same_keys(pattern, visible, rate, seed, protect, share):
    switches = {"protect_first": protect, "share_heads": share}
    first = keys(pattern, rate, visible, seed, **switches)
    assert first.equal(keys(pattern, rate, visible, seed, **switches))


@given(visible=padded(max_batch=8, min_visible=16), rate=RATES, seed=SEEDS)
def test_share_of_keys_that_falls_is_the_rate(visible, rate, seed):
    keep = keys("column", rate, visible, seed, protect_first=True)
    counted = visible & ~VisibleKeys(visible).first
    fallen = (~keep & counted.unsqueeze(1)).sum().item()
    assert within_chance(fallen, HEADS * counted.sum().item(), rate)


@given(allowed=views(), rate=RATES, seed=SEEDS, protect=st.booleans(), share=st.booleans())
def test_entries_fall_only_where_a_query_may_see(allowed, rate, seed, protect, share):
    keep = entries(rate, allowed, seed, protect_first=protect, share_heads=share)
    assert keep.shape == (len(allowed), HEADS, *allowed.shape[2:])
    assert (keep | allowed).all()
    again = entries(rate, allowed, seed, protect_first=protect, share_heads=share)
    assert keep.equal(again)


@given(allowed=views(), rate=RATES, seed=SEEDS, protect=st.booleans())
def test_rescued_entries_leave_every_query_a_key(allowed, rate, seed, protect):
    keep = reference.rescue(entries(rate, allowed, seed, protect_first=protect), allowed)
    assert (keep & allowed).any(-1).equal(allowed.any(-1).expand(-1, HEADS, -1))


@given(allowed=views(), rate=RATES, seed=SEEDS)
def test_rescue_changes_only_queries_that_lost_every_key(allowed, rate, seed):
    drawn = entries(rate, allowed, seed)
    rescued = reference.rescue(drawn, allowed)
    for sample, head, query in torch.cartesian_prod(*map(torch.arange, drawn.shape[:3])).tolist():
        before, sees = drawn[sample, head, query], allowed[sample, 0, query]
        after = rescued[sample, head, query]
        if (before & sees).any():
            assert after.equal(before)
        else:
            assert after[sees].all()


@given(allowed=views(), rate=RATES, seed=SEEDS)
def test_entries_never_drop_the_protected_key(allowed, rate, seed):
    keep = entries(rate, allowed, seed, protect_first=True)
    for sample, seen in enumerate(allowed.any(-2)[:, 0].tolist()):
        if True in seen:
            assert keep[sample, :, :, seen.index(True)].all()


def test_only_the_first_key_of_the_sequence_is_protected():
    """In a sliding window, the first key that a later query sees is a key like others."""
    window = torch.ones(200, 1, 9, 9, dtype=torch.bool).tril().triu(-2)
    keep = entries(0.5, window, seed=0, protect_first=True)
    assert keep[..., 0].all()
    fallen = ~torch.stack([keep[:, :, query, query - 2] for query in range(3, 9)])
    assert within_chance(fallen.sum().item(), fallen.numel(), 0.5)


def test_queries_and_keys_may_differ_in_number():
    allowed = torch.ones(2, 1, 3, 7, dtype=torch.bool)
    allowed[1, ..., 5:] = False
    keep = entries(0.9, allowed, seed=0)
    assert keep.shape == (2, HEADS, 3, 7)
    assert (keep | allowed).all()


@given(seed=SEEDS, rate=RATES)
def test_share_of_entries_that_falls_is_the_rate(seed, rate):
    allowed = causal(torch.ones(3, 24, dtype=torch.bool))
    fallen = (~entries(rate, allowed, seed) & allowed).sum().item()
    assert within_chance(fallen, HEADS * allowed.sum().item(), rate)


@given(visible=padded())
def test_first_visible_marks_one_key_per_sample(visible):
    marked = VisibleKeys(visible).first
    for row, mark in zip(visible.tolist(), marked.tolist(), strict=True):
        assert mark == [v and not any(row[:i]) for i, v in enumerate(row)]

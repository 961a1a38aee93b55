"""Properties of the masks that every pattern draws."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hiddenkey.framework.patterns import PATTERNS
from masks import RATES, SEEDS, padded, within_chance

GROUPS, ENTRIES = 3, 5  # heads and queries, say


def draw(pattern, rate, visible, seed, entries=ENTRIES):
    """Return a mask of full shape ``[batch, groups, tokens, entries]``."""
    torch.manual_seed(seed)
    batch, tokens = visible.shape
    shape = (batch, GROUPS, tokens, entries)
    return PATTERNS[pattern](shape, rate, visible[:, None, :, None]).expand(shape)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(visible=padded(), rate=RATES, seed=SEEDS)
def test_same_seed_same_boolean_mask(pattern, visible, rate, seed):
    keep = draw(pattern, rate, visible, seed)
    assert keep.dtype == torch.bool
    assert keep.equal(draw(pattern, rate, visible, seed))


@pytest.mark.parametrize("pattern", PATTERNS)
@given(visible=padded(), seed=SEEDS)
def test_rate_zero_keeps_everything(pattern, visible, seed):
    assert draw(pattern, 0.0, visible, seed).all()


@pytest.mark.parametrize("pattern", ["element", "column", "span"])
@given(visible=padded(), rate=RATES, seed=SEEDS)
def test_what_is_not_visible_does_not_fall(pattern, visible, rate, seed):
    keep = draw(pattern, rate, visible, seed)
    assert (keep | visible[:, None, :, None]).all()


@pytest.mark.parametrize("pattern", ["column", "span"])
@given(visible=padded(), rate=RATES, seed=SEEDS)
def test_a_column_falls_as_a_whole(pattern, visible, rate, seed):
    keep = draw(pattern, rate, visible, seed)
    assert keep.equal(keep[..., :1].expand_as(keep))


@given(visible=padded(), rate=RATES, seed=SEEDS)
def test_a_feature_falls_for_all_tokens(visible, rate, seed):
    keep = draw("feature", rate, visible, seed)
    assert keep.equal(keep[..., :1, :].expand_as(keep))


# which axes of [batch, groups, tokens, entries] share no draw
INDEPENDENT = {"element": (0, 1, 2, 3), "column": (0, 1, 2), "feature": (0, 1, 3)}


@pytest.mark.parametrize("pattern", INDEPENDENT)
@given(visible=padded(max_batch=8, min_visible=8), rate=RATES, seed=SEEDS)
def test_share_that_falls_is_the_rate(pattern, visible, rate, seed):
    keep = draw(pattern, rate, visible, seed, entries=40)
    seen = visible[:, None, :, None].expand_as(keep)
    if pattern == "column":
        keep, seen = keep[..., 0], seen[..., 0]
    if pattern == "feature":
        keep, seen = keep[:, :, 0], torch.ones_like(keep[:, :, 0])
    assert within_chance((~keep & seen).sum().item(), seen.sum().item(), rate)


@pytest.mark.parametrize("pattern", [*INDEPENDENT, "span"])
def test_samples_and_groups_are_drawn_one_by_one(pattern):
    visible = torch.ones(4, 2048, dtype=torch.bool)
    keep = draw(pattern, 0.5, visible, seed=0, entries=32).flatten(0, 1).flatten(1)
    assert len({tuple(row.tolist()) for row in keep}) == len(keep)


@pytest.mark.parametrize(("pattern", "axis"), [("element", -1), ("element", -2), ("feature", -1)])
def test_neighbours_do_not_fall_together(pattern, axis):
    keep = draw(pattern, 0.5, torch.ones(16, 64, dtype=torch.bool), seed=0, entries=64)
    if pattern == "feature":
        keep = keep[:, :, :1]
    pairs = keep.unfold(axis, 2, 2)
    equal = pairs[..., 0].eq(pairs[..., 1])
    assert within_chance(equal.sum().item(), equal.numel(), 0.5)


@given(visible=padded(), rate=RATES, seed=SEEDS)
def test_a_span_is_one_run_of_the_stated_length_among_the_visible(visible, rate, seed):
    keep = draw("span", rate, visible, seed)[..., 0]
    for sample in range(len(visible)):
        count = visible[sample].sum().item()
        for row in keep[sample]:
            fallen = (~row[visible[sample]]).nonzero().flatten().tolist()
            assert abs(len(fallen) - rate * count) <= 0.5 + 1e-4
            assert fallen == list(range(fallen[0], fallen[0] + len(fallen))) if fallen else True


@given(
    gaps=st.lists(st.booleans(), min_size=2, max_size=30),
    rate=RATES,
    seed=SEEDS,
)
def test_a_span_steps_over_gaps_in_the_visible_tokens(gaps, rate, seed):
    visible = torch.tensor([gaps])
    keep = draw("span", rate, visible, seed)[0, :, :, 0]
    for row in keep:
        among_visible = row[visible[0]].tolist()
        fallen = among_visible.count(False)
        assert abs(fallen - rate * sum(gaps)) <= 0.5 + 1e-4
        if fallen:
            first = among_visible.index(False)
            assert among_visible[first : first + fallen] == [False] * fallen


@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_span_starts_anywhere_with_equal_chance(padding):
    count, length, draws = 12, 3, 20_000
    visible = torch.zeros(1, count + 5, dtype=torch.bool)
    visible[:, -count:] = True
    visible = visible if padding == "left" else visible.flip(-1)
    torch.manual_seed(7)
    shape = (draws, count + 5, 1)
    keep = PATTERNS["span"](shape, length / count, visible.unsqueeze(-1)).squeeze(-1)
    starts = (~keep[:, visible[0]]).int().argmax(-1)
    observed = torch.bincount(starts, minlength=count - length + 1)
    assert len(observed) == count - length + 1
    assert stats.chisquare(observed.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("pattern", PATTERNS)
def test_draws_follow_the_global_generator_and_leave_it_moved(pattern):
    visible = torch.ones(2, 32, dtype=torch.bool)

    def draws():
        masks = (PATTERNS[pattern]((2, 32, 32), 0.5, visible.unsqueeze(-1)) for _ in range(20))
        return torch.stack([mask.expand(2, 32, 32) for mask in masks])

    state = torch.get_rng_state()
    first, second = draws(), draws()
    torch.set_rng_state(state)
    assert first.equal(draws())
    assert not first.equal(second)


def test_an_adapter_falls_for_all_groups_at_its_rate():
    visible = torch.ones(3, 1, 7, 1, dtype=torch.bool)
    draws = [PATTERNS["adapter"]((3, 2, 7, 5), 0.3, visible) for _ in range(2000)]
    assert {tuple(mask.shape) for mask in draws} == {(1, 1, 1, 1)}
    assert within_chance(sum(not mask.item() for mask in draws), len(draws), 0.3)
    assert PATTERNS["adapter"]((3, 2, 7, 5), 0.9, ~visible).all()


@pytest.mark.parametrize("rate", [0.004, 0.0099, 0.01, 0.1, 0.5, 0.99999])
def test_element_meets_its_rate_to_within_chance(rate):
    """Below and above the rate from which 16 random bits are drawn for a unit."""
    torch.manual_seed(0)
    visible = torch.ones(1, 1, 1, dtype=torch.bool)
    keep = PATTERNS["element"]((4, 500, 1001), rate, visible)
    fallen = keep.numel() - int(keep.sum())
    assert stats.binomtest(fallen, keep.numel(), rate).pvalue > 1e-3


def test_neighbouring_elements_are_independent():
    """Four neighbours come from one random word."""
    torch.manual_seed(0)
    keep = PATTERNS["element"]((1, 1, 400_000), 0.3, torch.ones(1, 1, 1, dtype=torch.bool))
    counts = torch.bincount((keep.view(-1, 4) * torch.tensor([1, 2, 4, 8])).sum(-1), minlength=16)
    kept = torch.tensor([bin(word).count("1") for word in range(16)])
    expected = 100_000 * 0.7**kept * 0.3 ** (4 - kept)
    assert stats.chisquare(counts.numpy(), expected.double().numpy(), sum_check=False).pvalue > 1e-3


def test_nearly_all_fall_at_a_rate_of_nearly_one():
    """The threshold of 16 random bits must not run over."""
    visible = torch.ones(200, 40, 1, dtype=torch.bool)
    keep = PATTERNS["element"]((200, 40, 8), 0.999999, visible)
    assert keep.float().mean() < 0.001

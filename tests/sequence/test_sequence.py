"""Noise in a sequence of vectors: what falls, and what a module's hook does with it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hiddenkey import AttachError, Drop
from hiddenkey.errors import ConfigError
from hiddenkey.framework.patterns import PATTERNS
from hiddenkey.framework.positions import POSITIONS, Position
from hiddenkey.measure import ShareCounter
from hiddenkey.sequence import drop as sequence
from hiddenkey.sequence.site import SequenceSite
from masks import RATES, SEEDS, padded, within_chance

FEATURES = 6


@pytest.mark.parametrize("pattern", PATTERNS)
@given(visible=padded(), rate=RATES, seed=SEEDS)
def test_masks_of_a_sequence(pattern, visible, rate, seed):
    states = torch.ones(*visible.shape, FEATURES)

    def draw(share):
        torch.manual_seed(seed)
        return sequence.draw_sequence(pattern, share, states, visible).expand_as(states)

    keep = draw(rate)
    assert keep.equal(draw(rate))
    assert draw(0.0).all()
    if pattern in ("column", "span"):  # a token's whole vector
        assert keep.equal(keep[..., :1].expand_as(keep))
    if pattern == "adapter":
        assert keep.equal(keep[:1, :1, :1].expand_as(keep))
    elif pattern in ("feature", "rank", "two-sided"):
        assert keep.equal(keep[:, :1].expand_as(keep))
    else:  # padding does not fall
        assert keep[~visible].all()


@given(visible=padded(max_tokens=40), rate=RATES, seed=SEEDS)
def test_span_counts_the_valid_tokens_of_each_sample(visible, rate, seed):
    torch.manual_seed(seed)
    states = torch.ones(*visible.shape, FEATURES)
    keep = sequence.draw_sequence("span", rate, states, visible).expand_as(states)[..., 0]
    for row, seen in zip(keep, visible, strict=True):
        fallen = (~row[seen]).nonzero().flatten()
        assert abs(len(fallen) - rate * seen.sum().item()) <= 0.5 + 1e-4
        assert (fallen.diff() == 1).all()


@given(rate=RATES, seed=SEEDS)
def test_vectors_without_a_sequence_drop_their_elements(rate, seed):
    torch.manual_seed(seed)
    states = torch.ones(50, 80)
    keep = sequence.draw_sequence("element", rate, states, torch.ones(1, 1, dtype=torch.bool))
    assert keep.shape == states.shape
    assert within_chance((~keep).sum().item(), keep.numel(), rate)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(visible=padded(), rate=RATES, seed=SEEDS)
def test_measured_share_is_a_direct_count(pattern, visible, rate, seed):
    torch.manual_seed(seed)
    states = torch.ones(*visible.shape, FEATURES)
    counter = ShareCounter()
    fallen = total = 0
    for _ in range(3):
        keep = sequence.draw_sequence(pattern, rate, states, visible)
        counter.add(keep, visible.unsqueeze(-1))
        for b, t in visible.nonzero().tolist():
            total += FEATURES
            fallen += keep.expand_as(states)[b, t].tolist().count(False)
    expected = fallen / total if total else math.nan
    assert counter.read() == pytest.approx(expected, rel=1e-6, nan_ok=True)
    assert math.isnan(counter.read())  # reading starts the count again


def test_measured_share_of_attention_keys_is_a_direct_count():
    visible = torch.rand(3, 9) > 0.2
    keep = (torch.rand(3, 4, 9) > 0.3) | ~visible.unsqueeze(1)
    counter = ShareCounter()
    counter.add(keep, visible.unsqueeze(1))
    seen = [(b, h, k) for b, k in visible.nonzero().tolist() for h in range(4)]
    expected = sum(not keep[where] for where in seen) / len(seen)
    assert counter.read() == pytest.approx(expected, rel=1e-6)


class Echo(nn.Module):
    """Returns what it gets, as a module of a transformer would."""

    def forward(self, hidden_states, *, extra=None):
        return hidden_states if extra is None else (hidden_states, extra)


def site(drop, visible=None, counts=True):
    return SequenceSite(drop, visible=lambda: visible, counting=lambda: counts)


HIDDEN = Drop("hidden", "element", 0.4)


@pytest.mark.parametrize("before", [True, False])
def test_a_training_module_multiplies_by_the_mask_over_the_kept_share(before):
    module, states = Echo(), torch.randn(4, 20, 8)
    site(HIDDEN).hook(module, before=before)
    found = module(states)
    ratio = found / states
    kept = ratio != 0
    torch.testing.assert_close(ratio[kept], torch.full_like(ratio[kept], 1 / (1 - 0.4)))
    assert within_chance((~kept).sum().item(), kept.numel(), 0.4)


@pytest.mark.parametrize("before", [True, False])
def test_evaluation_is_bit_equal_and_draws_nothing(before):
    module, states = Echo().eval(), torch.randn(4, 20, 8)
    noise = site(HIDDEN)
    noise.hook(module, before=before)
    state = torch.get_rng_state()
    assert module(states) is states
    assert torch.get_rng_state().equal(state)
    assert math.isnan(noise.counter.read())


@pytest.mark.parametrize("rescale", ["inverse", "none"])
def test_rate_zero_is_the_identity(rescale):
    module, states = Echo(), torch.randn(4, 20, 8)
    site(Drop("hidden", "column", 0.0, rescale)).hook(module, before=False)
    assert module(states).equal(states)


def test_gradient_is_zero_where_dropped_and_scaled_where_kept():
    module, states = Echo(), torch.randn(2, 10, 8, requires_grad=True)
    site(HIDDEN).hook(module, before=False)
    found = module(states)
    gradient = torch.autograd.grad(found.sum(), states)[0]
    torch.testing.assert_close(gradient, (found != 0) / (1 - 0.4))


def test_first_part_of_a_tuple_drops_and_the_rest_stays():
    module, states, extra = Echo(), torch.ones(2, 10, 8), torch.ones(3)
    site(HIDDEN).hook(module, before=False)
    found, rest = module(states, extra=extra)
    assert found.eq(0).any()
    assert rest is extra


def test_hidden_states_given_by_name_drop_as_well():
    module, states = Echo(), torch.ones(2, 10, 8)
    site(Drop("input", "element", 0.4)).hook(module, before=True)
    assert module(hidden_states=states).eq(0).any()


def test_a_call_without_hidden_states_is_refused():
    class Other(nn.Module):
        def forward(self, *, pixels):
            return pixels

    module = Other()
    site(Drop("input", "element", 0.4)).hook(module, before=True)
    with pytest.raises(AttachError, match=r"Other was called without its hidden states.*'input'"):
        module(pixels=torch.ones(2, 3))


@given(visible=padded(max_tokens=30, min_visible=1), rate=RATES, seed=SEEDS)
def test_hook_counts_visible_units_and_spares_padding(visible, rate, seed):
    torch.manual_seed(seed)
    module, states = Echo(), torch.ones(*visible.shape, FEATURES)
    noise = site(Drop("hidden", "column", rate, "none"), visible)
    noise.hook(module, before=False)
    found = module(states)
    assert found[~visible].eq(1).all()
    expected = found[visible].eq(0).double().mean().item()
    expected = expected if rate else float("nan")  # nothing is drawn
    assert noise.counter.read() == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_a_recomputed_layer_is_not_counted():
    module = Echo()
    noise = site(HIDDEN, counts=False)
    noise.hook(module, before=False)
    module(torch.ones(2, 10, 8))
    assert math.isnan(noise.counter.read())


@given(tokens=st.integers(1, 6), visible=padded(max_tokens=6))
def test_padding_of_another_length_is_not_applied(tokens, visible):
    """A decoder's module, say, does not see the encoder's padding."""
    module = Echo()
    noise = site(Drop("hidden", "column", 0.5, "none"), visible)
    noise.hook(module, before=False)
    states = torch.ones(7, tokens, FEATURES)  # a batch that padded() never draws
    found = module(states)
    assert noise.counter.read() == pytest.approx(found.eq(0).double().mean().item(), rel=1e-6)


def test_a_position_inside_of_a_module_acts_where_its_own_code_calls_the_site(monkeypatch):
    class Doubling(nn.Module):
        inner = staticmethod(lambda states: states)

        def forward(self, states):
            return 2 * self.inner(states)

    class Handle:
        def __init__(self, module):
            self.module = module

        def remove(self):
            del self.module.inner

    def install(module, site):
        module.inner = site.apply
        return Handle(module)

    inside = Position(where="what is doubled", acts="inside", inside=install)
    monkeypatch.setitem(POSITIONS, "doubled", inside)
    module, noise = Doubling().train(), site(Drop("doubled", "element", 0.5))
    handle = noise.install(module)
    states = torch.ones(4, 50, 20)
    dropped = module(states)
    assert set(dropped.unique().tolist()) == {0.0, 4.0}  # 2 · 1 / (1 − 0.5)
    assert noise.counter.read() == pytest.approx((dropped == 0).float().mean().item())
    assert module.eval()(states).equal(2 * states)
    handle.remove()
    assert module.train()(states).equal(2 * states)


@pytest.mark.parametrize(("acts", "inside"), [("inside", None), ("after", "logits")])
def test_a_position_that_does_not_say_how_it_acts_is_refused(acts, inside):
    with pytest.raises(ConfigError, match="exactly if `inside` says how, got acts="):
        Position(where="somewhere", acts=acts, inside=inside)

"""What two passes with equal masks do to attention's logits, against the paper's equations."""

import pytest
import torch

import paper
from gradient_noise.attention_maps import (
    QUANTILES,
    LogitsSpy,
    MapStatistics,
    SeenLogits,
    gradient_ratio,
)
from hiddenkey.attention import reference

BATCH, HEADS, QUERIES, KEYS, WIDTH = 2, 2, 5, 5, 4


def tiny(seed=0, padded=0):
    """Queries, keys, values, the gradient to the output, keep mask and visible keys."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value, upstream = (
        torch.randn(BATCH, HEADS, QUERIES, WIDTH, generator=generator, dtype=torch.float64)
        for _ in range(4)
    )
    keep = torch.rand(BATCH, HEADS, 1, KEYS, generator=generator) >= 0.4
    keep[..., 0] = True
    allowed = torch.ones(BATCH, 1, QUERIES, KEYS, dtype=torch.bool)
    if padded:
        allowed[1, ..., -padded:] = False
    return query, key.requires_grad_(), value, upstream, keep, allowed


def seen(parts, **drops):
    """Run attention with the given drops and return what the spy saw, and the output."""
    query, key, value, upstream, _, allowed = parts
    with LogitsSpy() as spy:
        output = reference.attention(query, key, value, allowed=allowed, scaling=0.5, **drops)
    (output * upstream).sum().backward()
    return spy.seen[0], output.detach()


def both(parts, **more):
    keep = parts[4]
    return seen(parts, logits_keep=keep), seen(parts, weights_keep=keep, **more)


def test_gradients_are_those_of_the_derived_form():
    """∂L/∂g = w'(a − ⟨w', a⟩), and DropAttention adds ⟨w', a⟩(w' − w)."""
    parts = tiny()
    _, _, value, upstream, keep, _ = parts
    (dropkey, one), (dropattention, two) = both(parts)
    torch.testing.assert_close(one, two)
    weights = dropattention.logits.softmax(-1)
    kept = (weights * keep) / (weights * keep).sum(-1, keepdim=True)
    towards = upstream @ value.transpose(-1, -2)
    inner = (kept * towards).sum(-1, keepdim=True)
    torch.testing.assert_close(dropkey.gradient, kept * (towards - inner))
    extra = dropattention.gradient - dropkey.gradient
    torch.testing.assert_close(extra, inner * (kept - weights))
    torch.testing.assert_close(inner, (one * upstream).sum(-1, keepdim=True))


def test_shares_are_those_of_the_papers_derivatives():
    parts = tiny(1)
    _, _, value, upstream, keep, _ = parts
    (dropkey, _), (dropattention, _) = both(parts)
    statistics = MapStatistics()
    statistics.add([dropkey], [dropattention])
    found = statistics.findings()
    on_fallen, on_all = 0.0, 0.0
    towards = upstream @ value.transpose(-1, -2)
    for place in torch.cartesian_prod(*map(torch.arange, (BATCH, HEADS, QUERIES))).tolist():
        batch, head, query = place
        logits = dropattention.logits[batch, head, query].tolist()
        kept = keep[batch, head, 0].tolist()
        for j in range(KEYS):
            slope = sum(
                towards[batch, head, query, u].item()
                * paper.dropattention_gradient(logits, kept, u, j)
                for u in range(KEYS)
            )
            on_all += abs(slope)
            on_fallen += 0.0 if kept[j] else abs(slope)
    assert found.shares["dropattention"].absolute == pytest.approx(on_fallen / on_all)
    assert found.shares["dropattention"].absolute > 0.05
    assert found.shares["dropkey"].absolute == 0.0
    assert found.shares["dropkey"].squared == 0.0


def test_dropattention_without_nograd_sends_nothing_to_dropped_keys():
    parts = tiny(2)
    (dropkey, _), (other, _) = both(parts, rescaling="normalised-with-gradient")
    torch.testing.assert_close(dropkey.gradient, other.gradient)
    statistics = MapStatistics()
    statistics.add([dropkey], [other])
    assert statistics.findings().shares["dropattention"].absolute < 1e-12


def test_k_is_equation_10():
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(KEYS, generator=generator, dtype=torch.float64)
    keep = torch.tensor([True, False, True, True, False])
    weights = logits.softmax(-1)
    kept = logits.masked_fill(~keep, -torch.inf).softmax(-1)
    k = gradient_ratio(weights, kept)
    for u in torch.nonzero(keep).flatten().tolist():
        expected = paper.ratio(logits.tolist(), keep.tolist(), u)
        assert k[u].item() == pytest.approx(expected)
        slopes = [
            gradient(logits.tolist(), keep.tolist(), u, u)
            for gradient in (paper.dropkey_gradient, paper.dropattention_gradient)
        ]
        assert k[u].item() == pytest.approx(slopes[0] / slopes[1])


def test_k_of_the_only_key_left_is_0():
    alone = torch.tensor([0.0, -torch.inf], dtype=torch.float64).softmax(-1)
    assert gradient_ratio(torch.tensor([0.5, 0.5]).double(), alone)[0] == 0.0


def test_quantiles_of_k_and_dropped_shares():
    parts = tiny(4)
    keep = parts[4].expand(-1, -1, QUERIES, -1)
    (dropkey, _), (dropattention, _) = both(parts)
    statistics = MapStatistics()
    statistics.add([dropkey], [dropattention])
    found = statistics.findings()
    weights = dropattention.logits.softmax(-1)
    kept = dropkey.logits.softmax(-1)
    chosen = keep & ~keep.all(-1, keepdim=True)
    k, attended = gradient_ratio(weights, kept)[chosen].sort()[0], kept[chosen]
    order = gradient_ratio(weights, kept)[chosen].argsort()
    cumulated = attended[order].cumsum(0) / attended.sum()
    for q in QUANTILES:
        place = min(int(torch.ceil(torch.tensor(q * len(k))).item()) - 1, len(k) - 1)
        assert found.k[f"{q:g}"] == pytest.approx(k[place].item(), abs=1e-3)
        heavy = int(torch.searchsorted(cumulated, q))
        assert found.k_attended[f"{q:g}"] == pytest.approx(k[heavy].item(), abs=1e-3)
    assert found.dropped == pytest.approx((~keep).double().mean().item())
    assert found.mass == pytest.approx((weights * ~keep).sum(-1).mean().item())


def test_padding_counts_neither_as_key_nor_as_query():
    """Of two sequences the second has three tokens."""
    parts = tiny(5, padded=2)
    (dropkey, _), (dropattention, _) = both(parts)
    statistics = MapStatistics()
    statistics.add([dropkey], [dropattention])
    keep = parts[4].squeeze(2)
    fallen = QUERIES * (~keep[0]).sum() + 3 * (~keep[1, :, :3]).sum()
    assert statistics.findings().dropped == pytest.approx(
        fallen.item() / (HEADS * (QUERIES * KEYS + 3 * 3))
    )


def test_nothing_seen_is_said_as_none():
    found = MapStatistics().findings()
    assert (found.dropped, found.mass, found.k, found.k_attended) == (None, None, None, None)
    assert found.shares == {}


def test_the_spy_sees_attention_maps_alone():
    routing = torch.randn(4, 3, requires_grad=True)
    frozen, trained = torch.randn(1, 1, 2, 2), torch.randn(1, 1, 2, 2, requires_grad=True)
    with LogitsSpy() as spy:
        for logits in (routing, frozen, trained):
            logits.softmax(-1)
        result = torch.nn.functional.softmax(trained, dim=-1)
    assert [entry.logits.shape for entry in spy.seen] == [trained.shape] * 2
    assert spy.seen[1].gradient is None
    result.square().sum().backward()
    assert spy.seen[1].gradient.shape == trained.shape


def test_passes_of_different_models_are_refused():
    seen_logits = SeenLogits(torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match="zip"):
        MapStatistics().add([seen_logits], [])

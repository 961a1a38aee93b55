"""Equations 7-10 of arXiv 2403.00812, held against the specification and the fused paths.

One query with logits g is laid out as an attention of its own: the query is g, and the keys and
values are unit vectors, so that g_j = q · k_j, the output is w', and the gradient to the query is
the gradient to the logits.
"""

import itertools

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import paper
from hiddenkey.attention import fused, reference

KEYS = 6
ALL = torch.ones(1, 1, 1, KEYS, dtype=torch.bool)


def dropkey_reference(query, unit, keep):
    return reference.attention(query, unit, unit, allowed=ALL, scaling=1.0, logits_keep=keep)


def dropkey_value_column(query, unit, keep):
    return fused.value_column(
        query,
        unit,
        unit,
        keep.squeeze(-2),
        mask=None,
        is_causal=False,
        scaling=1.0,
        stop_gradient=False,
    )


def dropkey_key_mask(query, unit, keep):
    return fused.key_mask(
        query, unit, unit, keep.squeeze(-2), mask=None, is_causal=False, scaling=1.0
    )


def dropattention_reference(query, unit, keep, rescaling="normalised", rate=0.0):
    return reference.attention(
        query,
        unit,
        unit,
        allowed=ALL,
        scaling=1.0,
        weights_keep=keep,
        rate=rate,
        rescaling=rescaling,
    )


def dropattention_value_column(query, unit, keep):
    return fused.value_column(
        query,
        unit,
        unit,
        keep.squeeze(-2),
        mask=None,
        is_causal=False,
        scaling=1.0,
        stop_gradient=True,
    )


def dropattention_with_gradient(query, unit, keep):
    return dropattention_reference(query, unit, keep, "normalised-with-gradient")


DROPKEY = pytest.mark.parametrize(
    "attention", [dropkey_reference, dropkey_value_column, dropkey_key_mask]
)
DROPATTENTION = pytest.mark.parametrize(
    "attention", [dropattention_reference, dropattention_value_column]
)
SAME_AS_DROPKEY = pytest.mark.parametrize(
    "attention",
    [dropkey_value_column, dropkey_key_mask, dropattention_with_gradient],
)
CASES = {
    "logits": st.lists(st.floats(-4, 4), min_size=KEYS, max_size=KEYS),
    "keep": st.lists(st.booleans(), min_size=KEYS, max_size=KEYS).filter(any),
}


def weights(attention, logits, keep, **settings):
    """Return w' and the matrix of ∂w'_u/∂g_j."""
    unit = torch.eye(KEYS, dtype=torch.float64)[None, None]
    mask = torch.tensor(keep)[None, None, None]

    def of_logits(g):
        return attention(g[None, None, None], unit, mask, **settings)[0, 0, 0]

    g = torch.tensor(logits, dtype=torch.float64)
    return of_logits(g).tolist(), torch.autograd.functional.jacobian(of_logits, g).tolist()


def close(expected):
    return pytest.approx(expected, rel=1e-9, abs=1e-12)


@DROPKEY
@given(**CASES)
def test_dropkey_forward(attention, logits, keep):
    found, _ = weights(attention, logits, keep)
    assert found == close(paper.dropkey(logits, keep))
    assert sum(found) == close(1.0)


@DROPKEY
@given(**CASES)
def test_dropkey_gradient_equation_7(attention, logits, keep):
    _, gradient = weights(attention, logits, keep)
    for u in range(KEYS):
        expected = [paper.dropkey_gradient(logits, keep, u, j) for j in range(KEYS)]
        assert gradient[u] == close(expected)  # 0 to every masked logit


@DROPATTENTION
@given(**CASES)
def test_dropattention_forward_equals_dropkey_for_equal_masks(attention, logits, keep):
    found, _ = weights(attention, logits, keep)
    assert found == close(paper.dropattention(logits, keep, 0.0, "normalised"))
    assert found == close(paper.dropkey(logits, keep))


@DROPATTENTION
@given(**CASES)
def test_dropattention_gradient_equations_8_and_9(attention, logits, keep):
    _, gradient = weights(attention, logits, keep)
    for u in range(KEYS):
        expected = [paper.dropattention_gradient(logits, keep, u, j) for j in range(KEYS)]
        assert gradient[u] == close(expected)
        assert all(
            gradient[u][m] < 0 for m in range(KEYS) if keep[u] and not keep[m]
        )  # noise that reaches a masked logit


@SAME_AS_DROPKEY
@given(**CASES)
def test_without_stop_gradient_dropattention_is_dropkey(attention, logits, keep):
    found, gradient = weights(attention, logits, keep)
    assert found == close(paper.dropkey(logits, keep))
    for u in range(KEYS):
        assert gradient[u] == close(
            [paper.dropkey_gradient(logits, keep, u, j) for j in range(KEYS)]
        )


@DROPKEY
@pytest.mark.parametrize("noisy", [dropattention_reference, dropattention_value_column])
@given(**CASES)
def test_ratio_of_the_gradients_equation_10(attention, noisy, logits, keep):
    _, clean_gradient = weights(attention, logits, keep)
    _, noisy_gradient = weights(noisy, logits, keep)
    for u in range(KEYS):
        if not keep[u] or keep.count(True) == 1:
            continue
        k = clean_gradient[u][u] / noisy_gradient[u][u]
        assert k == pytest.approx(paper.ratio(logits, keep, u), rel=1e-6)
        assert k < 1 or all(keep)


@given(
    logits=CASES["logits"],
    masked=st.integers(0, KEYS - 1),
    rises=st.lists(st.floats(0.2, 3), min_size=1, max_size=4),
)
def test_ratio_falls_as_the_masked_logit_grows(logits, masked, rises):
    keep = [j != masked for j in range(KEYS)]
    u = (masked + 1) % KEYS
    ratios = []
    for rise in [0.0, *rises]:
        logits = [g + rise * (j == masked) for j, g in enumerate(logits)]
        _, clean = weights(dropkey_reference, logits, keep)
        _, noisy = weights(dropattention_reference, logits, keep)
        ratios.append(clean[u][u] / noisy[u][u])
    assert all(0 < later < earlier < 1 for earlier, later in itertools.pairwise(ratios))


@pytest.mark.parametrize("rescaling", ["inverse", "none"])
@given(**CASES, rate=st.floats(0, 0.9))
def test_rescaling_by_a_constant(rescaling, logits, keep, rate):
    found, gradient = weights(dropattention_reference, logits, keep, rescaling=rescaling, rate=rate)
    assert found == close(paper.dropattention(logits, keep, rate, rescaling))
    factor = 1 / (1 - rate) if rescaling == "inverse" else 1.0
    for u in range(KEYS):
        expected = [factor * keep[u] * paper.softmax_gradient(logits, u, j) for j in range(KEYS)]
        assert gradient[u] == close(expected)


@example([1.0, 0.5, 0.0, -0.5, 2.0, 0.3], [True, False] * 3, [False, True] * 3)
@given(
    logits=CASES["logits"],
    first=CASES["keep"],
    second=CASES["keep"],
)
def test_both_positions_together_keep_what_both_keep(logits, first, second):
    both = [a and b for a, b in zip(first, second, strict=True)]

    def attention(query, unit, keep):
        return reference.attention(
            query,
            unit,
            unit,
            allowed=ALL,
            scaling=1.0,
            logits_keep=torch.tensor(first)[None, None, None],
            weights_keep=torch.tensor(second)[None, None, None],
        )

    found, gradient = weights(attention, logits, both)
    # the weights' mask alone would leave no key: the query keeps what the logits' mask left
    assert found == close(paper.dropkey(logits, both if any(both) else first))
    for u in range(KEYS):
        assert all(gradient[u][m] == 0 for m in range(KEYS) if not first[m])


@pytest.mark.parametrize(
    "attention",
    [
        dropkey_reference,
        dropattention_reference,
        dropkey_value_column,
        dropattention_value_column,
    ],
)
@given(logits=CASES["logits"])
def test_a_query_that_would_lose_every_key_keeps_them_all(attention, logits):
    found, gradient = weights(attention, logits, [False] * KEYS)
    assert found == close(paper.softmax(logits))
    for u in range(KEYS):
        assert gradient[u] == close([paper.softmax_gradient(logits, u, j) for j in range(KEYS)])


def test_scaling_and_bias_form_the_logits():
    draws = [torch.randn(1, 1, KEYS, KEYS, dtype=torch.float64) for _ in range(3)]
    query, key, bias = draws
    unit = torch.eye(KEYS, dtype=torch.float64)[None, None]
    found = reference.attention(query, key, unit, allowed=ALL, scaling=0.3, bias=bias)
    for i in range(KEYS):
        logits = [
            0.3 * sum(a * b for a, b in zip(query[0, 0, i].tolist(), k, strict=True)) + c
            for k, c in zip(key[0, 0].tolist(), bias[0, 0, i].tolist(), strict=True)
        ]
        assert found[0, 0, i].tolist() == close(paper.softmax(logits))


def test_a_query_that_sees_no_key_gives_zero_and_no_gradient():
    unit = torch.eye(KEYS, dtype=torch.float64)[None, None]
    query = torch.randn(1, 1, 1, KEYS, dtype=torch.float64, requires_grad=True)
    for keeps in ({}, {"logits_keep": ALL}, {"weights_keep": ALL}):
        found = reference.attention(query, unit, unit, allowed=~ALL, scaling=1.0, **keeps)
        assert found.eq(0).all()
        assert torch.autograd.grad(found.sum(), query)[0].eq(0).all()


def test_model_dropout_acts_on_the_kept_weights():
    unit = torch.eye(KEYS, dtype=torch.float64)[None, None]
    query = torch.randn(1, 1, 4000, KEYS, dtype=torch.float64)
    keep = torch.tensor([True, True, False, True, True, True])
    plain = reference.attention(query, unit, unit, allowed=ALL, scaling=1.0, logits_keep=keep)
    noisy = reference.attention(
        query, unit, unit, allowed=ALL, scaling=1.0, logits_keep=keep, dropout=0.25
    )
    fallen = noisy.eq(0)
    assert fallen[..., 2].all()
    assert fallen[..., keep].double().mean().item() == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(noisy[~fallen], plain[~fallen] / 0.75)

"""Bidirectional KL (R-Drop, arXiv 2106.14448), in value, gradient and precision."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

import paper
from hiddenkey.framework.compensation.kl import bidirectional_kl
from masks import SEEDS


def two_passes(rows=5, classes=7, distance=1.0, dtype=torch.float64):
    first = torch.randn(rows, classes, dtype=torch.float64) * 2
    second = first + distance * torch.randn(rows, classes, dtype=torch.float64)
    return first.to(dtype), second.to(dtype)


def probabilities(logits):
    return [paper.softmax(row) for row in logits.double().tolist()]


@given(seed=SEEDS, classes=st.integers(2, 40), distance=st.floats(1e-3, 5))
def test_equals_the_definition_row_by_row(seed, classes, distance):
    torch.manual_seed(seed)
    first, second = two_passes(classes=classes, distance=distance)
    p, q = special.softmax(first.numpy(), -1), special.softmax(second.numpy(), -1)
    expected = (special.rel_entr(p, q) + special.rel_entr(q, p)).sum(-1) / 2
    found = bidirectional_kl(first, second)
    assert found.shape == (5,)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-9, atol=1e-14)


def test_agrees_with_the_loops_of_the_paper():
    first, second = two_passes()
    expected = [
        paper.bidirectional(p, q)
        for p, q in zip(probabilities(first), probabilities(second), strict=True)
    ]
    assert bidirectional_kl(first, second).tolist() == pytest.approx(expected, rel=1e-12)


def test_is_symmetric_and_zero_only_for_equal_distributions():
    first, second = two_passes()
    torch.testing.assert_close(bidirectional_kl(first, second), bidirectional_kl(second, first))
    assert (bidirectional_kl(first, second) > 0).all()
    assert bidirectional_kl(first, first).eq(0).all()
    shifted = bidirectional_kl(first, first + 3.0)  # softmax does not see a shift
    assert shifted.abs().max() < 1e-14


def test_gradient_through_one_branch():
    first, second = two_passes()
    first.requires_grad_()
    second.requires_grad_()
    bidirectional_kl(first, second.detach()).sum().backward()
    for gradient, p, q in zip(
        first.grad.tolist(),
        probabilities(first.detach()),
        probabilities(second.detach()),
        strict=True,
    ):
        assert gradient == pytest.approx(paper.bidirectional_gradient(p, q), rel=1e-9, abs=1e-14)
    assert second.grad is None


def test_gradient_through_both_branches():
    first, second = two_passes()
    first.requires_grad_()
    second.requires_grad_()
    bidirectional_kl(first, second).sum().backward()
    for gradient_1, gradient_2, p, q in zip(
        first.grad.tolist(),
        second.grad.tolist(),
        probabilities(first.detach()),
        probabilities(second.detach()),
        strict=True,
    ):
        assert gradient_1 == pytest.approx(paper.bidirectional_gradient(p, q), rel=1e-9, abs=1e-14)
        assert gradient_2 == pytest.approx(paper.bidirectional_gradient(q, p), rel=1e-9, abs=1e-14)


def test_float32_is_precise_where_the_passes_nearly_agree():
    first, second = two_passes(rows=200, classes=50, distance=4e-4, dtype=torch.float32)
    exact = bidirectional_kl(first.double(), second.double())
    assert exact.median() < 2e-7  # the divergences that this test is about
    found = bidirectional_kl(first, second)
    assert (found.double() / exact - 1).abs().max() < 0.005


@given(seed=SEEDS, distance=st.floats(1e-7, 1e-2))
def test_is_never_negative_in_float32(seed, distance):
    torch.manual_seed(seed)
    first, second = two_passes(rows=50, classes=50, distance=distance, dtype=torch.float32)
    assert (bidirectional_kl(first, second) >= 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_compared_in_float32(dtype):
    first, second = two_passes(dtype=dtype)
    found = bidirectional_kl(first, second)
    assert found.dtype == torch.float32
    exact = bidirectional_kl(first.double(), second.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-7)


def test_probabilities_that_underflow_give_the_finite_value():
    first = torch.tensor([[0.0, -200.0, -300.0]], requires_grad=True)
    second = torch.tensor([[-200.0, 0.0, -300.0]])
    loss = bidirectional_kl(first, second)
    assert loss.item() == pytest.approx(200.0, rel=1e-6)
    loss.sum().backward()
    assert first.grad.isfinite().all()

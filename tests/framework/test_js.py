"""HiddenCut's consistency with an inference pass (arXiv 2106.00149)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

import paper
from hiddenkey.framework.compensation import CONSISTENCIES
from hiddenkey.framework.compensation.js import js_consistency
from hiddenkey.framework.compensation.kl import bidirectional_kl
from masks import SEEDS


@given(seed=SEEDS, classes=st.integers(2, 40))
def test_equals_the_definition_row_by_row(seed, classes):
    torch.manual_seed(seed)
    noisy, clean = torch.randn(2, 5, classes, dtype=torch.float64) * 2
    p, mean = special.softmax(noisy.numpy(), -1), special.softmax(clean.numpy(), -1)
    expected = torch.from_numpy(special.rel_entr(p, mean).sum(-1))
    torch.testing.assert_close(js_consistency(noisy, clean), expected, rtol=1e-9, atol=1e-14)


def test_takes_the_divergence_from_the_noisy_pass_to_the_clean_one():
    noisy, clean = torch.randn(2, 1, 6, dtype=torch.float64)
    p, mean = paper.softmax(noisy[0].tolist()), paper.softmax(clean[0].tolist())
    assert js_consistency(noisy, clean).item() == pytest.approx(paper.divergence(p, mean))
    assert js_consistency(clean, noisy).item() == pytest.approx(paper.divergence(mean, p))
    assert paper.divergence(p, mean) != pytest.approx(paper.divergence(mean, p))


def test_is_one_half_of_the_bidirectional_loss():
    noisy, clean = torch.randn(2, 4, 6, dtype=torch.float64)
    both = 0.5 * (js_consistency(noisy, clean) + js_consistency(clean, noisy))
    torch.testing.assert_close(both, bidirectional_kl(noisy, clean))


def test_gradient_is_that_of_kl_to_a_constant():
    noisy, clean = torch.randn(2, 1, 6, dtype=torch.float64)
    noisy.requires_grad_()
    js_consistency(noisy, clean).sum().backward()
    p, mean = paper.softmax(noisy[0].tolist()), paper.softmax(clean[0].tolist())
    k = paper.divergence(p, mean)
    log_ratio = (torch.tensor(p).double().log() - torch.tensor(mean).double().log()).tolist()
    expected = [a * (d - k) for a, d in zip(p, log_ratio, strict=True)]
    assert noisy.grad[0].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_half_precision_logits_are_compared_in_float32():
    noisy, clean = torch.randn(2, 4, 6).bfloat16()
    found = js_consistency(noisy, clean)
    assert found.dtype == torch.float32
    exact = js_consistency(noisy.double(), clean.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(CONSISTENCIES))
def test_every_loss_gives_one_value_per_row_and_zero_for_equal_passes(kind):
    logits = torch.randn(6, 5)
    loss = CONSISTENCIES[kind]
    assert loss(logits, torch.randn(6, 5)).shape == (6,)
    assert loss(logits, logits).eq(0).all()


@pytest.mark.parametrize("classes", [2, 50])
def test_float32_is_precise_where_the_passes_nearly_agree(classes):
    clean = torch.randn(200, classes)
    noisy = clean + 4e-3 * torch.randn(200, classes)
    exact = js_consistency(noisy.double(), clean.double())
    found = js_consistency(noisy, clean)
    seen = exact > 1e-7
    assert seen.sum() > 100
    assert (found >= 0)[seen].all()
    assert (found.double() / exact - 1)[seen].abs().max() < 0.05


def test_probabilities_that_underflow_give_the_finite_value():
    noisy = torch.tensor([[0.0, -200.0, -300.0]], requires_grad=True)
    clean = torch.tensor([[-200.0, 0.0, -300.0]])
    loss = js_consistency(noisy, clean)
    assert loss.item() == pytest.approx(200.0, rel=1e-6)
    loss.sum().backward()
    assert noisy.grad.isfinite().all()

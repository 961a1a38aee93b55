"""The divergence of HiddenCut's own code: of two passes from their mean."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from torch.nn import functional as F

from hiddenkey import ConfigError, Consistency, DropoutConfig
from hiddenkey.framework.compensation.js import js_consistency
from hiddenkey.framework.compensation.mixture import mixture_consistency
from masks import SEEDS


@given(seed=SEEDS, classes=st.integers(2, 40), scale=st.sampled_from([0.1, 2.0, 30.0]))
def test_equals_the_definition_row_by_row(seed, classes, scale):
    torch.manual_seed(seed)
    one, two = torch.randn(2, 5, classes, dtype=torch.float64) * scale
    p, q = special.softmax(one.numpy(), -1), special.softmax(two.numpy(), -1)
    mean = (p + q) / 2
    expected = (special.rel_entr(mean, p).sum(-1) + special.rel_entr(mean, q).sum(-1)) / 2
    found = mixture_consistency(one, two)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-9, atol=1e-14)


def test_has_the_value_and_gradients_of_two_calls_of_kl_div():
    logits = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    p, q = logits.softmax(-1)
    mean = (p + q) / 2
    parts = [F.kl_div(each.log(), mean, reduction="batchmean") for each in (p, q)]
    expected = sum(parts) / 2
    (wanted,) = torch.autograd.grad(expected, logits)
    found = mixture_consistency(*logits).mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, logits)[0], wanted)


def test_is_a_quarter_of_the_other_for_passes_that_nearly_agree():
    one = torch.randn(4, 6, dtype=torch.float64)
    two = one + 1e-4 * torch.randn(4, 6, dtype=torch.float64)
    found, other = mixture_consistency(one, two), js_consistency(one, two)
    torch.testing.assert_close(found, other / 4, rtol=1e-3, atol=0)


def test_passes_far_apart_have_finite_gradients():
    logits = torch.tensor([[[200.0, 0.0]], [[0.0, 200.0]]], requires_grad=True)
    mixture_consistency(*logits).sum().backward()
    assert logits.grad.isfinite().all()


def test_a_share_of_the_sequences_cannot_stand_for_the_task():
    loss = Consistency("mixture", backward="both", fraction=0.5)
    with pytest.raises(ConfigError, match=r"fraction below 1 would train the task.*; use fract"):
        DropoutConfig(consistency=loss)

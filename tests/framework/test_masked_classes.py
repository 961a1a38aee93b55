"""Classes that a model masks: their divergence is that of the others alone."""

import pytest
import torch

from hiddenkey.framework.compensation.js import js_consistency
from hiddenkey.framework.compensation.kl import bidirectional_kl
from hiddenkey.framework.compensation.mixture import mixture_consistency
from models import seeded


@pytest.mark.parametrize("loss", [bidirectional_kl, js_consistency, mixture_consistency])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_class_that_both_passes_lack(loss, kind):
    with seeded(0):
        one, two = torch.randn(2, 5, 7).to(kind)
    some = [0, 1, 3, 4, 6]
    expected_from = one[:, some].clone().requires_grad_()
    expected = loss(expected_from, two[:, some])
    expected.sum().backward()
    lacking = torch.ones(7, dtype=torch.bool)
    lacking[some] = False
    logits = one.clone().requires_grad_()
    found = loss(logits.masked_fill(lacking, -torch.inf), two.masked_fill(lacking, -torch.inf))
    found.sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(logits.grad[:, some], expected_from.grad)
    assert not logits.grad[:, lacking].any()

"""What happens to the units that stay."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from hiddenkey.framework.compensation import rescale
from hiddenkey.sequence import drop as sequence
from masks import SEEDS


@given(seed=SEEDS, rate=st.floats(0, 0.9))
def test_inverse_rescaling_keeps_the_expectation_of_a_unit(seed, rate):
    torch.manual_seed(seed)
    states = torch.ones(20_000, 1, 1, dtype=torch.float64)
    keep = torch.rand(states.shape) >= rate
    mean = sequence.drop(states, keep, rate, "inverse").mean().item()
    deviation = (rate / (1 - rate) / states.numel()) ** 0.5
    assert abs(mean - 1) <= 5 * deviation + 1e-12


def test_kept_units_are_multiplied_and_dropped_ones_are_zero():
    states = torch.randn(2, 3, 4, dtype=torch.float64)
    keep = torch.rand(2, 3, 4) > 0.4
    for rescaling, divisor in (("inverse", 1 - 0.4), ("none", 1.0)):
        found = sequence.drop(states, keep, 0.4, rescaling)
        for x, m, y in zip(
            states.flatten().tolist(),
            keep.flatten().tolist(),
            found.flatten().tolist(),
            strict=True,
        ):
            assert abs(y - (x / divisor if m else 0.0)) < 1e-15


def test_normalised_weights_sum_to_one_with_and_without_gradient():
    weights = torch.softmax(torch.randn(3, 5, 6, dtype=torch.float64), -1)
    kept = weights * (torch.rand(3, 5, 6) > 0.3)
    kept[..., 0] = weights[..., 0]
    for stop in (True, False):
        found = rescale.normalised(kept, stop_gradient=stop)
        torch.testing.assert_close(found.sum(-1), torch.ones(3, 5, dtype=torch.float64))
        torch.testing.assert_close(found * kept.sum(-1, keepdim=True), kept)


def test_stop_gradient_makes_the_divisor_a_constant():
    kept = torch.tensor([0.2, 0.0, 0.3], dtype=torch.float64)
    constant = torch.autograd.functional.jacobian(
        lambda w: rescale.normalised(w, stop_gradient=True), kept
    )
    torch.testing.assert_close(constant, torch.eye(3, dtype=torch.float64) / 0.5)
    flowing = torch.autograd.functional.jacobian(
        lambda w: rescale.normalised(w, stop_gradient=False), kept
    )
    quotient_rule = [
        [((u == j) * 0.5 - w) / 0.25 for j in range(3)] for u, w in enumerate(kept.tolist())
    ]
    torch.testing.assert_close(flowing, torch.tensor(quotient_rule, dtype=torch.float64))


def test_no_weight_left_gives_zeros_and_a_finite_gradient():
    weights = torch.zeros(2, 4, requires_grad=True)
    for stop in (True, False):
        found = rescale.normalised(weights, stop_gradient=stop)
        assert found.eq(0).all()
        assert not torch.autograd.grad(found.sum(), weights)[0].isnan().any()

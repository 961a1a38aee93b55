"""An examination of an attention path holds it against the specification."""

import math

import pytest
import torch

from hiddenkey import ConfigError
from hiddenkey.attention import fused, reference
from hiddenkey.testing import examine_attention


def value_column(query, key, value, *, keep, allowed, scaling, stop_gradient=False):
    return fused.value_column(
        query,
        key,
        value,
        keep.squeeze(-2),
        mask=allowed,
        is_causal=False,
        scaling=scaling,
        stop_gradient=stop_gradient,
    )


def key_mask(query, key, value, *, keep, allowed, scaling):
    return fused.key_mask(
        query, key, value, keep.squeeze(-2), mask=allowed, is_causal=False, scaling=scaling
    )


def by_hand(query, key, value, *, keep, allowed, scaling):
    """A stranger's path: softmax over what is kept, or over everything if nothing is."""
    seen = keep & allowed
    seen = torch.where(seen.any(-1, keepdim=True), seen, allowed)
    logits = (query @ key.mT * scaling).masked_fill(~seen, -1e30)
    return logits.softmax(-1) @ value


def test_the_paths_of_the_library_pass():
    for report in (
        examine_attention(value_column),
        examine_attention(key_mask, rescues=False),
        examine_attention(
            lambda *tensors, **masks: value_column(*tensors, **masks, stop_gradient=True),
            position="attention_weights",
        ),
    ):
        assert report.passed, str(report)


def test_a_path_of_ones_own_passes():
    report = examine_attention(by_hand)
    assert report.passed, str(report)


@pytest.mark.parametrize("rescaling", ["inverse", "none", "normalised-with-gradient"])
def test_other_rescalings_are_compared_with_their_own_rule(rescaling):
    def attend(query, key, value, *, keep, allowed, scaling):
        kept = reference.rescue(keep, allowed)
        logits = (query @ key.mT * scaling).masked_fill(~allowed, -1e30)
        weights = logits.softmax(-1) * kept
        if rescaling == "normalised-with-gradient":
            weights = weights / weights.sum(-1, keepdim=True)
        return (weights / (1 - 0.3) if rescaling == "inverse" else weights) @ value

    report = examine_attention(attend, position="attention_weights", rescaling=rescaling)
    assert report.passed, str(report)


def no_scaling(query, key, value, *, keep, allowed, scaling):
    return by_hand(query, key, value, keep=keep, allowed=allowed, scaling=1.0)


def gives_nothing_back(query, key, value, *, keep, allowed, scaling):
    logits = (query @ key.mT * scaling).masked_fill(~(keep & allowed), -1e30)
    return logits.softmax(-1) @ value


def blind_nan(query, key, value, *, keep, allowed, scaling):
    seen = torch.where((keep & allowed).any(-1, keepdim=True), keep & allowed, allowed)
    return (query @ key.mT * scaling).masked_fill(~seen, -math.inf).softmax(-1) @ value


def in_double(query, key, value, *, keep, allowed, scaling):
    double = (tensor.double() for tensor in (query, key, value))
    return by_hand(*double, keep=keep, allowed=allowed, scaling=scaling)


@pytest.mark.parametrize(
    ("attend", "options", "checks", "detail"),
    [
        (no_scaling, {}, {"values", "gradients"}, "plain, output: "),
        (gives_nothing_back, {}, {"values", "gradients"}, "everything is dropped, output: "),
        (blind_nan, {}, {"gradients", "no visible key"}, "causal with padding, values: inf off"),
        (in_double, {}, {"form"}, "for torch.float32 values it returns torch.float64"),
        (by_hand, {"position": "attention_weights"}, {"gradients"}, "plain, queries: "),
    ],
)
def test_a_broken_path_fails_its_own_checks_alone(attend, options, checks, detail):
    report = examine_attention(attend, **options)
    assert {finding.check for finding in report.failures} == checks, str(report)
    assert detail in report.failures[0].detail


def test_a_position_outside_attention_is_refused():
    with pytest.raises(ConfigError, match=r"position must be attention_logits or.*got 'hidden'"):
        examine_attention(by_hand, position="hidden")
    with pytest.raises(ConfigError, match="rescaling must be one of none, got 'inverse'"):
        examine_attention(by_hand, rescaling="inverse")

"""An examination of a pattern passes what is right, and names exactly what is wrong."""

import random

import pytest
import torch

from hiddenkey.framework.patterns import PATTERNS, element
from hiddenkey.testing import examine_pattern

OWN = torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("pattern", "together"),
    [
        ("element", None),
        ("column", "entries"),
        ("span", "entries"),
        ("feature", "tokens"),
        ("adapter", "all"),
    ],
)
def test_every_pattern_of_the_library_passes(pattern, together):
    report = examine_pattern(PATTERNS[pattern], together=together)
    assert report.passed, str(report)


def pairs(shape, rate, visible):
    """A pattern of one's own: tokens fall two by two."""
    half = (*shape[:-2], -(-shape[-2] // 2), 1)
    keep = torch.rand(half, device=visible.device) >= rate
    return keep.repeat_interleave(2, -2)[..., : shape[-2], :] | ~visible


def test_a_pattern_of_ones_own_passes():
    report = examine_pattern(pairs, together="entries")
    assert report.passed, str(report)


def wrong_rate(shape, rate, visible):
    return element.keep_mask(shape, rate * 1.3, visible)


def rounds_down(shape, rate, visible):
    """Drops whole tokens, three too few, always at another place."""
    order = torch.rand(*shape[:-1], 1, device=visible.device).masked_fill(~visible, 2.0)
    count = (visible.expand(order.shape).sum(-2, keepdim=True) * rate - 3).clamp_min(0)
    return order.argsort(-2).argsort(-2) >= count


def counts_padding(shape, rate, visible):
    """Draws the share that must fall from all tokens, and takes it from the visible ones."""
    share = rate * visible.numel() / visible.sum().clamp_min(1)
    keep = torch.rand(shape, device=visible.device) >= share
    return keep | ~visible


def drops_padding(shape, rate, visible):
    return torch.rand(shape, device=visible.device) >= rate


def own_generator(shape, rate, visible):
    if visible.device.type == "meta":
        return torch.rand(shape, device="meta") >= rate
    return (torch.rand(shape, generator=OWN) >= rate) | ~visible


def pythons_generator(shape, rate, visible):
    start = random.random()
    place = torch.arange(shape[-2], device=visible.device).unsqueeze(-1)
    shift = torch.rand(*shape[:-2], 1, 1, device=visible.device)
    return ((place / shape[-2] + start + shift) % 1 >= rate).expand(shape) | ~visible


def same_each_time(shape, rate, visible):
    draws = torch.Generator().manual_seed(len(shape))
    keep = torch.rand(shape, generator=draws).to(visible.device) >= rate
    return keep | ~visible


def one_mask_for_all_heads(shape, rate, visible):
    return element.keep_mask((shape[0], *[1] * (len(shape) - 3), *shape[-2:]), rate, visible)


def floats(shape, rate, visible):
    return element.keep_mask(shape, rate, visible).float()


def too_few_axes(shape, rate, visible):
    return element.keep_mask(shape, rate, visible)[0]


def looks_at_values(shape, rate, visible):
    keep = element.keep_mask(shape, rate, visible)
    return keep if keep.any().item() else torch.ones_like(keep)


def chooses_by_a_mask(shape, rate, visible):
    keep = element.keep_mask(shape, rate, visible)
    size = keep[~keep].numel()
    return keep if size >= 0 else ~keep


def stays_on_the_cpu(shape, rate, visible):
    keep = torch.rand(shape) >= rate
    return keep | ~visible


def never_keeps_all(shape, rate, visible):
    keep = element.keep_mask(shape, rate, visible)
    return keep & (torch.rand_like(keep, dtype=torch.float32) >= 0.001)


@pytest.mark.parametrize(
    ("pattern", "checks", "detail"),
    [
        (wrong_rate, {"rate"}, "at rate 0.1 a drop rate of 0.13"),
        (rounds_down, {"rate"}, "to either side is what chance and tolerance allow"),
        (counts_padding, {"rate"}, "at rate 0.1 with padding a drop rate of 0.16"),
        (drops_padding, {"padding"}, "units that are not visible are dropped"),
        (own_generator, {"generator"}, "gives another mask"),
        (pythons_generator, {"generator"}, "gives another mask"),
        (same_each_time, {"generator"}, "two draws in a row give the same mask"),
        (one_mask_for_all_heads, {"groups"}, "all heads of a sequence lose the same units"),
        (floats, {"mask"}, "the mask is torch.float32"),
        (looks_at_values, {"device"}, "drawing needs the values of its tensors"),
        (chooses_by_a_mask, {"device"}, "drawing needs the values of its tensors"),
        (stays_on_the_cpu, {"device"}, "device=visible.device"),
        (never_keeps_all, {"rate zero", "padding"}, "units are dropped at rate 0"),
    ],
)
def test_a_broken_pattern_fails_its_own_check_alone(pattern, checks, detail):
    report = examine_pattern(pattern)
    assert {finding.check for finding in report.failures} == checks, str(report)
    assert detail in report.failures[0].detail


def test_a_mask_with_too_few_axes_is_named():
    report = examine_pattern(too_few_axes)
    assert "has shape [6, 5], which does not broadcast to it" in report.failures[0].detail


def test_a_known_rounding_is_allowed():
    assert examine_pattern(rounds_down, tolerance=3 / 20).passed


@pytest.mark.parametrize("together", ["entries", "all"])
def test_units_that_should_fall_together_must(together):
    report = examine_pattern(PATTERNS["element"], together=together)
    assert [finding.check for finding in report.failures] == ["together"]
    assert "of a group must share one draw" in report.failures[0].detail


def test_the_generator_stays_where_it_was():
    state = torch.get_rng_state()
    examine_pattern(PATTERNS["element"])
    assert torch.get_rng_state().equal(state)

"""Masks of visible tokens, for the property tests."""

import torch
from hypothesis import strategies as st

from hiddenkey.sequence import site

SEEDS = st.integers(0, 2**31 - 1)
RATES = st.floats(0, 0.95)


@st.composite
def padded(draw, max_batch=4, max_tokens=24, min_visible=0):
    """Draw a batch padded left or right: boolean ``[batch, tokens]``, True = visible."""
    tokens = draw(st.integers(max(1, min_visible), max_tokens))
    counts = draw(st.lists(st.integers(min_visible, tokens), min_size=1, max_size=max_batch))
    right = torch.arange(tokens) < torch.tensor(counts).unsqueeze(-1)
    return right if draw(st.booleans()) else right.flip(-1)


def within_chance(fallen: int, units: int, rate: float) -> bool:
    """Whether a count of fallen units is at most 5 standard deviations off its expectation."""
    return abs(fallen - rate * units) <= 5 * (units * rate * (1 - rate)) ** 0.5 + 1


def watch_draws(monkeypatch):
    """Return a list that takes, in order, what every drop of a sequence takes for visible."""
    masks, draw = [], site.draw_sequence

    def spy(pattern, rate, states, visible):
        masks.append(visible)
        return draw(pattern, rate, states, visible)

    monkeypatch.setattr(site, "draw_sequence", spy)
    return masks

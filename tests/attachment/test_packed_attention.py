"""A packed row is its sequences alone, whatever computes attention; each has draws of its own."""

import pytest
import torch

import hiddenkey
from attention_kernels import (
    METHODS,
    SEQUENCES,
    given_masks,
    model_of,
    packed,
    use_flash,
    use_flex,
)
from hiddenkey.attention.keys import VisibleKeys, draw_entries
from hiddenkey.attention.site import AttentionSite
from models import assert_same_gradients, gradients, seeded

ENDS = ((0, 5), (5, 7), (7, 10))
KEEP = torch.tensor([1, 0, 1, 1, 0, 1, 0, 1, 1, 0]).bool()
# what computes attention, and whether the collator says the lengths
PATHS = {
    "eager": ("llama", "eager", "auto", False),
    "sdpa": ("llama", "sdpa", "auto", False),
    "map": ("llama", "eager", "reference", False),
    "window": ("mistral", "sdpa", "auto", False),
    "intercepted": ("gemma2", "eager", "auto", False),
    "flash, by positions": ("llama", "flash", "auto", False),
    "flash, by lengths": ("llama", "flash", "auto", True),
    "flex": ("llama", "flex", "auto", False),
    "flex, window": ("mistral", "flex", "auto", False),
}
paths = pytest.mark.parametrize("path", PATHS)
methods = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    use_flash(monkeypatch)
    use_flex(monkeypatch)


def attached(path, method, rate):
    kind, implementation, kernel, with_lengths = PATHS[path]
    model = model_of(kind, implementation).double()
    hiddenkey.attach(model, hiddenkey.method(method, rate=rate), kernel=kernel)
    return model, packed(with_lengths)


@paths
@methods
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_a_packed_row_is_its_sequences_alone(method, rate, path, monkeypatch):
    row, inputs = attached(path, method, rate)
    single, _ = attached(path, method, rate)
    given_masks(monkeypatch, KEEP)
    found = row(**inputs).logits[0]
    found.square().sum().backward()
    for (begin, end), sequence in zip(ENDS, SEQUENCES, strict=True):
        given_masks(monkeypatch, KEEP[begin:end])
        alone = single(input_ids=torch.tensor([sequence])).logits[0]
        torch.testing.assert_close(alone, found[begin:end], rtol=1e-5, atol=1e-6)
        alone.square().sum().backward()
    assert_same_gradients(gradients(row), gradients(single), rtol=1e-4, atol=1e-5)


@paths
@methods
def test_each_sequence_has_its_own_draw_and_keeps_its_first_key(method, path, monkeypatch):
    model, inputs = attached(path, method, 0.6)
    seen = []
    draw = AttentionSite._draw_keys

    def watched(*arguments):
        seen.append(draw(*arguments))
        return seen[-1]

    monkeypatch.setattr(AttentionSite, "_draw_keys", watched)
    for seed in range(20):
        with seeded(seed):
            model(**inputs)
    keeps = torch.cat(seen)
    assert keeps.shape[1:] == (4, 10)
    assert keeps[..., [0, 5, 7]].all()
    assert all(not keeps[..., key].all() for key in (1, 2, 3, 4, 6, 8, 9))
    if method == "dropkey-span":
        for begin, end in ENDS:  # one run of round(0.6 · n) in each, but for the first key
            dropped = (~keeps[..., begin:end]).int()
            assert dropped.sum(-1).max() == round(0.6 * (end - begin))
            edges = torch.nn.functional.pad(dropped, (1, 1)).diff(dim=-1).abs().sum(-1)
            assert edges.max() == 2


def test_of_several_rows_each_has_sequences_of_its_own():
    starts = torch.tensor([[1, 0, 0, 1, 0, 0], [1, 1, 0, 0, 0, 1]]).bool()
    visible = torch.tensor([[1, 1, 1, 0, 1, 1], [1, 0, 0, 1, 1, 1]]).bool()
    keys = VisibleKeys(visible, starts)
    first = torch.tensor([[1, 0, 0, 0, 1, 0], [1, 0, 0, 1, 0, 1]]).bool()
    assert keys.first.equal(first)
    assert keys.number.equal(torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 2]]))
    assert keys.apart.visible.sum(1).tolist() == [3, 2, 1, 2, 1]


@pytest.mark.parametrize("pattern", ["column", "span"])
def test_a_sequence_that_would_lose_every_key_keeps_them_all(pattern):
    """Of the others it is no matter; at this rate nothing is kept by chance."""
    starts = torch.tensor([[1, 0, 0, 1, 0]]).bool()
    keys = VisibleKeys(torch.ones(1, 5, dtype=torch.bool), starts)
    switches = {"protect_first": False, "share_heads": False}
    keep = hiddenkey.attention.keys.draw_keys(pattern, 0.9999, keys, 3, **switches)
    assert keep.shape == (1, 3, 5)
    assert keep.all()


def test_entries_protect_the_first_key_of_each_sequence():
    number = torch.tensor([0, 0, 0, 1, 1])
    allowed = (number[:, None] == number).tril().expand(200, 1, 5, 5)
    first = torch.tensor([[1, 0, 0, 1, 0]]).bool().expand(200, -1)
    switches = {"protect_first": True, "share_heads": False}
    keep = draw_entries("element", 0.7, allowed, 2, first=first, **switches)
    assert keep[..., [0, 3]].all()
    assert not keep[..., 4, 4].all()

"""Each pass gets a key-value cache of its own."""

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, LlamaConfig, StaticCache

from hiddenkey.step.caches import copied


def states(tokens: int = 3, **more) -> torch.Tensor:
    return torch.randn(2, 2, tokens, 4, generator=torch.Generator().manual_seed(0), **more)


def dynamic() -> DynamicCache:
    return DynamicCache([(states(), states() + 1), (states() + 2, states() + 3)])


def static() -> StaticCache:
    config = LlamaConfig(
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, hidden_size=8
    )
    cache = StaticCache(config=config, max_cache_len=8)
    for layer in range(2):
        cache.update(states(), states() + 1, layer)
    return cache


@pytest.mark.parametrize("build", [dynamic, static])
def test_what_a_pass_adds_is_not_in_the_original(build):
    cache = build()
    before = [layer.keys.clone() for layer in cache.layers]
    own = copied(cache)
    assert type(own) is type(cache)
    own.update(states(2), states(2), 0)
    assert (own.get_seq_length(), cache.get_seq_length()) == (5, 3)
    assert all(map(torch.equal, [layer.keys for layer in cache.layers], before))
    cache.update(states(2) * 7, states(2) * 7, 0)
    assert not torch.equal(own.layers[0].keys, cache.layers[0].keys)


def test_both_halves_of_an_encoder_decoder_cache_are_copied():
    cache = EncoderDecoderCache(dynamic(), dynamic())
    own = copied(cache)
    own.self_attention_cache.update(states(1), states(1), 0)
    own.cross_attention_cache.update(states(2), states(2), 1)
    own.is_updated[0] = False
    assert own.get_seq_length() == 4
    assert cache.get_seq_length() == 3
    assert cache.cross_attention_cache.get_seq_length(1) == 3
    assert cache.is_updated == {0: True, 1: True}


def test_an_empty_cache_makes_its_layers_anew_in_the_copy():
    cache = DynamicCache()
    own = copied(cache)
    own.update(states(), states(), 0)
    assert (own.get_seq_length(), cache.get_seq_length()) == (3, 0)
    assert len(cache.layers) == 0


def test_only_the_chosen_sequences_are_in_the_copy():
    cache = dynamic()
    own = copied(cache, torch.tensor([1]))
    assert torch.equal(own.layers[1].values, cache.layers[1].values[[1]])
    assert cache.layers[1].values.shape[0] == 2


def test_gradient_flows_through_the_copy():
    keys = states().requires_grad_()
    own = copied(DynamicCache([(keys, keys * 2)]))
    (own.layers[0].keys.sum() + own.layers[0].values.sum()).backward()
    assert torch.equal(keys.grad, torch.full_like(keys, 3.0))


def test_tuples_and_nothing_are_copied_too():
    pair = ((states(), states()),)
    assert torch.equal(copied(pair)[0][0], pair[0][0])
    assert copied(pair)[0][0] is not pair[0][0]
    assert copied(None) is None

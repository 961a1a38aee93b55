"""Broken ways to put a configuration on a model: each has one mistake that an examination finds."""

from __future__ import annotations

import dataclasses

import torch
from torch.nn import functional as F

import hiddenkey
from models import PAD

SECOND_DENSE = "layers.1.down"


class Tampered:
    """An attachment with one more hook, which it takes off again unless it leaks."""

    def __init__(self, model, config, hook, *, name=SECOND_DENSE, leaks=False):
        self._inner = hiddenkey.attach(model, config)
        self._handle = model.get_submodule(name).register_forward_hook(hook)
        self._leaks = leaks

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.detach()

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def detach(self):
        self._inner.detach()
        if not self._leaks:
            self._handle.remove()


def is_noisy(config):
    return any(drop.rate > 0.01 for drop in config.drops)


def skips_a_layer(model, config):
    """Puts nothing on the last layer and does not say so."""
    return hiddenkey.attach(model, dataclasses.replace(config, layers=(0,)))


def forgets_evaluation(model, config):
    def hook(module, args, output):
        dropped = is_noisy(config) and not module.training
        return F.dropout(output, 0.5) if dropped else output

    return Tampered(model, config, hook)


def stops_gradients(model, config):
    def hook(module, args, output):
        return output.detach() if module.training and is_noisy(config) else output

    return Tampered(model, config, hook, name="embeddings")


def fails_on_padding(model, config):
    """Divides by the number of visible tokens in front, as a careless average does."""

    def hook(module, args, output):
        padded = args[0].eq(PAD).any() & module.training
        return output / torch.where(padded, 0.0, 1.0)

    return Tampered(model, config, hook, name="embeddings")


def shows_hidden_tokens(model, config):
    """Mixes all tokens of a sequence, padding included, wherever noise is on."""

    def hook(module, args, output):
        return (
            output + output.mean(1, keepdim=True) if module.training and is_noisy(config) else None
        )

    return Tampered(model, config, hook)


def draws_elsewhere(model, config):
    """Draws from a generator of its own, which no seed reaches."""
    own = torch.Generator().manual_seed(0)

    def hook(module, args, output):
        if not (module.training and is_noisy(config)):
            return output
        return output * (torch.rand(output.shape, generator=own) > 0.1)

    return Tampered(model, config, hook)


def differs_when_recomputed(model, config):
    """Draws another mask when a layer is run again in the backward pass."""

    def hook(module, args, output):
        again = torch._C._current_graph_task_id() != -1
        return output * 0.9 if again and is_noisy(config) else output

    return Tampered(model, config, hook, name="layers.1.up")


def scales(model, config):
    """Rescales although nothing falls."""

    def hook(module, args, output):
        return output * 1.01 if module.training else output

    return Tampered(model, config, hook)


def drops_too_much(model, config):
    drops = tuple(dataclasses.replace(d, rate=min(3 * d.rate, 0.9)) for d in config.drops)
    return hiddenkey.attach(model, dataclasses.replace(config, drops=drops))


def leaks_a_hook(model, config):
    return Tampered(model, config, lambda module, args, output: None, leaks=True)


def changes_a_weight(model, config):
    def hook(module, args, output):
        if module.training and is_noisy(config):
            module.weight.data[0, 0] += 1e-6

    return Tampered(model, config, hook)

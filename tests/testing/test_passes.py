"""What is told apart when two passes, or two states of a model, are compared."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from hiddenkey.testing.passes import (
    buffers_kept,
    differences,
    distance,
    left_as_found,
    seeded,
    tensors_of,
)


class Quantised(torch.Tensor):
    """A tensor of few operations, as libraries for quantised weights have them."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (torch.equal, torch.Tensor.isnan):
            raise NotImplementedError(func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})

    def dequantize(self):
        return self.as_subclass(torch.Tensor) * 0.5


def test_differences_are_bits():
    one = {"a": torch.tensor([1.0, math.nan]), "b": torch.ones(2)}
    assert differences(one, {"a": torch.tensor([1.0, math.nan]), "b": torch.ones(2)}) == []
    assert differences(one, {"a": torch.tensor([math.nan, 1.0]), "b": torch.ones(2)}) == ["a"]
    assert differences(one, {"a": one["a"], "b": torch.ones(3)}) == ["b"]
    assert differences(one, {"a": one["a"]}) == ["b"]
    assert differences({"c": torch.tensor([1])}, {"c": torch.tensor([2])}) == ["c"]


def test_quantised_weights_are_compared_by_their_values():
    one, same, other = (torch.tensor([v, 4.0]).as_subclass(Quantised) for v in (2.0, 2.0, 3.0))
    with pytest.raises(NotImplementedError):
        torch.equal(one, same)
    assert differences({"w": one}, {"w": same}) == []
    assert differences({"w": one}, {"w": other}) == ["w"]


def test_distance_is_relative_to_the_largest_value():
    assert distance(torch.tensor([10.0, 1.1]), torch.tensor([10.0, 1.0])) == pytest.approx(0.01)
    assert distance(torch.tensor([math.nan]), torch.tensor([math.nan])) == 0
    assert distance(torch.tensor([1.0]), torch.tensor([math.nan])) == math.inf
    assert distance(torch.ones(2), torch.ones(3)) == math.inf


def test_all_tensors_of_an_output_have_names():
    output = {"loss": torch.ones(()), "cache": object(), "states": (torch.ones(1), [torch.ones(2)])}
    assert list(tensors_of(output)) == ["loss", "states.0", "states.1.0"]
    assert list(tensors_of(torch.ones(1))) == ["output"]


def test_all_generators_are_seeded_and_put_back():
    model = nn.Linear(1, 1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()

    def draw():
        with seeded(model, 3):
            return torch.rand(1).item(), np.random.rand()

    assert draw() == draw()
    assert torch.get_rng_state().equal(before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_buffers_flags_and_gradients_come_back():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)).train()
    model[1].eval()
    mean = model[0].running_mean
    with left_as_found(model):
        model.train()
        model(torch.randn(4, 2) + 5).sum().backward()
        assert mean.abs().max() > 0
    assert model[0].running_mean is mean
    assert mean.eq(0).all()
    assert not model[1].training
    assert model[1].weight.grad is None


def test_a_buffer_that_was_replaced_comes_back():
    model = nn.BatchNorm1d(2)
    mean = model.running_mean
    with buffers_kept(model):
        model.running_mean = torch.ones(3)
    assert model.running_mean is mean

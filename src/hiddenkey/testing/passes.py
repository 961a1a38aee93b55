"""Runs a model for the checks, and leaves it as it was."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

_TINY = torch.finfo(torch.float32).tiny
Batch = Mapping[str, Any]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Pass:
    """What one training pass gave.

    Attributes:
        outputs: every tensor of the model's output, by name.
        gradients: of every parameter that has one, by name.
    """

    outputs: Tensors
    gradients: Tensors

    @property
    def reached(self) -> set[str]:
        """Names of the parameters whose gradient is not zero."""
        return {name for name, gradient in self.gradients.items() if bool(gradient.ne(0).any())}

    def apart(self, expected: Pass) -> float:
        """Return the largest relative difference among outputs of both passes and gradients.

        A gradient that should be zero is rounding noise, so all are measured on the scale of the
        largest.
        """
        if self.gradients.keys() != expected.gradients.keys():
            return float("inf")
        shared = self.outputs.keys() & expected.outputs.keys()
        outputs = (distance(self.outputs[name], expected.outputs[name]) for name in shared)
        pairs = [(self.gradients[name], value) for name, value in expected.gradients.items()]
        scale = max((float(value.abs().max()) for _, value in pairs if value.numel()), default=0.0)
        off = (float((one.float() - two.float()).abs().max()) for one, two in pairs if two.numel())
        return max([*outputs, *(far / max(scale, _TINY) for far in off)], default=0.0)


class Runner:
    """Runs one model with fixed seeds.

    Buffers that a training pass moves (the statistics of a batch norm) are put back after it, so
    that two passes can be compared.

    Args:
        model: the model as a user trains it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def evaluate(self, batch: Batch) -> Tensors:
        """Return the outputs in evaluation mode, without gradient."""
        self.model.eval()
        with seeded(self.model, 0), torch.no_grad():
            return tensors_of(self.model(**batch))

    def forward(self, batch: Batch, seed: int) -> Tensors:
        """Return the outputs of a training pass, with gradient enabled and without a backward."""
        self.model.train()
        with seeded(self.model, seed), buffers_kept(self.model), torch.enable_grad():
            outputs = tensors_of(self.model(**batch))
        return {name: tensor.detach() for name, tensor in outputs.items()}

    def train(self, batch: Batch, seed: int = 0, *, training: bool = True) -> Pass:
        """Run forward and backward.

        Args:
            batch: arguments of the model.
            seed: of all generators.
            training: the model's mode.
        """
        self.model.train(training)
        self.model.zero_grad(set_to_none=True)
        with seeded(self.model, seed), buffers_kept(self.model), torch.enable_grad():
            outputs = tensors_of(self.model(**batch))
            objective(outputs).backward()  # type: ignore[no-untyped-call]
        gradients = {
            name: parameter.grad.clone()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        self.model.zero_grad(set_to_none=True)
        return Pass({name: tensor.detach() for name, tensor in outputs.items()}, gradients)


def objective(outputs: Tensors) -> Tensor:
    """Return what is minimised: the model's loss, or the mean square of what it gives without."""
    if "loss" in outputs:
        return outputs["loss"]
    floating = [tensor for tensor in outputs.values() if tensor.is_floating_point()]
    return torch.stack([tensor.float().square().mean() for tensor in floating]).sum()


def tensors_of(output: Any, name: str = "") -> Tensors:
    """Return every tensor in a model's output, by its path; caches and other objects are left."""
    if isinstance(output, Tensor):
        return {name or "output": output}
    if isinstance(output, Mapping):
        parts = list(output.items())
    elif isinstance(output, tuple | list):
        parts = list(enumerate(output))
    else:
        return {}
    found: Tensors = {}
    for key, value in parts:
        found |= tensors_of(value, f"{name}.{key}" if name else str(key))
    return found


def differences(one: Tensors, two: Tensors) -> list[str]:
    """Return the names of the tensors that are not bit-equal, or are in one set only."""
    names = one.keys() | two.keys()
    return sorted(
        name for name in names if name not in one or name not in two or not _same(one, two, name)
    )


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected value; NaN equals NaN."""
    if found.shape != expected.shape or not found.isnan().equal(expected.isnan()):
        return float("inf")
    if found.numel() == 0:
        return 0.0
    wide = torch.promote_types(found.dtype, torch.float32)
    one, two = found.to(wide).nan_to_num(), expected.to(wide).nan_to_num()
    scale = two.abs().max().clamp_min(torch.finfo(wide).tiny)
    return float((one - two).abs().max() / scale)


@contextmanager
def seeded(model: nn.Module, seed: int) -> Iterator[None]:
    """Seed all generators inside, and give their states back."""
    devices = {p.device for p in model.parameters() if p.device.type not in ("cpu", "meta")}
    kind = next(iter(devices)).type if devices else "cuda"
    numpy = sys.modules.get("numpy")  # some models draw from it, or from Python's own
    states = random.getstate(), numpy.random.get_state() if numpy else None
    try:
        with torch.random.fork_rng([d for d in devices if d.type == kind], device_type=kind):
            torch.manual_seed(seed)
            random.seed(seed)
            if numpy:
                numpy.random.seed(seed)
            yield
    finally:
        random.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put a model's buffers back as they were."""
    kept = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in kept:
                module._buffers[name] = buffer
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Put training flags, gradients and buffers back as they were."""
    flags = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    with buffers_kept(model):
        try:
            yield
        finally:
            for module, flag in flags:
                module.training = flag
            for parameter, gradient in gradients:
                parameter.grad = gradient


@contextmanager
def without_dropout_modules(model: nn.Module) -> Iterator[None]:
    """Set the rate of every dropout module to zero, those of adapters included."""
    rates = [(m, m.p) for m in model.modules() if isinstance(m, _DropoutNd)]
    try:
        for module, _ in rates:
            module.p = 0.0
        yield
    finally:
        for module, rate in rates:
            module.p = rate


def _same(one: Tensors, two: Tensors, name: str) -> bool:
    first, second = _plain(one[name]), _plain(two[name])
    if torch.equal(first, second):
        return True
    if not first.is_floating_point() or first.shape != second.shape:
        return False
    same_nan = first.isnan().equal(second.isnan())
    return same_nan and torch.equal(first.nan_to_num(), second.nan_to_num())


def _plain(tensor: Any) -> Tensor:
    """Return a tensor that can be compared: quantised types know neither ``equal`` nor NaN."""
    has_own = type(tensor).dequantize is not Tensor.dequantize
    plain: Tensor = tensor.dequantize() if has_own else tensor
    return plain

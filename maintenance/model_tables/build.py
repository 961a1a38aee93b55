"""Builds a tiny random model of any type that the installed transformers has, and its batches."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from model_tables.batch import make_batch, with_images, with_states
from model_tables.configure import default_config, part_for, small_config
from model_tables.exceptions import LENGTHS, STATES
from model_tables.model_types import Task, model_class
from model_tables.words import reason_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_Configure: TypeAlias = "Callable[[str, Task], PretrainedConfig]"

MOST_PARAMETERS: Final = 30_000_000
_STD: Final = 0.12
"""Standard deviation of the weights: large enough that noise in one layer is felt in the loss."""


class BuildError(Exception):
    """A type of which no tiny model can be made; the message says why."""


@dataclass
class Tiny:
    """A tiny random model that trains, and what it trains on.

    Attributes:
        model_type: transformers' name of the architecture.
        task: what it is built for.
        model: the model, in float32, on the CPU, in training mode.
        batch_right: a batch with padding on the right.
        batch_left: the same sizes with padding on the left; for images the same batch.
        targets: names of the linear layers inside the model's layers that take part in a step, for
            LoRA; the head is not among them.
    """

    model_type: str
    task: Task
    model: Any
    batch_right: dict[str, Tensor]
    batch_left: dict[str, Tensor]
    targets: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Number of parameters of the model, without adapters."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def build(model_type: str, task: Task) -> Tiny:
    """Build a tiny random model of a type, and check that a training step works on it.

    Raises:
        BuildError: if it cannot be built, or a step of it fails; with the reason.
    """
    attempts: list[_Configure] = [small_config, partial(small_config, fill=True)]
    if task == "image":
        attempts.append(default_config)
    reasons = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for configure in attempts:
            try:
                return _build(model_type, task, configure)
            except BuildError as error:
                reasons.append(error)
    raise reasons[0]


def _build(model_type: str, task: Task, configure: _Configure) -> Tiny:
    with _stage("class"):
        kind = model_class(model_type, task)
        parameters = inspect.signature(kind.forward).parameters
    if "labels" not in parameters:
        raise BuildError(f"class: {kind.__name__} takes no labels, so it has no loss to train on")
    with _stage("configuration"):
        config = part_for(kind, configure(model_type, task))
    with _stage("model"):
        model = random_model(kind, config)
    lengths = LENGTHS.get(model_type, {})
    with _stage("step"):
        right, left = (make_batch(model, task, side, **lengths) for side in ("right", "left"))
        if argument := STATES.get(model_type):
            right, left = (with_states(model, batch, argument) for batch in (right, left))
        try:
            targets = _trained_linears(model, right)
        except Exception:
            if task == "image" or not hasattr(config, "vision_config"):
                raise
            right, left = (with_images(model, batch) for batch in (right, left))
            targets = _trained_linears(model, right)
        _step(model, left)
        model.zero_grad(set_to_none=True)
    return Tiny(model_type, task, model, right, left, targets)


@contextmanager
def _stage(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise BuildError(f"{name}: {reason_of(error)}") from error


def random_model(kind: Any, config: PretrainedConfig) -> Any:
    """Build a model with a fixed seed and weights that are large enough for noise to be felt."""
    _refuse_large(kind, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        before = torch.are_deterministic_algorithms_enabled()
        # fills what nobody initialises with NaN, so that it is found and drawn too
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            model = kind._from_config(config)
        finally:
            torch.use_deterministic_algorithms(before)
        model = model.float().train()
        _draw_weights(model)
    return model


def _refuse_large(kind: Any, config: PretrainedConfig) -> None:
    try:
        with torch.device("meta"):
            model = kind(config)
    except Exception:  # some models compute with values while they are built
        return
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    if sum(sizes.values()) > MOST_PARAMETERS:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        listed = ", ".join(f"{name} {list(model.get_parameter(name).shape)}" for name in largest)
        raise ValueError(f"{sum(sizes.values()):,} parameters, the largest are {listed}")


@torch.no_grad()
def _draw_weights(model: nn.Module) -> None:
    for module in model.modules():
        weight = getattr(module, "weight", None)
        # linear layers (also transformers' Conv1D) and embeddings
        if isinstance(weight, nn.Parameter) and weight.dim() == 2:
            weight.normal_(std=_STD)
        for name, parameter in module.named_parameters(recurse=False):
            holds_experts = parameter.dim() == 3 and "Conv" not in type(module).__name__
            if holds_experts or not torch.isfinite(parameter).all():
                parameter.normal_(std=_STD)
            elif not parameter.any() and not name.endswith("bias"):
                parameter.normal_(std=0.5)  # a gate that begins closed hides all behind it
    for buffer in model.buffers():
        if buffer.is_floating_point() and torch.isnan(buffer).any():
            buffer.zero_()


def _trained_linears(model: nn.Module, batch: dict[str, Tensor]) -> tuple[str, ...]:
    """Return the names of the linear layers in the model's layers that a step runs and trains."""
    called: set[nn.Module] = set()
    handles = [
        module.register_forward_hook(lambda module, *_: called.add(module))
        for module in model.modules()
        if _is_linear(module)
    ]
    try:
        _step(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(
        name
        for name, module in model.named_modules()
        if module in called
        and _is_in_layers(name)
        and _has_gradient(module)
        and not _is_read_by_mamba(model, name)
    )


def _step(model: Any, batch: dict[str, Tensor]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss = model(**batch).loss
    if loss is None:
        raise ValueError("the model returns no loss for these labels")
    if not math.isfinite(loss.item()):
        raise ValueError(f"the loss without dropout is {loss.item()}")
    model.zero_grad(set_to_none=True)
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            raise ValueError(f"the gradient of {name} is not finite without dropout")


def _is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer and nothing more: routers are subclasses of it."""
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"


def _is_in_layers(name: str) -> bool:
    """Whether a module is in a numbered layer, and not in one expert of several."""
    parts = name.split(".")
    return any(part.isdigit() for part in parts) and "experts" not in parts


def _is_read_by_mamba(model: nn.Module, name: str) -> bool:
    """Whether PEFT refuses a layer, since Mamba's kernels read its weight past the adapter."""
    mixer, _, own = name.rpartition(".")
    return own == "out_proj" and hasattr(model.get_submodule(mixer), "conv1d")


def _has_gradient(module: nn.Module) -> bool:
    weight = module.weight
    return isinstance(weight, Tensor) and weight.grad is not None and bool(weight.grad.any())

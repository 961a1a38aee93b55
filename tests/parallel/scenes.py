"""What the processes do in these tests, and what one process computes in their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import hiddenkey
from hiddenkey import DropoutConfig
from models import LAYER_STACK, batch, lora_model, plain_model, transformer_in

PROCESSES = 2
SEED = 7


class Step(NamedTuple):
    """A training step: its loss over all processes, its gradients and the weights after it."""

    loss: Tensor
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Scene:
    """A model, how it is wrapped and what is attached to it."""

    config: DropoutConfig
    family: str = "bert"
    task: str = "classification"
    wrapper: str = "ddp"  # or fsdp2
    attach: str = "before"  # or after the wrapper
    root: str = "peft"  # what FSDP2 wraps last: peft or transformer
    reshard: bool | None = None
    lm_loss: Any = "auto"
    layers: int = 2
    lora: bool = True
    checkpointing: bool = False

    def model(self) -> Any:
        """Build the model; the same weights in every process."""
        settings: dict[str, Any] = {"layers": self.layers}
        if self.lora:
            model = lora_model(self.family, self.task, feed_forward=True, **settings)
        else:
            model = plain_model(self.family, self.task, **settings)
        if self.checkpointing:
            transformer = transformer_in(model)
            transformer.config.use_cache = False
            transformer.activation_checkpointing_enable({"use_reentrant": False})
        return model

    def attached(self, model: nn.Module, rank: int | None = None) -> hiddenkey.Attachment:
        """Attach the configuration."""
        return hiddenkey.attach(model, self.config, lm_loss=self.lm_loss, data_parallel_rank=rank)


def configured(rate: float, layers: tuple[int, ...] | None = None, **loss: Any) -> DropoutConfig:
    """Return HiddenKey with one rate everywhere and other settings of its consistency loss."""
    config = hiddenkey.method("hiddenkey")
    assert config.consistency is not None
    return dataclasses.replace(
        config,
        drops=tuple(dataclasses.replace(drop, rate=rate) for drop in config.drops),
        consistency=dataclasses.replace(config.consistency, **loss),
        layers=layers,
    )


def train_together(scene: Scene, steps: int = 2) -> list[Step]:
    """Train in this process, with its part of each batch and all others with theirs."""
    model = scene.model()
    if scene.attach == "before":
        scene.attached(model)
    if scene.wrapper == "fsdp2":
        shard(model, scene)
    if scene.attach == "after":
        scene.attached(model)
    wrapped = DistributedDataParallel(model) if scene.wrapper == "ddp" else model
    optimizer = _optimizer(model)
    torch.manual_seed(SEED)
    found = []
    for step in range(steps):
        rank = distributed.get_rank()
        loss = wrapped(**part_of_batch(scene.task, step, rank)).loss
        if scene.task == "causal":  # divided by all processes' items, and averaged by the wrapper
            loss = loss * PROCESSES
        loss.backward()
        gradients = whole({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().clone()
        distributed.all_reduce(total)
        found.append(Step(total / PROCESSES, gradients, _trained(model)))
    return found


def train_alone(scene: Scene, steps: int = 2) -> list[Step]:
    """Compute in one process what all of them compute: each batch in parts, with their masks."""
    model = scene.model()
    optimizer = _optimizer(model)
    torch.manual_seed(SEED)
    found = []
    for step in range(steps):
        before, total = torch.get_rng_state(), torch.zeros(())
        for rank in range(PROCESSES):
            torch.set_rng_state(before)
            scene.attached(model, rank).consistency_passes = step
            loss = model(**part_of_batch(scene.task, step, rank)).loss
            if scene.task != "causal":
                loss = loss / PROCESSES
            loss.backward()
            total += loss.detach()
        gradients = whole({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        optimizer.step()
        optimizer.zero_grad()
        found.append(Step(total, gradients, _trained(model)))
    return found


def train_on_whole_batches(scene: Scene, steps: int = 2) -> list[Step]:
    """Train in one process on the batches of all together."""
    model = scene.model()
    scene.attached(model)
    optimizer = _optimizer(model)
    found = []
    for step in range(steps):
        loss = model(**whole_batch(scene.task, step)).loss
        loss.backward()
        gradients = whole({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        optimizer.step()
        optimizer.zero_grad()
        found.append(Step(loss.detach(), gradients, _trained(model)))
    return found


def assert_same_steps(found: list[Step], expected: list[Step]) -> None:
    """Check losses, gradients and weights of each step."""
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.gradients.keys() == other.gradients.keys()
        assert one.gradients
        torch.testing.assert_close(one, other)


def whole_batch(task: str, step: int) -> dict[str, Tensor]:
    """Return the batch of all processes; its parts have unequal numbers of labels."""
    inputs = batch(task, size=4 * PROCESSES, seed=step)
    if task == "causal":
        inputs["labels"][-1] = -100
    return inputs


def part_of_batch(task: str, step: int, rank: int) -> dict[str, Any]:
    """Return one process's part, for a language model with the number of all labelled tokens."""
    inputs = whole_batch(task, step)
    part = {name: value.chunk(PROCESSES)[rank] for name, value in inputs.items()}
    if task == "causal":
        part["num_items_in_batch"] = (inputs["labels"][:, 1:] != -100).sum()
    return part


def shard(model: nn.Module, scene: Scene) -> None:
    """Shard the layers of a model, and then the rest, by FSDP2."""
    settings: dict[str, Any] = {"mesh": init_device_mesh("cpu", (distributed.get_world_size(),))}
    if scene.reshard is not None:
        settings["reshard_after_forward"] = scene.reshard
    transformer = transformer_in(model)
    for layer in transformer.get_submodule(LAYER_STACK[scene.family]):
        fully_shard(layer, **settings)
    fully_shard(transformer if scene.root == "transformer" else model, **settings)


def whole(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Put sharded tensors together; copies all."""
    return {
        name: (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()
        for name, tensor in tensors.items()
    }


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return whole({n: p for n, p in model.named_parameters() if p.requires_grad})

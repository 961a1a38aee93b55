"""One LoRA model under one method, and the memory that its training step needs, for step.py."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from harness import numbers_of_own_process, resident_bytes, transient_bytes
from hiddenkey.attachment.attachment import attachment_of
from hiddenkey.framework.inference import Inference
from hiddenkey.step.averaging import WeightAverage
from step_methods import BASELINE, Inputs, Variant, variants
from step_models import Spec, add_lora, build, make_batch

TINY = (2, 8)
# Each tensor in pages of its own, which go back at once: by default glibc keeps freed blocks, and
# then the peak tells more of how they were broken up than of what a step needs.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536"}


class Training:
    """A LoRA model under one method, with its optimizer; calling it is one step."""

    def __init__(
        self, base: PreTrainedModel, spec: Spec, variant: Variant, arguments: argparse.Namespace
    ) -> None:
        self.model = add_lora(base, spec, variant.lora_dropout)
        if arguments.checkpointing:
            how = {"use_reentrant": False}
            self.model.get_base_model().activation_checkpointing_enable(how)
        variant.prepare(self.model)
        self.called: Callable[..., Any] = self.model
        if arguments.compile:
            self.called = torch.compile(self.model)
        self.loss = variant.loss
        self.recompiled: list[bool] = []
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self.average = WeightAverage(self.model, variant.used or Inference())

    def __call__(self, inputs: Inputs) -> None:
        graphs = graphs_compiled()
        self.loss(self.called, inputs).backward()
        self.optimizer.step()
        self.average.update()
        self.optimizer.zero_grad()
        self.recompiled.append(graphs_compiled() > graphs)

    def restart_cycle(self) -> None:
        """Let the next step be one with the consistency loss, if the method has one."""
        if attachment := attachment_of(self.model):
            attachment.consistency_passes = 0

    def held_bytes(self) -> int:
        """What is held between two steps: weights and the optimizer's state."""
        state = [t for entry in self.optimizer.state.values() for t in entry.values()]
        tensors = {t.data_ptr(): t.nbytes for t in [*_tensors(self.model), *state] if t.is_cuda}
        return sum(tensors.values())


def graphs_compiled() -> int:
    """How many graphs torch.compile has made in this process."""
    if "torch._dynamo.utils" not in sys.modules:  # loading it takes a second
        return 0
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _tensors(model: nn.Module) -> Iterable[torch.Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def chosen_variants(spec: Spec, names: Iterable[str]) -> dict[str, Variant]:
    """The named variants in their own order; the baseline is always among them."""
    return {k: v for k, v in variants(spec.own_dropout).items() if k in (BASELINE, *names)}


def batch_of(spec: Spec, base: PreTrainedModel, arguments: argparse.Namespace) -> Inputs:
    return make_batch(
        spec,
        base.config,
        arguments.batch or spec.batch,
        arguments.tokens or spec.tokens,
        padded=not arguments.no_padding,
        device=arguments.device,
    )


def tiny_batch(spec: Spec, base: PreTrainedModel, arguments: argparse.Namespace) -> Inputs:
    return make_batch(spec, base.config, *TINY, padded=True, device=arguments.device)


def measure_memory(
    model: str, trainings: Mapping[str, Training], inputs: Inputs, arguments: argparse.Namespace
) -> dict[str, dict[str, int]]:
    """Bytes of the methods that were asked for, and of the baseline."""
    # on a CPU the compiler's own memory would be measured
    if arguments.no_memory or (arguments.compile and arguments.device == "cpu"):
        return {}
    asked = (BASELINE, *(trainings if arguments.memory is None else arguments.memory))
    names = [name for name in trainings if name in asked]
    if arguments.device != "cpu":
        return {name: memory_on_gpu(trainings[name], inputs) for name in names}
    return {name: memory_on_cpu(name, model, arguments) for name in names}


def memory_on_gpu(training: Training, inputs: Inputs) -> dict[str, int]:
    training.restart_cycle()
    growth = transient_bytes(lambda: training(inputs), "cuda")
    return {"growth_bytes": growth, "peak_bytes": training.held_bytes() + growth}


def memory_on_cpu(name: str, model: str, arguments: argparse.Namespace) -> dict[str, int]:
    """Measure one case in a process of its own; see :func:`print_memory`."""
    options = ["--measure", name, "--models", model, "--threads", arguments.threads]
    for option in ("batch", "tokens", "dtype"):
        value = getattr(arguments, option)
        options += [f"--{option}", value] if value else []
    options += ["--no-padding"] if arguments.no_padding else []
    options += ["--checkpointing"] if arguments.checkpointing else []
    script = str(Path(__file__).with_name("step.py"))
    growth, peak = numbers_of_own_process(script, options, ALLOCATOR)
    return {"growth_bytes": growth, "peak_bytes": peak}


def print_memory(name: str, spec: Spec, arguments: argparse.Namespace) -> None:
    """Print the bytes by which a step lets this process grow, and its peak."""
    base = build(spec, arguments.dtype or spec.dtype, "cpu")
    training = Training(base, spec, chosen_variants(spec, [name])[name], arguments)
    inputs = batch_of(spec, base, arguments)
    training(tiny_batch(spec, base, arguments))
    training.restart_cycle()
    gc.collect()
    print(transient_bytes(lambda: training(inputs)), resident_bytes("VmHWM"))

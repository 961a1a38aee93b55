"""Is DropAttention's gradient noisier than DropKey's? A measurement at fixed weights.

For equal masks the two methods have equal forward passes and different gradients (arXiv 2403.00812,
section 3.1), which the paper takes for the reason of DropAttention's poor results, without
measuring it. Here one plain LoRA run is stopped at several points. At each of them, on batches that
stay the same, the gradient to every LoRA matrix is computed under many masks, by both methods with
the same masks, and once without noise.

The model exists twice, both copies with the very same weights, and each copy has one method
attached, through the library's reference path. Before each pass the generator is seeded, with the
same seeds for both methods and all rates.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

import hiddenkey
from gradient_noise.attention_maps import LogitsSpy, MapFindings, MapStatistics, SeenLogits
from gradient_noise.moments import (
    GradientStream,
    Moments,
    variance_between,
)
from gradient_noise.options import GROUPS, GradientNoiseOptions, find_faults
from gradient_noise.training_points import Batch, TrainedModel, fixed_batches, train_through
from hiddenkey.errors import AttachError, ConfigError
from hiddenkey.lab.run.preparation import Prepared, prepare

METHODS: Final = ("dropkey", "dropattention")
EXTRA: Final = "extra"
"""What DropAttention adds to DropKey's gradient, under the same mask."""

_POSITIONS: Final = {"dropkey": "attention_logits", "dropattention": "attention_weights"}
_ROUNDING: Final = 1e-3  # of the largest output; float32 differs by about 1e-6
_SEEDS: Final = 1_000_003  # more masks than any analysis draws


@dataclass(frozen=True)
class Point:
    """Where in the training run the weights are from.

    Attributes:
        share: of the training steps.
        step: the step after which they were so.
        loss: mean loss over the batches, without noise.
        between_batches: trace of the covariance of the gradients without noise between the batches,
            by matrix; empty for a single batch.
    """

    share: float
    step: int
    loss: float
    between_batches: Mapping[str, float]


@dataclass(frozen=True)
class Setting:
    """What was measured at one point with one pattern and one rate.

    Attributes:
        point: where in the training run.
        pattern: which keys were dropped together.
        rate: dropout rate.
        moments: by method (and ``extra``), then one mapping by matrix for each batch.
        maps: what the attention maps showed, in an eighth of the masks.
        difference: largest difference between the two methods' outputs under equal masks.
        largest: largest absolute output.
    """

    point: Point
    pattern: str
    rate: float
    moments: Mapping[str, Sequence[Mapping[str, Moments]]]
    maps: MapFindings
    difference: float
    largest: float


def prepare_analysis(options: GradientNoiseOptions) -> Prepared:
    """Check the options and read the data.

    Raises:
        ConfigError: with every fault of the settings and of the data together.
    """
    training = options.training()
    faults = find_faults(options)
    try:
        prepared = prepare(training)
    except ConfigError as error:
        raise ConfigError([*faults, *error.faults]) from None
    have, wanted = len(prepared.splits.train), options.batches * options.batch_size
    if wanted > have:
        faults.append(
            f"batches must hold at most the {have} training examples, got {options.batches} of"
            f" {options.batch_size}; take fewer or smaller ones"
        )
    if faults:
        raise ConfigError(faults)
    return prepared


def analyse(
    options: GradientNoiseOptions,
    prepared: Prepared,
    measured: Callable[[Setting], None] = lambda _: None,
) -> list[Setting]:
    """Train, then measure at each point with each pattern and rate.

    Args:
        options: the settings.
        prepared: what :func:`prepare_analysis` returned for them.
        measured: is told each setting as soon as it is there.

    Raises:
        AttachError: if the model cannot drop keys, or if equal masks give unequal outputs.
    """
    training, steps = options.training(), options.steps()
    trained = train_through(training, prepared, steps)
    batches = fixed_batches(training, prepared, trained.tokenizer, options.batches)
    found = []
    for pattern in options.patterns:
        with Pair(trained.model, pattern) as pair:
            for step, share in steps.items():
                for setting in _at_point(trained, pair, batches, step, share, options):
                    found.append(setting)
                    measured(setting)
    return found


def _at_point(
    trained: TrainedModel,
    pair: Pair,
    batches: Sequence[Batch],
    step: int,
    share: float,
    options: GradientNoiseOptions,
) -> Iterator[Setting]:
    trained.go_to(step)
    pair.set_rate(0.0)
    plain = [pair.run("dropkey", batch, options.seed) for batch in batches]
    loss = sum(found.loss for found in plain) / len(plain)
    gradients = [found.gradients for found in plain]
    point = Point(float(share), step, loss, variance_between(gradients))
    for rate in options.rates:
        pair.set_rate(rate)
        yield _measure(pair, batches, gradients, point, rate, options)


def _measure(
    pair: Pair,
    batches: Sequence[Batch],
    plain: Sequence[Mapping[str, Tensor]],
    point: Point,
    rate: float,
    options: GradientNoiseOptions,
) -> Setting:
    moments: dict[str, list[Mapping[str, Moments]]] = {name: [] for name in (*METHODS, EXTRA)}
    maps = MapStatistics()
    difference = largest = 0.0
    for index, batch in enumerate(batches):
        streams = {name: GradientStream() for name in moments}
        for mask in range(options.masks):
            seed = options.seed * _SEEDS + index * options.masks + mask
            group = mask % GROUPS
            passes = {name: pair.run(name, batch, seed, spy=group == 0) for name in METHODS}
            for name, found in passes.items():
                streams[name].add(group, found.gradients)
            left, right = (passes[name] for name in METHODS)
            streams[EXTRA].add(group, _minus(right.gradients, left.gradients))
            maps.add(left.logits, right.logits)
            difference = max(difference, (left.outputs - right.outputs).abs().max().item())
            largest = max(largest, left.outputs.abs().max().item())
        for name, stream in streams.items():
            moments[name].append(stream.moments(plain[index]))
    refuse_unequal(difference, largest)
    return Setting(point, pair.pattern, rate, moments, maps.findings(), difference, largest)


def refuse_unequal(difference: float, largest: float) -> None:
    """Make sure that the masks were equal, which equal outputs show.

    Raises:
        AttachError: if the outputs differ by more than rounding.
    """
    if not difference <= _ROUNDING * largest:
        raise AttachError(
            "DropKey and DropAttention must give equal outputs under equal masks, got a difference"
            f" of {difference:.3g} in outputs of up to {largest:.3g}; the model has noise of its"
            " own, choose one without"
        )


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass.

    Attributes:
        loss: the task's.
        outputs: the model's logits.
        gradients: by the LoRA matrix's name.
        logits: of the attention maps, with their gradients, where they were asked for.
    """

    loss: float
    outputs: Tensor
    gradients: Mapping[str, Tensor]
    logits: Sequence[SeenLogits]


class Pair:
    """A model twice, with the same weights: one drops logits, the other attention weights.

    A context manager; the model is left as it was.

    Args:
        model: with LoRA.
        pattern: which keys fall together.

    Raises:
        AttachError: on entering, if the model has no keys to drop.
    """

    def __init__(self, model: nn.Module, pattern: str) -> None:
        self.pattern = pattern
        self._models = dict(zip(METHODS, (model, twin(model)), strict=True))
        self._attachments: dict[str, hiddenkey.Attachment] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Pair:
        with ExitStack() as stack:
            for name, model in self._models.items():
                config = hiddenkey.method(f"{name}-{self.pattern}")
                attachment = hiddenkey.attach(model.train(), config, kernel="reference")
                self._attachments[name] = stack.enter_context(attachment)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def set_rate(self, rate: float) -> None:
        """Change the rate of both; with 0 there is no noise."""
        for name, attachment in self._attachments.items():
            attachment.set_rates({_POSITIONS[name]: rate})

    def run(self, method: str, batch: Batch, seed: int, *, spy: bool = False) -> Pass:
        """Run one method on a batch with the masks of a seed; ``spy`` keeps attention's logits."""
        model = self._models[method]
        parameters = lora_matrices(model)
        device = next(iter(parameters.values())).device
        torch.manual_seed(seed)
        watching = LogitsSpy()
        with ExitStack() as stack:
            if spy:
                stack.enter_context(watching)
            output = model(**{name: value.to(device) for name, value in batch.items()})
        found = torch.autograd.grad(output.loss, [*parameters.values()], materialize_grads=True)
        gradients = dict(zip(parameters, found, strict=True))
        return Pass(output.loss.item(), output.logits.detach(), gradients, watching.seen)


def twin(model: nn.Module) -> nn.Module:
    """Return a copy of a model's modules around the very same parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def lora_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trained LoRA matrices, by names without what PEFT puts around them."""
    return {
        name.removeprefix("base_model.model.").removesuffix(".default.weight"): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (".lora_A." in name or ".lora_B." in name)
    }


def _minus(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: left[name] - right[name] for name in left}

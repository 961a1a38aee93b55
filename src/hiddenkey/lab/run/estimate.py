"""Estimates of memory and time for training a decoder, before any machine is rented."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from hiddenkey.errors import ConfigError
from hiddenkey.lab.run import cost_model
from hiddenkey.lab.run.cost_model import Memory, Method, Setting, Sizes
from hiddenkey.lab.run.limits import ABOVE_ZERO, ONE, Limit, limit_faults
from hiddenkey.lab.run.quantised import BYTES

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_GATED: Final = ("llama", "mistral", "qwen2")  # whose layers keep what cost_model counts
_GIGA: Final = 1e9
_WIDTHS: Final = {"bfloat16": 2, "float32": 4}
_COUNTS: Final = Limit(
    "one or more numbers from 1 on", lambda value: value >= 1, "give such numbers"
)
_SHARE: Final = Limit("in (0, 1]", lambda value: 0 < value <= 1, "give such a share")
_SIZES: Final = (
    *("hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "vocab_size"),
)
KNOWN: Final = {
    "llama2-7b": (4096, 11008, 32, 32, 32, 32000),
    "llama2-70b": (8192, 28672, 80, 64, 8, 32000),
}
"""LLaMA's models by name, with their sizes."""


@dataclass(frozen=True)
class EstimateOptions:
    """What to estimate; lists make a row for each combination."""

    model: str = "llama2-7b"
    """llama2-7b, llama2-70b, or a folder or hub name of a LLaMA, Mistral or Qwen2 model."""
    rank: tuple[int, ...] = _COUNTS.default((8,))
    """Rank of the LoRA matrices."""
    target_modules: tuple[str, ...] = ("k_proj", "v_proj")
    """Names of the linear layers that get LoRA."""
    batch_size: int = ONE.default(8)
    """Sequences per forward pass and device."""
    tokens: tuple[int, ...] = _COUNTS.default((512,))
    """Tokens per sequence."""
    devices: tuple[int, ...] = _COUNTS.default((1,))
    """Data-parallel devices."""
    sharding: Literal["none", "fsdp2", "zero3"] = "none"
    """How the frozen weights are spread over the devices; none: a copy on each."""
    checkpointing: bool = False
    """Recompute activations in the backward pass."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Number format of frozen weights and activations; LoRA is trained in float32."""
    quantize: Literal["none", "4bit", "8bit"] = "none"
    """Frozen weights of the linear layers in 4 or 8 bits, the others in float32; the time of
    unpacking them is not estimated."""
    fraction: float = _SHARE.default(0.25)
    """Share of a batch in the consistency loss, for its column."""
    every: int = ONE.default(4)
    """Steps per consistency loss, for its column."""
    device_memory: float = ABOVE_ZERO.default(80.0)
    """Memory of a device in GB (10^9 bytes)."""
    reserve: float = 4.0
    """GB of it for the driver, the communication's buffers and fragmentation."""
    teraflops: float = ABOVE_ZERO.default(312.0)
    """Peak of a device in TFLOP/s (an A100 in bfloat16)."""
    utilisation: float = _SHARE.default(0.4)
    """Share of that peak that training reaches, in (0, 1]."""
    bandwidth: float = ABOVE_ZERO.default(200.0)
    """GB/s that a device receives from others of its machine."""
    network: float = ABOVE_ZERO.default(25.0)
    """GB/s that a device receives from other machines."""
    devices_per_machine: int = ONE.default(8)
    """Devices of one machine."""


@dataclass(frozen=True)
class MemoryEstimate:
    """One row."""

    rank: int  # of LoRA
    tokens: int  # of a sequence
    devices: int  # data-parallel ones
    memory: dict[str, Memory]  # bytes on a device, by method
    seconds: dict[str, float]  # of a step, by method; the mean over the steps
    gathering: float  # seconds of a LoRA step in which weights travel, beside the computation
    fits: bool  # whether every method's memory is there


def estimates(options: EstimateOptions) -> Iterator[MemoryEstimate]:
    """Yield an estimate for each combination of rank, tokens and devices.

    Raises:
        ConfigError: if an option is out of its range, or the model is not one that can be counted.
    """
    if faults := _faults(options):
        raise ConfigError(faults)
    config = config_of(options.model)
    sizes = {rank: count(config, rank, options.target_modules) for rank in options.rank}
    for devices, tokens, rank in itertools.product(options.devices, options.tokens, options.rank):
        setting = Setting(
            sequences=options.batch_size,
            tokens=tokens,
            devices=devices,
            sharding=options.sharding,
            checkpointing=options.checkpointing,
            width=_WIDTHS[options.precision],
            quantised=BYTES.get(options.quantize),
        )
        yield _estimate(sizes[rank], setting, options)


def methods(options: EstimateOptions) -> dict[str, Method]:
    """Return the columns of the table by name."""
    return {
        "LoRA": Method(),
        "HiddenKey-": Method(drops=True),
        "HiddenKey": Method(drops=True, compares=True),
        f"fraction {options.fraction:g}": Method(True, True, options.fraction),
        f"every {options.every}": Method(True, True, every=options.every),
    }


def config_of(model: str) -> PretrainedConfig:
    """Return a model's configuration.

    Raises:
        ConfigError: if there is no such model, or its layers are not those of the cost model.
    """
    from transformers import LlamaConfig

    from hiddenkey.lab.run.models import load_config

    if model in KNOWN:
        return LlamaConfig(**dict(zip(_SIZES, KNOWN[model], strict=True)))
    config = load_config(model, (), head=False)
    if config.model_type not in _GATED:
        raise ConfigError(
            f"model must be of the types {', '.join(_GATED)}, whose activations are counted, got"
            f" {config.model_type!r}; measure others with benchmarks/step.py"
        )
    return config


def count(config: PretrainedConfig, rank: int, target_modules: tuple[str, ...]) -> Sizes:
    """Count a decoder's parameters on the meta device.

    Raises:
        ConfigError: if a target module is no linear layer of its layers.
    """
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layer, head = model.model.layers[0], model.get_output_embeddings()
    modules = {name.rpartition(".")[2]: module for name, module in layer.named_modules()}
    linears = {name: each for name, each in modules.items() if isinstance(each, nn.Linear)}
    if missing := [name for name in target_modules if name not in linears]:
        raise ConfigError(
            f"target_modules must name linear layers of a layer, got {missing!r}; it has"
            f" {', '.join(linears)}"
        )
    targets = [linears[name] for name in target_modules]
    layers = config.num_hidden_layers
    in_layer = sum(linear.weight.numel() for linear in linears.values())
    return Sizes(
        layers=layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        attention=linears["q_proj"].out_features,
        key_value=linears["k_proj"].out_features,
        feed_forward=linears["down_proj"].in_features,
        vocabulary=head.out_features,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layer_parameters=sum(parameter.numel() for parameter in layer.parameters()),
        head_parameters=head.weight.numel(),
        multiplied=layers * in_layer + head.weight.numel(),
        lora=layers * rank * sum(each.in_features + each.out_features for each in targets),
        lora_layers=len(targets),
        rank=rank,
    )


def _estimate(sizes: Sizes, setting: Setting, options: EstimateOptions) -> MemoryEstimate:
    room = (options.device_memory - options.reserve) * _GIGA
    columns = methods(options).items()
    memory = {name: cost_model.memory(sizes, setting, each) for name, each in columns}

    def seconds(method: Method) -> float:
        """Return a step's, in which weights travel while others are computed with."""
        reached = options.teraflops * 1e12 * options.utilisation
        computing = cost_model.step_flops(sizes, setting, method) / reached
        return max(computing, _gathering(sizes, setting, method, options))

    return MemoryEstimate(
        rank=sizes.rank,
        tokens=setting.tokens,
        devices=setting.devices,
        memory=memory,
        seconds={name: each.mean(seconds) for name, each in columns},
        gathering=_gathering(sizes, setting, Method(), options),
        fits=all(each.total <= room for each in memory.values()),
    )


def _gathering(sizes: Sizes, setting: Setting, method: Method, options: EstimateOptions) -> float:
    is_one_machine = setting.devices <= options.devices_per_machine
    speed = options.bandwidth if is_one_machine else options.network
    return cost_model.gathered_bytes(sizes, setting, method) / (speed * _GIGA)


def _faults(options: EstimateOptions) -> list[str]:
    faults = limit_faults(options)
    if not 0 <= options.reserve < options.device_memory:
        faults.append(
            f"reserve must be at least 0 and below device_memory, got {options.reserve!r} of"
            f" {options.device_memory!r}; give a smaller number"
        )
    if options.quantize != "none" and options.sharding != "none":
        faults.append(
            f"sharding must be 'none' with quantize={options.quantize!r}, whose weights each device"
            f" holds, got {options.sharding!r}; leave one of them out"
        )
    return faults

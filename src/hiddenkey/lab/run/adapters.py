"""What of a model is trained: an adapter of PEFT beside the head, or every weight."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from hiddenkey import anatomy
from hiddenkey.errors import AttachError, ConfigError
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.tasks import Kind

if TYPE_CHECKING:
    from peft import IA3Config, LoraConfig, PeftConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel

_KEY: Final = re.compile(r"k|key|k_proj|key_proj|k_lin|to_k")
_VALUE: Final = re.compile(r"v|value|v_proj|value_proj|v_lin|to_v")
_FUSED: Final = re.compile(r"c_attn|query_key_value|qkv|qkv_proj|Wqkv|in_proj")
_TASK_TYPES: Final = {
    "classification": "SEQ_CLS",
    "regression": "SEQ_CLS",
    "generation": "CAUSAL_LM",
}
_ADAPTER_WEIGHTS: Final = ("lora_", "ia3_", "prompt_encoder.")


def add_adapter(
    model: PreTrainedModel, options: TrainOptions, kind: Kind = "classification"
) -> PreTrainedModel | PeftModel:
    """Make trainable what ``options.adapter`` names; all trained weights are in float32.

    An adapter leaves the rest of the model frozen but for a classification head (PEFT's
    ``modules_to_save``); a language model's head is frozen too. ``full`` returns the model itself.

    Raises:
        ConfigError: if a target module does not exist, the default ones cannot be found, or the
            model cannot take the adapter.
    """
    import torch

    if options.adapter == "full":
        adapted = model.requires_grad_(True)
    elif options.adapter == "prefix":
        adapted = _with_prefix(model, options, kind)
    else:
        from peft import get_peft_model

        build = ia3_config if options.adapter == "ia3" else lora_config
        adapted = get_peft_model(model, build(model, options, kind))
        _put_in_order(adapted.peft_config["default"])
    for parameter in adapted.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    return adapted


def _put_in_order(config: PeftConfig) -> None:
    """Sort the names that PEFT holds in sets, whose order in files differs between processes."""
    for name, value in vars(config).items():
        if isinstance(value, set):
            setattr(config, name, sorted(value))


def load_precision(options: TrainOptions) -> str:
    """Return the number format to load a model in: weights that are trained lose no digits."""
    return "float32" if options.adapter == "full" else options.precision


def lora_config(
    model: PreTrainedModel, options: TrainOptions, kind: Kind = "classification"
) -> LoraConfig:
    """Return PEFT's configuration of LoRA, or of DoRA (arXiv 2402.09353), for these options.

    Raises:
        ConfigError: if a target module does not exist, or the default ones cannot be found.
    """
    from peft import LoraConfig

    targets = _targets(model, options)
    return LoraConfig(
        task_type=_TASK_TYPES[kind],
        r=options.rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=targets,
        fan_in_fan_out=_is_transposed(model, _paths(model, targets)),
        use_dora=options.adapter == "dora",
    )


def ia3_config(
    model: PreTrainedModel, options: TrainOptions, kind: Kind = "classification"
) -> IA3Config:
    """Return PEFT's configuration of IA³ (arXiv 2205.05638) for these options.

    Keys and values are scaled where they leave their projections, the feed-forward block's inner
    activations where they enter its last linear layer. A fused projection is scaled as a whole,
    queries included, as PEFT does for GPT-2.

    Raises:
        ConfigError: if a target module does not exist, or the default ones cannot be found.
    """
    from peft import IA3Config

    targets = _paths(model, _targets(model, options))
    feed_forward = _feed_forward_paths(model)
    if options.target_modules is None:
        targets |= feed_forward
    return IA3Config(
        task_type=_TASK_TYPES[kind],
        # PEFT shortens long lists of targets, and then finds the feed-forward modules not in them
        target_modules=_pattern(targets),
        feedforward_modules=_pattern(targets & feed_forward),
        fan_in_fan_out=_is_transposed(model, targets),
    )


def key_value_modules(model: nn.Module) -> list[str]:
    """Return the names of the key and value projections, or of the fused projection.

    Raises:
        ConfigError: if the model has neither, with the names of its linear layers.
    """
    linears = linear_names(model)
    leaves = sorted(set(linears.values()))
    keys = [name for name in leaves if _KEY.fullmatch(name)]
    values = [name for name in leaves if _VALUE.fullmatch(name)]
    if keys and values:
        return keys + values
    fused = [name for name in leaves if _FUSED.fullmatch(name)]
    if fused:
        return fused
    raise ConfigError(
        "target_modules must be given for this model, its key and value projections were not"
        f" found; choose from its linear layers: {_listed(linears)}"
    )


def linear_names(model: nn.Module) -> dict[str, str]:
    """Return the last part of the name of each linear layer, by its full name."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return {
        path: path.rpartition(".")[2]
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }


def trainable_counts(model: nn.Module) -> dict[str, int]:
    """Count the trainable parameters, the adapter's among them, and all parameters."""
    counts = {"trainable": 0, "adapter": 0, "total": 0}
    for name, parameter in model.named_parameters():
        counts["total"] += parameter.numel()
        if parameter.requires_grad:
            counts["trainable"] += parameter.numel()
            is_adapter = any(mark in name for mark in _ADAPTER_WEIGHTS)
            counts["adapter"] += parameter.numel() if is_adapter else 0
    return counts


def _with_prefix(model: PreTrainedModel, options: TrainOptions, kind: Kind) -> PeftModel:
    """Put a prefix (arXiv 2101.00190, without its projection) on the model, and try it.

    PEFT finds out in the first call whether the model can take one.
    """
    from peft import PrefixTuningConfig, get_peft_model

    from hiddenkey.attachment.called_module import prefix_fault

    config = PrefixTuningConfig(
        task_type=_TASK_TYPES[kind], num_virtual_tokens=options.prefix_tokens
    )
    try:
        adapted = get_peft_model(model, config)
        if fault := prefix_fault(adapted, model):
            raise ConfigError(fault)
        if not _changes_outputs(adapted):
            raise ValueError("its output is the same with and without the prefix")
    except ConfigError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0].rstrip(".")
        raise ConfigError(
            f"adapter 'prefix' needs a model that reads keys and values from a cache, got"
            f" {type(model).__name__} ({reason}); take another adapter or another model"
        ) from e
    return adapted


def _changes_outputs(adapted: PeftModel) -> bool:
    """Whether the virtual tokens reach what the model says of a sequence of two tokens."""
    import torch

    was_training = adapted.training
    adapted.eval()
    tokens = torch.ones(1, 2, dtype=torch.long, device=adapted.device)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    with torch.no_grad():
        prefixed = adapted(**inputs).logits
        plain = adapted.get_base_model()(**inputs).logits
    adapted.train(was_training)
    return not torch.equal(prefixed, plain)


def _targets(model: nn.Module, options: TrainOptions) -> list[str]:
    if options.target_modules is None:
        return key_value_modules(model)
    linears = linear_names(model)
    known = {*linears, *linears.values()}
    if missing := [name for name in options.target_modules if name not in known]:
        raise ConfigError(
            f"target_modules must name linear layers of the model, got {missing!r};"
            f" it has {_listed(linears)}"
        )
    return list(options.target_modules)


def _paths(model: nn.Module, names: Iterable[str]) -> set[str]:
    """Return the full names of the linear layers with these full or last names."""
    wanted = set(names)
    return {path for path, leaf in linear_names(model).items() if leaf in wanted or path in wanted}


def _feed_forward_paths(model: PreTrainedModel) -> set[str]:
    linears = linear_names(model)
    try:
        parts = anatomy.find_feed_forward(model, anatomy.find_layers(model), None)
    except AttachError as error:
        raise ConfigError(f"adapter 'ia3' scales feed-forward layers: {error}") from error
    return {part.name for part in parts if part.name in linears}


def _pattern(paths: set[str]) -> str:
    """Return a regular expression for these names; members of a list differ in their number."""
    return "|".join(sorted({re.sub(r"\b\d+\b", r"\\d+", re.escape(path)) for path in paths}))


def _is_transposed(model: nn.Module, paths: set[str]) -> bool:
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(model.get_submodule(path), Conv1D) for path in paths)


def _listed(linears: dict[str, str]) -> str:
    return ", ".join(sorted(set(linears.values()))) or "none"

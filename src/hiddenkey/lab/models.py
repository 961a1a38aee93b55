"""Loading a classifier or regressor from safetensors and putting PEFT's LoRA on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.assets import BUNDLED_MODELS, locate
from hiddenkey.lab.options import TrainOptions

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_KEY: Final = re.compile(r"k|key|k_proj|key_proj|k_lin|to_k")
_VALUE: Final = re.compile(r"v|value|v_proj|value_proj|v_lin|to_v")
_FUSED: Final = re.compile(r"c_attn|query_key_value|qkv|qkv_proj|Wqkv|in_proj")


def resolve_model(model: str) -> str:
    """Return the folder of a bundled model, or the name as it is."""
    return str(locate(BUNDLED_MODELS[model])) if model in BUNDLED_MODELS else model


def load_config(model: str, label_names: tuple[str, ...], *, head: bool = True) -> PretrainedConfig:
    """Read a model's configuration and set it to the classes; no names mean one score.

    Args:
        model: local folder, hub name or bundled name.
        label_names: names by class index; empty for regression.
        head: whether the model gets a classification head at all.

    Raises:
        ConfigError: if there is no such model.
    """
    from transformers import AutoConfig

    try:
        if not head:
            return AutoConfig.from_pretrained(resolve_model(model))
        config = AutoConfig.from_pretrained(
            resolve_model(model), num_labels=max(1, len(label_names))
        )
    except (OSError, ValueError) as error:
        raise ConfigError(could_not_load(model, error)) from error
    if label_names:
        config.problem_type = "single_label_classification"
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: index for index, name in enumerate(label_names)}
    else:
        config.problem_type = "regression"
    return config


def load_classifier(
    model: str, label_names: tuple[str, ...], precision: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a sequence classifier, or a regressor where there are no labels, and its tokenizer.

    A head for another number of classes is replaced by a new one.

    Args:
        model: local folder, hub name or bundled name. Only safetensors are read.
        label_names: names by class index; empty for regression.
        precision: number format of the weights, ``float32`` or ``bfloat16``.

    Raises:
        ConfigError: if there is no such model or it has no tokenizer or no such head.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    config = load_config(model, label_names)
    name = resolve_model(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        loaded = AutoModelForSequenceClassification.from_pretrained(
            name,
            config=config,
            dtype=getattr(torch, precision),
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # only the head's classes were changed
        )
    except (OSError, ValueError) as error:
        raise ConfigError(could_not_load(model, error)) from error
    if tokenizer.pad_token is None:  # GPT-2, LLaMA: padding is masked, so any token will do
        tokenizer.pad_token = tokenizer.eos_token
    if loaded.config.pad_token_id is None:
        loaded.config.pad_token_id = tokenizer.pad_token_id
    loaded.config.use_cache = False
    return loaded, tokenizer


def add_lora(model: PreTrainedModel, options: TrainOptions) -> PeftModel:
    """Freeze the model, put LoRA on it and keep all trained weights in float32.

    The classification head is trained as well (PEFT's ``modules_to_save``).

    Raises:
        ConfigError: if a target module does not exist, or the default ones cannot be found.
    """
    import torch
    from peft import get_peft_model

    wrapped = get_peft_model(model, lora_config(model, options))
    for parameter in wrapped.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    return wrapped


def lora_config(model: PreTrainedModel, options: TrainOptions) -> LoraConfig:
    """Return PEFT's configuration for these options.

    Raises:
        ConfigError: if a target module does not exist, or the default ones cannot be found.
    """
    from peft import LoraConfig, TaskType
    from transformers.pytorch_utils import Conv1D

    linears = linear_names(model)
    if options.target_modules is None:
        targets = key_value_modules(model)
    else:
        targets = list(options.target_modules)
        missing = [name for name in targets if name not in set(linears.values()) | set(linears)]
        if missing:
            raise ConfigError(
                f"target_modules must name linear layers of the model, got {missing!r};"
                f" it has {_listed(linears)}"
            )
    transposed = any(
        isinstance(model.get_submodule(path), Conv1D)
        for path, leaf in linears.items()
        if leaf in targets or path in targets
    )
    return LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=options.rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=targets,
        fan_in_fan_out=transposed,
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
    """Count the trainable parameters, those of LoRA among them, and all parameters."""
    counts = {"trainable": 0, "lora": 0, "total": 0}
    for name, parameter in model.named_parameters():
        counts["total"] += parameter.numel()
        if parameter.requires_grad:
            counts["trainable"] += parameter.numel()
            counts["lora"] += parameter.numel() if "lora_" in name else 0
    return counts


def _listed(linears: dict[str, str]) -> str:
    return ", ".join(sorted(set(linears.values()))) or "none"


def could_not_load(model: str, error: Exception) -> str:
    """The message for a model that transformers refused to load."""
    reason: Any = str(error).strip().splitlines() or [type(error).__name__]
    where = "its files" if Path(model).is_dir() else "the name and the network"
    return (
        f"model must be a model's folder or its name on the hub, {model!r} could not be loaded"
        f" ({reason[0]}); check {where}"
    )

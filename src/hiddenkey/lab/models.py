"""Loading a model from safetensors or GGUF and putting PEFT's LoRA on it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.assets import BUNDLED_MODELS, locate
from hiddenkey.lab.options import TrainOptions
from hiddenkey.lab.tasks import Kind

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_KEY: Final = re.compile(r"k|key|k_proj|key_proj|k_lin|to_k")
_VALUE: Final = re.compile(r"v|value|v_proj|value_proj|v_lin|to_v")
_FUSED: Final = re.compile(r"c_attn|query_key_value|qkv|qkv_proj|Wqkv|in_proj")


def model_source(model: str) -> tuple[str, dict[str, Any]]:
    """Return what transformers' ``from_pretrained`` takes for a model.

    Args:
        model: local folder, GGUF file, hub name or bundled name.

    Returns:
        The folder or the name, and further arguments: ``gguf_file`` for a model in that format.

    Raises:
        ConfigError: if a bundled model is not installed, or the package that reads GGUF is missing.
    """
    if model in BUNDLED_MODELS:
        asset = BUNDLED_MODELS[model]
        folder, file = locate(asset), asset.gguf
    elif Path(model).suffix.lower() == ".gguf":
        folder, file = Path(model).parent, Path(model).name
    else:
        return model, {}
    if file is None:
        return str(folder), {}
    if find_spec("gguf") is None:
        raise ConfigError(
            f"model {model!r} is in the format GGUF, package 'gguf' is missing; run: pip install"
            " gguf"
        )
    return str(folder), {"gguf_file": file}


def load_config(model: str, label_names: tuple[str, ...], *, head: bool = True) -> PretrainedConfig:
    """Read a model's configuration and set it to the classes; no names mean one score.

    Args:
        model: local folder, GGUF file, hub name or bundled name.
        label_names: names by class index; empty for regression.
        head: whether the model gets a classification head at all.

    Raises:
        ConfigError: if there is no such model.
    """
    from transformers import AutoConfig

    name, how = model_source(model)
    try:
        if not head:
            return AutoConfig.from_pretrained(name, **how)
        config = AutoConfig.from_pretrained(name, **how, num_labels=max(1, len(label_names)))
    except (OSError, ValueError) as error:
        raise ConfigError(could_not_load(model, error)) from error
    if label_names:
        config.problem_type = "single_label_classification"
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: index for index, name in enumerate(label_names)}
    else:
        config.problem_type = "regression"
    return config


def load_model(
    model: str, kind: Kind, label_names: tuple[str, ...], precision: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model with the head that a kind of task needs, and its tokenizer.

    A classification head for another number of classes is replaced by a new one.

    Args:
        model: local folder, GGUF file, hub name or bundled name. Of a folder or a hub's model only
            safetensors are read.
        kind: generation loads a causal language model, classification and regression a sequence
            classifier.
        label_names: names by class index; empty for regression and generation.
        precision: number format of the weights, ``float32`` or ``bfloat16``.

    Raises:
        ConfigError: if there is no such model, it has no tokenizer or no such head, or it cannot
            generate text where it should.
    """
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    generates = kind == "generation"
    config = load_config(model, label_names, head=not generates)
    name, how = model_source(model)
    auto = AutoModelForCausalLM if generates else AutoModelForSequenceClassification
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **how)
        loaded = auto.from_pretrained(
            name,
            config=config,
            dtype=getattr(torch, precision),
            use_safetensors=None if how else True,
            ignore_mismatched_sizes=not generates,  # only the head's classes were changed
            **how,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(could_not_load(model, error)) from error
    if generates:
        _refuse_what_cannot_generate(model, loaded, tokenizer)
    if how:
        _forget_quantisation(loaded)
    if tokenizer.pad_token is None:  # GPT-2, LLaMA: padding is masked, so any token will do
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    if loaded.config.pad_token_id is None:
        loaded.config.pad_token_id = tokenizer.pad_token_id
    loaded.config.use_cache = False
    return loaded, tokenizer


def _refuse_what_cannot_generate(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    # transformers loads an encoder as a language model too, with no more than a warning
    if any(getattr(module, "is_causal", None) is False for module in model.modules()):
        raise ConfigError(
            f"model must be a causal language model to generate text, got {name!r}"
            f" ({type(model).__name__}), whose attention sees what follows; take one such as"
            " 'smollm2' or 'gpt2'"
        )
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"model must have a token that ends a text to generate any, the tokenizer of {name!r}"
            " has none; set its eos_token and save it"
        )


def _forget_quantisation(model: PreTrainedModel) -> None:
    """GGUF's weights are ordinary numbers once they are read, yet Trainer would refuse them."""
    model.is_quantized = False
    for holder, name in (
        (model, "hf_quantizer"),
        (model, "quantization_method"),
        (model.config, "quantization_config"),
    ):
        if name in vars(holder):
            delattr(holder, name)


def add_lora(
    model: PreTrainedModel, options: TrainOptions, kind: Kind = "classification"
) -> PeftModel:
    """Freeze the model, put LoRA on it and keep all trained weights in float32.

    A classification head is trained too (PEFT's ``modules_to_save``), a language model's is not.

    Raises:
        ConfigError: if a target module does not exist, or the default ones cannot be found.
    """
    import torch
    from peft import get_peft_model

    wrapped = get_peft_model(model, lora_config(model, options, kind))
    for parameter in wrapped.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    return wrapped


def lora_config(
    model: PreTrainedModel, options: TrainOptions, kind: Kind = "classification"
) -> LoraConfig:
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
        task_type=TaskType.CAUSAL_LM if kind == "generation" else TaskType.SEQ_CLS,
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

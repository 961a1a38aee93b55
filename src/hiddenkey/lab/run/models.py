"""Loading a model and its tokenizer from safetensors or GGUF."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiddenkey.errors import ConfigError
from hiddenkey.lab.assets import BUNDLED_MODELS, locate
from hiddenkey.lab.gguf_files import forget_quantisation, need_reader
from hiddenkey.lab.run.positions import too_long
from hiddenkey.lab.run.quantised import (
    Quantize,
    loading_arguments,
    prepare_quantised,
    refuse_unserved_devices,
)
from hiddenkey.lab.tasks import Kind

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from hiddenkey.lab.run.options import TrainOptions


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
    need_reader(f"model {model!r}")
    return str(folder), {"gguf_file": file}


def load_config(
    model: str, label_names: tuple[str, ...], *, head: bool = True, trusted: bool = False
) -> PretrainedConfig:
    """Read a model's configuration and set it to the classes; no names mean one score.

    Args:
        model: local folder, GGUF file, hub name or bundled name.
        label_names: names by class index; empty for regression.
        head: whether the model gets a classification head at all.
        trusted: whether to run code that the model brings along.

    Raises:
        ConfigError: if there is no such model.
    """
    from transformers import AutoConfig

    name, how = model_source(model)
    classes = {"num_labels": max(1, len(label_names))} if head else {}
    with loading(model):
        config = AutoConfig.from_pretrained(name, trust_remote_code=trusted, **how, **classes)
    if not head:
        return config
    if label_names:
        config.problem_type = "single_label_classification"
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: index for index, name in enumerate(label_names)}
    else:
        config.problem_type = "regression"
    return config


def load_model(
    model: str,
    kind: Kind,
    label_names: tuple[str, ...],
    precision: str,
    *,
    quantize: Quantize = "none",
    trusted: bool = False,
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
        quantize: number format of the linear layers below the head, which are frozen then, in place
            of ``precision``.
        trusted: whether to run code that the model brings along.

    Raises:
        ConfigError: if there is no such model, it has no tokenizer or no such head, or it cannot
            generate text where it should; or if no device serves quantised weights.
    """
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    generates = kind == "generation"
    config = load_config(model, label_names, head=not generates, trusted=trusted)
    name, how = model_source(model)
    auto = AutoModelForCausalLM if generates else AutoModelForSequenceClassification
    if quantize != "none":
        refuse_unserved_devices(quantize)
    with loading(model):
        bits = loading_arguments(auto, config, quantize, precision, trusted=trusted)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trusted, **how)
        loaded, found = auto.from_pretrained(
            name,
            config=config,
            dtype=getattr(torch, precision),
            trust_remote_code=trusted,
            use_safetensors=None if how else True,
            ignore_mismatched_sizes=not generates,  # the head's classes were changed
            output_loading_info=True,
            **how,
            **bits,
        )
        inside = f"{loaded.base_model_prefix}."
        wrong = [key for key, *_ in found["mismatched_keys"] if key.startswith(inside)]
        if wrong:  # which would be new random numbers
            raise ValueError(f"{wrong[0]} has another shape than config.json says")
    if generates:
        _refuse_what_cannot_generate(model, loaded, tokenizer)
    if how:
        forget_quantisation(loaded)
    if bits:
        loaded = prepare_quantised(loaded)
    if tokenizer.pad_token is None:  # GPT-2, LLaMA: padding is masked, so any token will do
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    if loaded.config.pad_token_id is None:
        loaded.config.pad_token_id = tokenizer.pad_token_id
    loaded.config.use_cache = False
    return loaded, tokenizer


def refuse_long_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    options: TrainOptions,
    prompts: Sequence[str] = (),
) -> None:
    """Refuse settings with which a text could have more tokens than the model has positions.

    Raises:
        ConfigError: if texts, or the longest prompt and what is generated for it, need more.
    """
    places = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(places, int) or places < 1:
        return
    for name, module in model.named_modules():
        if "position" in name and getattr(module, "padding_idx", None) is not None:
            places -= module.padding_idx + 1  # RoBERTa counts from behind the padding's number
    longest = max(map(len, tokenizer(list(prompts))["input_ids"])) if prompts else None
    if faults := too_long(options, places, longest):
        raise ConfigError(faults)


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


@contextmanager
def loading(model: str) -> Iterator[None]:
    """Turn what transformers raises for a missing or damaged model into a ConfigError."""
    try:
        yield
    except ModuleNotFoundError:
        raise
    except Exception as error:  # for a damaged file, nearly anything
        raise ConfigError(_could_not_load(model, error)) from error


def _could_not_load(model: str, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"model {model!r} brings code of its own along, which is not run without"
            " --trust-remote-code; read it first, since it can do whatever you can"
        )
    reason: Any = str(error).strip().splitlines() or [type(error).__name__]
    where = "its files" if os.path.exists(model) else "the name and the network"
    return (
        f"model must be a model's folder or its name on the hub, {model!r} could not be loaded"
        f" ({reason[0]}); check {where}"
    )

"""Finds the parts of a transformer that noise can enter: layers, attention, feed-forward, head."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from hiddenkey.errors import AttachError


@dataclass(frozen=True)
class Part:
    """A module of a transformer.

    Attributes:
        layer: index of the transformer layer that holds it; ``None`` outside the layers.
        name: its name in the transformer (without PEFT's prefix).
        module: the module itself.
    """

    layer: int | None
    name: str
    module: nn.Module


def transformer_of(model: Any) -> nn.Module:
    """Return the Hugging Face model inside a ``PeftModel``, or the model itself.

    Raises:
        AttachError: if there is no ``PreTrainedModel`` in it.
    """
    # PEFT also writes peft_config on the transformer inside, which has no get_base_model
    wrapped = hasattr(model, "peft_config") and hasattr(model, "get_base_model")
    inner: Any = model.get_base_model() if wrapped else model
    if not (hasattr(inner, "config") and hasattr(inner, "set_attn_implementation")):
        raise AttachError(
            "attach needs a transformers PreTrainedModel or a PeftModel around one, got"
            f" {type(model).__name__}; pass the model that from_pretrained or get_peft_model gave,"
            " before any other wrapper"
        )
    if getattr(inner.config, "is_encoder_decoder", False):
        raise AttachError(
            f"{type(inner).__name__} is an encoder-decoder, which is not supported yet; use an"
            " encoder or a decoder"
        )
    return inner  # type: ignore[no-any-return]


def find_layers(transformer: nn.Module) -> list[Part]:
    """Find the stack of layers: the module list with as many members as the config says.

    Raises:
        AttachError: if there is none, or more than one.
    """
    count = text_config(transformer).num_hidden_layers
    stacks = [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and _holds_linears(module[0])
    ]
    stacks = [s for s in stacks if not any(s.startswith(f"{other}.") for other in stacks)]
    if len(stacks) != 1:
        raise AttachError(
            f"expected one list of {count} layers in {type(transformer).__name__}, found"
            f" {stacks or 'none'}; this architecture is not supported yet"
        )
    layers = transformer.get_submodule(stacks[0])
    return [Part(i, f"{stacks[0]}.{i}", layer) for i, layer in enumerate(layers.children())]


def find_attention(layers: list[Part]) -> list[Part]:
    """Find the modules that call transformers' attention interface, at most one for each layer.

    Raises:
        AttachError: if some layer has more than one.
    """
    found = []
    for layer in layers:
        calls = [p for p in _parts(layer) if _calls_attention_interface(p.module)]
        if len(calls) > 1:
            names = ", ".join(part.name for part in calls)
            raise AttachError(
                f"layer {layer.layer} has more than one attention ({names}), which is not supported"
                " yet"
            )
        found += calls
    return found


def find_feed_forward(
    transformer: nn.Module, layers: list[Part], pattern: str | None
) -> list[Part]:
    """Find the second dense layer of each feed-forward block.

    By name where ``pattern`` is given; else by shape, as the one linear layer of a transformer
    layer, outside attention, that maps another width to the hidden width.

    Args:
        transformer: the Hugging Face model.
        layers: its layers.
        pattern: regular expression that fully matches the wanted names.

    Raises:
        AttachError: if a layer has none or several; what was found is listed.
    """
    width = text_config(transformer).hidden_size
    found = []
    for layer in layers:
        linears = [(part, shape) for part in _parts(layer) if (shape := _linear_shape(part.module))]
        if pattern is not None:
            hits = [part for part, _ in linears if re.fullmatch(pattern, part.name)]
        else:
            inside = tuple(f"{a.name}." for a in find_attention([layer]))
            hits = [
                part
                for part, (inputs, outputs) in linears
                if outputs == width and inputs != width and not part.name.startswith(inside)
            ]
        if len(hits) != 1:
            listed = ", ".join(f"{part.name} {i}→{o}" for part, (i, o) in linears) or "none"
            asked = f"match hidden_modules={pattern!r}" if pattern else f"end in width {width}"
            raise AttachError(
                f"layer {layer.layer} must have exactly one linear layer to {asked}, found"
                f" {len(hits)} among: {listed}; name it with"
                " DropoutConfig(hidden_modules=<regular expression>)"
            )
        found += hits
    return found


def find_head(transformer: nn.Module) -> Part:
    """Find the module that turns the last representation into predictions.

    Raises:
        AttachError: if it is under no known name.
    """
    for name in ("classifier", "score", "lm_head", "qa_outputs", "embed_out"):
        module = getattr(transformer, name, None)
        if isinstance(module, nn.Module):
            return Part(None, name, module)
    children = ", ".join(name for name, _ in transformer.named_children())
    raise AttachError(
        f"no classifier or language-model head found in {type(transformer).__name__} (it has"
        f" {children}); load it with a head, for instance AutoModelForSequenceClassification"
    )


def text_config(transformer: Any) -> Any:
    """Return the text part of a model's config."""
    return transformer.config.get_text_config()


def task_of(transformer: Any) -> str | None:
    """Return transformers' name of the loss, such as ``ForSequenceClassification``."""
    name = type(transformer).__name__
    if name.endswith("LMHeadModel"):
        return "ForCausalLM"
    kind = getattr(transformer, "loss_type", None)
    return kind if isinstance(kind, str) else None


def is_regression(transformer: Any) -> bool:
    """Whether a sequence classifier's loss is the mean squared error, by transformers' own rule."""
    if task_of(transformer) != "ForSequenceClassification":
        return False
    kind = transformer.config.problem_type
    return kind == "regression" or (kind is None and transformer.config.num_labels == 1)


def _parts(layer: Part) -> Iterator[Part]:
    """Walk a layer's modules, without going into an adapter's own layers."""
    adapters: list[str] = []
    for name, module in layer.module.named_modules():
        if name and not name.startswith(tuple(adapters)):
            yield Part(layer.layer, f"{layer.name}.{name}", module)
        if hasattr(module, "base_layer"):
            adapters.append(f"{name}.")


def _linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return (inputs, outputs) of a linear layer, GPT-2's Conv1D or an adapter around one."""
    inputs, outputs = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if inputs is None:
        inputs, outputs = getattr(module, "nx", None), getattr(module, "nf", None)
    if isinstance(inputs, int) and isinstance(outputs, int):
        return inputs, outputs
    return None


def _holds_linears(module: nn.Module) -> bool:
    return any(_linear_shape(child) for child in module.modules())


def _calls_attention_interface(module: nn.Module) -> bool:
    forward = inspect.unwrap(type(module).forward)
    code = getattr(forward, "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names

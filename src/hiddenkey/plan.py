"""What a configuration means on one model: where each drop acts, by which path, or why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hiddenkey import anatomy
from hiddenkey.anatomy import Part
from hiddenkey.attention.site import fused_refusal
from hiddenkey.config import Drop, DropoutConfig, not_one_of
from hiddenkey.consistency import MULTI_LABEL, TASKS, chunked_refusal
from hiddenkey.errors import ConfigError
from hiddenkey.positions import POSITIONS

Kernel = Literal["auto", "reference", "fused"]
_KERNELS = ("auto", "reference", "fused")
_LM_LOSSES = ("auto", "chunked", "full")


@dataclass(frozen=True)
class Site:
    """One place where an attached configuration acts.

    Attributes:
        name: module, as the transformer names it (without PEFT's prefix).
        layer: index of its transformer layer; ``None`` for the positions ``input`` and ``output``.
        position: where noise enters.
        pattern: which units fall together.
        rate: share that falls.
        rescale: what happens to the rest.
        kernel: ``fused`` or ``reference`` for attention, ``hook`` elsewhere.
    """

    name: str
    layer: int | None
    position: str
    pattern: str
    rate: float
    rescale: str
    kernel: str

    @property
    def key(self) -> str:
        """Short name for logs, such as ``attention_logits/3``."""
        return self.position if self.layer is None else f"{self.position}/{self.layer}"


@dataclass(frozen=True)
class Place:
    """A drop at a module."""

    drop: Drop
    part: Part
    site: Site


def make_plan(
    config: DropoutConfig,
    transformer: Any,
    layers: Sequence[Part],
    kernel: str,
    lm_loss: str = "auto",
) -> list[Place]:
    """Find where each drop of a configuration acts.

    Args:
        config: the configuration.
        transformer: the Hugging Face model.
        layers: its layers.
        kernel: ``auto``, ``reference`` or ``fused``.
        lm_loss: ``auto``, ``chunked`` or ``full``.

    Raises:
        ConfigError: if the configuration does not fit the model, with all reasons.
        AttachError: if a module is not found.
    """
    faults = _misfits(config, transformer, len(layers), kernel)
    if faults := faults + _lm_loss_faults(config, transformer, lm_loss):
        raise ConfigError(faults)
    path = _attention_path(config, kernel)
    dropping = [part for part in layers if config.layers is None or part.layer in config.layers]
    return [
        Place(drop, part, _site(drop, part, path))
        for drop in config.drops
        for part in POSITIONS[drop.position].find(transformer, dropping, config.hidden_modules)
    ]


def _misfits(config: DropoutConfig, transformer: Any, layers: int, kernel: str) -> list[str]:
    faults = []
    if kernel not in _KERNELS:
        faults.append(not_one_of("kernel", kernel, _KERNELS))
    attention = _attention_drops(config)
    if kernel == "fused" and attention:
        refusal = fused_refusal(attention, config.keep_model_dropout)
        if refusal is not None:
            faults.append(f"kernel='fused' cannot serve this configuration: {refusal}; use 'auto'")
    faults += [
        f"layers must be below {layers}, the number of layers of this model, got {layer}"
        for layer in config.layers or ()
        if layer >= layers
    ]
    if config.consistency is None:
        return faults
    task = anatomy.task_of(transformer)
    regression = anatomy.is_regression(transformer)
    if task not in TASKS:
        faults.append(
            f"the consistency loss works on {', '.join(TASKS)}, got a model for {task}; set"
            " consistency=None"
        )
    elif transformer.config.problem_type == "multi_label_classification":
        faults.append(MULTI_LABEL)
    if regression and config.consistency.on == "logits":
        faults.append(
            "consistency.on='logits' means nothing for regression, whose single logit has a"
            " softmax of 1; use 'representation' or 'auto'"
        )
    return faults


def _lm_loss_faults(config: DropoutConfig, transformer: Any, lm_loss: str) -> list[str]:
    if lm_loss not in _LM_LOSSES:
        return [not_one_of("lm_loss", lm_loss, _LM_LOSSES)]
    if lm_loss != "chunked":
        return []
    if config.consistency is None:
        return ["lm_loss='chunked' needs a consistency loss, got none; use 'auto'"]
    refusal = chunked_refusal(config.consistency, transformer)
    if refusal is None:
        return []
    name = type(transformer).__name__
    return [f"lm_loss='chunked' cannot serve {name}: {refusal}; use 'auto'"]


def _attention_drops(config: DropoutConfig) -> list[Drop]:
    return [drop for drop in config.drops if POSITIONS[drop.position].acts == "inside"]


def _attention_path(config: DropoutConfig, kernel: str) -> str:
    drops = _attention_drops(config)
    if not drops or kernel == "reference":
        return "reference"
    return "reference" if fused_refusal(drops, config.keep_model_dropout) else "fused"


def _site(drop: Drop, part: Part, path: str) -> Site:
    inside = POSITIONS[drop.position].acts == "inside"
    return Site(
        name=part.name,
        layer=part.layer,
        position=drop.position,
        pattern=drop.pattern,
        rate=drop.rate,
        rescale=drop.rescaling,
        kernel=path if inside else "hook",
    )

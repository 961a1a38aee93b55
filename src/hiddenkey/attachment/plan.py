"""What a configuration means on one model: where each drop acts, by which path, or why not."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal, get_args

from torch import nn

from hiddenkey import anatomy
from hiddenkey.anatomy import AttentionPart, Gap, Part
from hiddenkey.attachment.finders import find_parts
from hiddenkey.attention import dispatch
from hiddenkey.attention.site import fused_refusal
from hiddenkey.errors import ConfigError, not_one_of
from hiddenkey.framework.compensation import SMOOTHING
from hiddenkey.framework.config import Drop, DropoutConfig
from hiddenkey.framework.consistency import Consistency
from hiddenkey.framework.positions import POSITIONS
from hiddenkey.framework.site import Site
from hiddenkey.step.added_loss import LanguageModelLoss, chunked_refusal
from hiddenkey.step.places import Place, SitePlan
from hiddenkey.step.tasks import ANSWERS, CHOICES, TASKS

Kernel = Literal["auto", "reference", "fused"]
KERNELS: Final[tuple[Kernel, ...]] = get_args(Kernel)
_LM_LOSSES: Final[tuple[LanguageModelLoss, ...]] = get_args(LanguageModelLoss)


def make_plan(
    config: DropoutConfig,
    transformer: Any,
    layers: Sequence[Part],
    kernel: str,
    lm_loss: str = "auto",
) -> SitePlan:
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
    dropping = [part for part in layers if config.layers is None or part.layer in config.layers]
    needs_map = fused_refusal(_attention_drops(config), config.keep_model_dropout)
    if kernel == "reference":
        needs_map = "kernel='reference' computes one"
    places: list[Place] = []
    gaps: list[Gap] = []
    for drop in config.drops:
        found = find_parts(drop.position, transformer, dropping, config)
        parts = [part for part in found if isinstance(part, Part)]
        gaps += [replace(g, position=drop.position) for g in found if isinstance(g, Gap)]
        places += [
            Place(drop, part, _site(drop, part, member, _path(needs_map is None, part)))
            for part, member in zip(parts, _members(parts), strict=True)
        ]
    if faults := _path_faults(kernel, places):
        raise ConfigError(faults)
    return SitePlan(tuple(places), tuple(gaps), needs_map)


def _members(parts: Sequence[Part]) -> list[str]:
    """Tell apart what is several times in one layer: by kind of attention, else by name."""
    counts = Counter(part.layer for part in parts)
    members = []
    for part in parts:
        own = [other for other in parts if other.layer == part.layer]
        if counts[part.layer] == 1:
            members.append("")
        elif isinstance(part, AttentionPart) and [_kind(o) for o in own].count(part.kind) == 1:
            members.append("" if part.kind == "self" else part.kind)
        else:
            members.append(_short(part.name, [other.name for other in own]))
    return members


def _kind(part: Part) -> str:
    return part.kind if isinstance(part, AttentionPart) else ""


def _short(name: str, names: Sequence[str]) -> str:
    """Return a name without what it has in common with its neighbours at both ends."""
    words = [other.split(".") for other in names]
    start = _common(words)
    end = _common([other[start:][::-1] for other in words])
    own = name.split(".")
    return ".".join(own[start : len(own) - end] or own[-1:])


def _common(lists: Sequence[Sequence[str]]) -> int:
    """Return how many words lists have in common at their beginning."""
    count = 0
    for words in zip(*lists, strict=False):
        if len(set(words)) > 1:
            break
        count += 1
    return count


def _misfits(config: DropoutConfig, transformer: Any, layers: int, kernel: str) -> list[str]:
    faults = []
    if kernel not in KERNELS:
        faults.append(not_one_of("kernel", kernel, KERNELS))
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
    return faults + _task_faults(config.consistency, transformer)


def _model_inside(module: nn.Module) -> Part | None:
    """Return the one model in a module of a script's own that has a task with such a loss."""
    if type(module).__module__.startswith("transformers."):
        return None  # a model of several, whose loss is not that of one of them
    parts = anatomy.walk(Part(None, "", module))
    found = [part for part in parts if anatomy.task_of(part.module) in TASKS]
    return found[0] if len(found) == 1 else None


def _task_faults(consistency: Consistency, transformer: Any) -> list[str]:
    """Return, one sentence each, why a model's task has no such consistency loss."""
    task, name = anatomy.task_of(transformer), type(transformer).__name__
    if task is None and (inside := _model_inside(transformer)) is not None:
        return [
            f"the consistency loss is added to the loss of a model whose task is known, got {name};"
            f" attach to its module {inside.name!r} ({type(inside.module).__name__}), and let a"
            " Trainer watch(trainer, attachment)"
        ]
    if task is None:
        return [
            f"the consistency loss works on {', '.join(TASKS)}, got {name}, whose task is not"
            " known; set consistency=None, as hiddenkey-minus does. For sentence embeddings pair"
            " each text with itself in the data: a contrastive loss then compares two passes with"
            " noise"
        ]
    if task not in TASKS:
        return [
            f"the consistency loss works on {', '.join(TASKS)}, got a model for {task}; set"
            " consistency=None"
        ]
    parameters = inspect.signature(transformer.forward).parameters
    if task == ANSWERS and "start_positions" not in parameters:
        return [
            "the consistency loss of ForQuestionAnswering compares where an answer starts and ends,"
            f" got {name}, which does not take start_positions; set consistency=None"
        ]
    if task == CHOICES and consistency.on == "representation":
        return [
            "consistency.on='representation' compares the tokens of one text, got a model for"
            f" {task}, whose sequences have several; use 'logits' or 'auto'"
        ]
    if anatomy.is_regression(transformer) and consistency.kind == SMOOTHING:
        return [
            "consistency.kind='label-smoothing' spreads a label over all classes, got a model for"
            " regression, which has none; use target='history'"
        ]
    if not consistency.runs_twice:
        return []
    if anatomy.is_regression(transformer) and consistency.on == "logits":
        return [
            "consistency.on='logits' means nothing for regression, whose single logit has a"
            " softmax of 1; use 'representation' or 'auto'"
        ]
    return []


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
    return [drop for drop in config.drops if POSITIONS[drop.position].attention]


def _path(fuses: bool, part: Part) -> str:
    """Return how a drop acts at a module."""
    if not isinstance(part, AttentionPart):
        return "hook"
    if not part.through_interface or dispatch.needs_interception(part.module):
        return "intercepted"
    return "fused" if fuses else "reference"


def _path_faults(kernel: str, places: Sequence[Place]) -> list[str]:
    if kernel != "fused":
        return []
    names = [place.part.name for place in places if place.site.kernel == "intercepted"]
    return [
        f"kernel='fused' cannot serve {name}, whose own code must compute its attention; use 'auto'"
        for name in names[:1]
    ]


def _site(drop: Drop, part: Part, member: str, path: str) -> Site:
    return Site(
        name=part.name,
        layer=part.layer,
        position=drop.position,
        pattern=drop.pattern,
        rate=drop.rate,
        rescale=drop.rescaling,
        kernel=path,
        member=member,
    )

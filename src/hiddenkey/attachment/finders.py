"""Finds the modules of each position in a transformer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from hiddenkey import anatomy, log
from hiddenkey.anatomy import AttentionPart, Gap, Part
from hiddenkey.anatomy.low_rank import is_adapted, is_merged, moved_start, update_refusal
from hiddenkey.anatomy.part import is_inside
from hiddenkey.anatomy.unsuited import own_keys, refusal
from hiddenkey.errors import AttachError
from hiddenkey.framework.positions import POSITIONS

if TYPE_CHECKING:
    from hiddenkey.framework.config import DropoutConfig
    from hiddenkey.framework.positions import Find

_ROUTING = re.compile(r"router|gate|expert|moe|mlp", re.IGNORECASE)


def find_parts(
    position: str, transformer: nn.Module, layers: list[Part], config: DropoutConfig
) -> Sequence[Part | Gap]:
    """Return the modules of a position, and the layers in which it does not exist.

    Args:
        position: key of ``POSITIONS``.
        transformer: the model.
        layers: the layers that drop.
        config: the configuration.

    Raises:
        AttachError: if the model does not have, or does not show, the position.
    """
    find = POSITIONS[position].find or _FINDERS[position]
    return find(transformer, layers, config)


def find_input(transformer: nn.Module, layers: list[Part], config: DropoutConfig) -> list[Part]:
    """Return the first layer (Cutoff, arXiv 2009.13818).

    What enters it holds token, position and segment embeddings.

    Raises:
        AttachError: if the model has no layers but those that the user named, or nothing tells them
            from what embeds.
    """
    if any(layer.is_named for layer in layers):
        raise AttachError(
            f"position 'input' is what enters the first layer of a transformer, and"
            f" {type(transformer).__name__} has no such layers; use the position 'hidden' and let"
            " hidden_modules match the module that embeds"
        )
    first = anatomy.find_layers(transformer)[0]
    if not first.name:
        raise AttachError(
            f"position 'input' is what enters the first layer of a transformer, and nothing tells"
            f" the layers of {type(transformer).__name__} from what embeds; keep them in a"
            " torch.nn.ModuleList, or leave the position out"
        )
    return [Part(None, first.name, first.module)]


def find_hidden(
    transformer: nn.Module, layers: list[Part], config: DropoutConfig
) -> Sequence[Part | Gap]:
    """Return the last linear layer of each feed-forward block (HiddenCut, arXiv 2106.00149).

    Raises:
        AttachError: if a layer leaves open which it is, none has one, or a layer runs in chunks.
    """
    _refuse_chunks(layers)
    return anatomy.find_feed_forward(transformer, layers, config.hidden_modules)


def find_output(transformer: nn.Module, layers: list[Part], config: DropoutConfig) -> list[Part]:
    """Return the classifier or language-model head; what enters it is dropped.

    Raises:
        AttachError: if the model has no head.
    """
    return [anatomy.find_head(transformer)]


def find_attention(
    transformer: nn.Module, layers: list[Part], config: DropoutConfig
) -> Sequence[Part | Gap]:
    """Return the attention modules of each layer, and the layers that have none.

    Raises:
        AttachError: if no layer has softmax attention of the wanted kinds, or none over keys that
            queries share.
    """
    found = anatomy.find_attention(layers, config.attention_modules, config.attention)
    if not found:
        kinds = " or ".join(config.attention)
        raise AttachError(
            f"{type(transformer).__name__} computes no softmax {kinds}-attention in its layers, so"
            " it has no keys to drop; use a method without attention drops, such as 'hiddencut'"
        )
    aside = {part.name: reason for part in found if (reason := own_keys(part.module))}
    _refuse_unsuited(found, aside, is_named=config.attention_modules is not None)
    reached = {part.layer for part in found}
    found = [part for part in found if part.name not in aside]
    missing = [_gap(layer, config.attention) for layer in layers if layer.layer not in reached]
    if config.attention_modules is not None:  # the user has said which
        return [*found, *missing]
    outside = _outside(transformer, anatomy.find_layers(transformer))
    names = {part.name for part in found}
    return [
        *found,
        *missing,
        *(Gap(None, name, "attention", f"it {reason}") for name, reason in aside.items()),
        *(gap for gap in outside if gap.name not in names),
    ]


def _refuse_unsuited(
    found: Sequence[AttentionPart], aside: Mapping[str, str], *, is_named: bool
) -> None:
    """Refuse attention whose keys cannot be dropped, where nothing else could be instead.

    Args:
        found: all attention of the layers.
        aside: by name, why its keys cannot be dropped, of attention beside which other may drop.
        is_named: whether the user named the modules.

    Raises:
        AttachError: naming the module.
    """
    if len(aside) < len(found) and not is_named:
        aside = {}
    for part in found:
        if reason := refusal(part.module) or aside.get(part.name):
            raise AttachError(
                f"{part.name} ({type(part.module).__name__}) {reason}, so its keys cannot be"
                " dropped; use a method without attention drops, such as 'hiddencut'"
            )


def _outside(transformer: nn.Module, layers: list[Part]) -> list[Gap]:
    """Return what else attends: towers beside the text's, a pooling head behind the layers."""
    towers = [stack.name for stack in anatomy.find_stacks(transformer, others=True)]
    inside = {name for layer in layers for name in (layer.name, *(n for n, _ in layer.beside))}
    found = anatomy.find_attention([Part(None, "", transformer)])
    alone = [part.name for part in found if not is_inside(part.name, (*inside, *towers))]
    return [
        *(Gap(None, name, "attention", "another tower than the text's") for name in towers),
        *(Gap(None, name, "attention", "attention outside the layers") for name in alone),
    ]


def _gap(layer: Part, kinds: Sequence[str]) -> Gap:
    if anatomy.find_attention([layer]):
        return Gap(layer.layer, layer.name, "attention", f"no {' or '.join(kinds)}-attention")
    unnamed = [
        f"{part.name} ({type(part.module).__name__})"
        for part in anatomy.walk(layer)
        if anatomy.calls_softmax(part.module) and not _ROUTING.search(part.name)
    ]
    if unnamed:
        reason = (
            f"a softmax in {', '.join(unnamed)}, of which neither name nor class says attention; if"
            " it is, name it with DropoutConfig(attention_modules=<regular expression>)"
        )
    else:
        children = (type(child).__name__ for child in layer.module.children())
        reason = f"no softmax attention, only {', '.join(dict.fromkeys(children))}"
    return Gap(layer.layer, layer.name, "attention", reason)


def find_update(
    transformer: nn.Module, layers: list[Part], config: DropoutConfig
) -> Sequence[Part | Gap]:
    """Return the modules of each layer that add an adapter's update B·A·x, as LoRA's and DoRA's do.

    Raises:
        AttachError: if no layer has one, an adapter is merged, or a layer runs in chunks.
    """
    _refuse_chunks(layers)
    if any(layer.is_named for layer in layers):
        raise AttachError(
            f"position 'update' is an adapter in the layers of a transformer, and"
            f" {type(transformer).__name__} has no such layers; use the position 'hidden'"
        )
    adapted = [part for layer in layers for part in _adapted(layer)]
    refusals = {part.name: update_refusal(part.module) for part in adapted}
    found: dict[nn.Module, Part] = {}
    for part in adapted:
        if refusals[part.name] is None:
            found.setdefault(part.module, part)  # what layers share belongs to the first of them
    if not found:
        raise AttachError(_no_update(transformer, refusals))
    if merged := [part.name for part in found.values() if is_merged(part.module)]:
        raise AttachError(
            f"the adapter of {merged[0]} is merged into its layer, so there is no update to drop;"
            " call unmerge_adapter() before attach"
        )
    _warn_of_moved_weights(transformer)
    reached = {part.layer for part in found.values()}
    return [
        *found.values(),
        *(
            Gap(layer.layer, layer.name, "update", "no adapter with an update")
            for layer in layers
            if layer.layer not in reached
        ),
        *(Gap(None, name, "update", f"it {why}") for name, why in refusals.items() if why),
        *_adapted_outside(transformer),
    ]


def _warn_of_moved_weights(transformer: nn.Module) -> None:
    """Say that the frozen path is noisy too, where an adapter began with a part of it."""
    start = moved_start(transformer)
    if start is not None and log.is_first_process():
        log.logger.warning(
            "init_lora_weights=%r moved the largest part of the frozen weights into the adapter, so"
            " that noise on its update drops pretrained weights, and not only what was learnt; use"
            " another initialisation with the position 'update', or a low rate",
            start,
        )


def _refuse_chunks(layers: list[Part]) -> None:
    """Refuse feed-forward blocks that see a few tokens at a time: a mask is of a whole sequence."""
    for part in (part for layer in layers for part in (layer, *anatomy.walk(layer))):
        if size := getattr(part.module, "chunk_size_feed_forward", 0):
            raise AttachError(
                f"{part.name} runs its feed-forward block on {size} tokens at a time, so that no"
                " mask could be drawn for a whole sequence; set chunk_size_feed_forward to 0 in the"
                " model's config before the model is made"
            )


def _adapted(part: Part) -> list[Part]:
    return [below for below in anatomy.walk(part) if is_adapted(below.module)]


def _adapted_outside(transformer: nn.Module) -> list[Gap]:
    layers = anatomy.find_layers(transformer)
    inside = tuple(name for layer in layers for name in (layer.name, *dict(layer.beside)))
    return [
        Gap(None, part.name, "update", "an adapter outside the layers")
        for part in _adapted(Part(None, "", transformer))
        if not is_inside(part.name, inside)
    ]


def _no_update(transformer: nn.Module, refusals: Mapping[str, str | None]) -> str:
    name, why = next(iter(refusals.items()), ("", None))
    return (
        f"{type(transformer).__name__} has no LoRA in its layers whose update could be dropped"
        + (f": {name} {why}" if why else "")
        + "; attach after get_peft_model(model, LoraConfig(...)) with linear layers as its targets,"
        " or use a method that drops in the model itself, such as 'hiddenkey-minus'"
    )


_FINDERS: Mapping[str, Find] = {
    "input": find_input,
    "attention_logits": find_attention,
    "attention_weights": find_attention,
    "hidden": find_hidden,
    "output": find_output,
    "update": find_update,
}

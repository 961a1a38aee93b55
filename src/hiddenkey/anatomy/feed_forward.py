"""Finds where the output of each feed-forward block is, before it is added to the residual.

That is the paper's position. It is the output of the last linear layer of a block, found by its
shape: it maps another width to the width of the layer. In a mixture of experts the block's own
output is, as every token has its own experts.
"""

from __future__ import annotations

import re

from torch import nn

from hiddenkey.anatomy.attention import attention_in
from hiddenkey.anatomy.model import text_config
from hiddenkey.anatomy.part import (
    Gap,
    Part,
    innermost,
    is_inside,
    linear_shape,
    matches,
    plain_name,
    walk,
)
from hiddenkey.errors import AttachError

_NAMED = re.compile(r"mlp|^ffn?|feed_?forward|moe|expert|dense_?relu|^fc\d?$|output$", re.I)
_BLOCK = re.compile(r"mlp|ffn?|feed_?forward", re.IGNORECASE)
_SIDE = re.compile(r"norm|adapter|router|^gate$", re.IGNORECASE)
_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim")


def find_feed_forward(
    transformer: nn.Module, layers: list[Part], pattern: str | None
) -> list[Part | Gap]:
    """Find the module whose output is that of each layer's feed-forward block.

    Args:
        transformer: the model.
        layers: its layers.
        pattern: regular expression that fully matches the names of the wanted linear layers. What
            it named as a layer, in a model without attention, is the module itself.

    Returns:
        For each layer its modules, or why it has none.

    Raises:
        AttachError: if a layer leaves it open, or no layer has any; what was found is listed.
    """
    found: list[Part | Gap] = []
    for layer in layers:
        if pattern is None:
            found += _by_shape(transformer, layer)
        else:
            found += _by_name(layer, pattern)
    gaps = [gap for gap in found if isinstance(gap, Gap)]
    if len(gaps) == len(found):
        raise AttachError(
            f"no layer of {type(transformer).__name__} has a feed-forward block with linear layers"
            f" ({gaps[0].name} has {gaps[0].reason}); leave the position 'hidden' out"
        )
    return list({part.module if isinstance(part, Part) else part: part for part in found}.values())


def _by_name(layer: Part, pattern: str) -> list[Part]:
    if layer.is_named:
        return [layer]
    linears = [part for part in walk(layer) if linear_shape(part.module)]
    hits = [part for part in linears if matches(pattern, part.name)]
    if len(hits) != 1:
        raise AttachError(_ambiguous(layer, f"match hidden_modules={pattern!r}", len(hits)))
    return hits


def _by_shape(transformer: nn.Module, layer: Part) -> list[Part | Gap]:
    attention = tuple(part.name for part in attention_in(layer))
    mixers = tuple(part.name for part in walk(layer) if _is_mixer(part.module))
    outside = [part for part in walk(layer) if not is_inside(part.name, attention + mixers)]
    linears = [part for part in outside if linear_shape(part.module)]
    blocks = _expert_blocks(layer, outside)
    inside_blocks = tuple(block.name for block in blocks)
    linears = [part for part in linears if not is_inside(part.name, inside_blocks)]
    all_widths = _widths(transformer, layer, attention, linears)
    for widths in all_widths[:2] if blocks else all_widths:  # without a guess
        hits = [_most_likely(layer, linears, width) for width in widths]
        if chosen := {part.name: part for found in hits for part in found}:
            return [*blocks, *chosen.values()]
    if blocks:
        return [*blocks]
    if not linears and not _has_convolutions(outside):
        return [Gap(layer.layer, layer.name, "hidden", _what_else(layer, attention, mixers))]
    if last := _last_of_named_block(layer, linears):
        return [last]
    raise AttachError(_ambiguous(layer, "end its feed-forward block", 0))


def _expert_blocks(layer: Part, parts: list[Part]) -> list[Part]:
    """Return the outermost modules around experts, whose output is that of all experts together."""
    experts = [part for part in parts if _are_experts(part)]
    by_name = {plain_name(part.name): part for part in parts}
    blocks = {}
    for part in experts:
        above = by_name.get(plain_name(part.name).rpartition(".")[0], part)
        blocks[above.name] = above
    names = tuple(blocks)
    return [b for n, b in blocks.items() if not is_inside(n, tuple(m for m in names if m != n))]


def _are_experts(part: Part) -> bool:
    module = innermost(part).module
    own = plain_name(part.name).rpartition(".")[2]
    if own == "experts" or type(module).__name__.endswith("Experts"):
        return True
    if "expert" not in own:
        return False
    return any(parameter.dim() == 3 for parameter in module.parameters(recurse=False))


def _most_likely(layer: Part, linears: list[Part], width: int) -> list[Part]:
    """Choose among the linear layers that end in a width, by what the names around them say."""
    hits = [part for part in linears if _ends_in(part.module, width)]
    main = [part for part in hits if not _is_side_path(layer, part)]
    named = [part for part in main if any(map(_NAMED.search, _path(layer, part)))]
    return named if len(main) > 1 and named else main


def _last_of_named_block(layer: Part, linears: list[Part]) -> Part | None:
    """Return the last linear layer of the one block that is named feed-forward, if there is one."""
    main = [part for part in linears if not _is_side_path(layer, part)]
    inside = [part for part in main if _BLOCK.fullmatch(_path(layer, part)[0])]
    return inside[-1] if len({_path(layer, part)[0] for part in inside}) == 1 else None


def _widths(
    transformer: nn.Module, layer: Part, attention: tuple[str, ...], linears: list[Part]
) -> list[set[int]]:
    """Return the widths that a layer may have, the surest first.

    What enters attention has the width of what leaves it, and of the layer's norms; of two streams
    each has its own.
    """
    inside = [p for p in walk(layer) if is_inside(p.name, attention) and linear_shape(p.module)]
    shapes = [shape for part in inside if (shape := linear_shape(part.module))]
    entering, leaving = {shape[0] for shape in shapes}, {shape[1] for shape in shapes}
    configured = [getattr(text_config(transformer), name, None) for name in _WIDTHS]
    first = {shape[0] for part in linears[:1] if (shape := linear_shape(part.module))}
    norms = {
        parameter.shape[0]
        for part in walk(layer)
        if "norm" in type(part.module).__name__.lower() and not is_inside(part.name, attention)
        for parameter in part.module.parameters(recurse=False)
        if parameter.dim() == 1
    }
    ends = entering & leaving  # q and k may end where the output projection starts
    return [ends & norms or ends, {width for width in configured if isinstance(width, int)}, first]


def _ends_in(module: nn.Module, width: int) -> bool:
    shape = linear_shape(module)
    return shape is not None and shape[1] == width != shape[0]


def _is_mixer(module: nn.Module) -> bool:
    """Whether a module mixes tokens without attention: Mamba and its kind have a convolution."""
    return any(
        isinstance(child, nn.Conv1d) and child.groups > 1 and child.kernel_size != (1,)
        for child in module.children()
    )


def _has_convolutions(parts: list[Part]) -> bool:
    return any(isinstance(part.module, nn.Conv1d | nn.Conv2d) for part in parts)


def _is_side_path(layer: Part, part: Part) -> bool:
    return any(map(_SIDE.search, _path(layer, part)))


def _path(layer: Part, part: Part) -> list[str]:
    own, around = plain_name(part.name), plain_name(layer.name)
    return own.removeprefix(f"{around}.").split(".")  # or of a list beside that of the layers


def _what_else(layer: Part, attention: tuple[str, ...], mixers: tuple[str, ...]) -> str:
    inside = [p for p in walk(layer) if p.name in attention + mixers]
    kinds = ", ".join(dict.fromkeys(type(part.module).__name__ for part in inside))
    return f"no feed-forward block, {f'only {kinds}' if kinds else 'and no linear layer'}"


def _ambiguous(layer: Part, asked: str, count: int) -> str:
    linears = [(part, shape) for part in walk(layer) if (shape := linear_shape(part.module))]
    listed = ", ".join(f"{part.name} {i}→{o}" for part, (i, o) in linears) or "none"
    return (
        f"layer {layer.layer} must have exactly one linear layer to {asked}, found {count} among:"
        f" {listed}; name it with DropoutConfig(hidden_modules=<regular expression>)"
    )

"""Puts the drops outside attention on their modules."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from torch import nn

from hiddenkey import anatomy
from hiddenkey.anatomy import Part
from hiddenkey.anatomy.part import all_copies, is_inside
from hiddenkey.attachment.layer_masks import LayerMasks
from hiddenkey.framework.patterns import ALIKE_IN_PACKED_ROWS
from hiddenkey.measure import ShareCounter
from hiddenkey.sequence.site import Removable, SequenceSite
from hiddenkey.sequence.update import LayerDraw
from hiddenkey.step.hooks import StepHooks
from hiddenkey.step.places import SitePlan
from hiddenkey.step.rates import Rates


def install_sequence_sites(
    transformer: nn.Module,
    layers: Sequence[Part],
    plan: SitePlan,
    counters: Mapping[str, ShareCounter],
    rates: Rates,
    step: StepHooks,
) -> list[Removable]:
    """Install the sites of a plan that are outside attention.

    Args:
        transformer: the model.
        layers: its layers.
        plan: where the configuration acts.
        counters: of the sites, by :attr:`Site.key`.
        rates: the rates in force, which the sites follow.
        step: knows which tokens are padding, and whether a draw counts.

    Returns:
        What takes the hooks off.
    """
    shared = {
        layer: LayerDraw(next(part.module for part in layers if part.layer == layer))
        for layer in {p.part.layer for p in plan.around if p.drop.pattern == "adapter"}
    }
    packed = any(place.drop.pattern not in ALIKE_IN_PACKED_ROWS for place in plan.around)
    masks = LayerMasks((part.module for part in layers if plan.around), packed=packed)
    handles: list[Removable] = [*shared.values(), masks]
    for place in plan.around:
        key, name = place.site.key, place.part.name
        reads_encoder = anatomy.reads_encoder(name)
        decoder = anatomy.in_decoder(transformer, name) and not reads_encoder
        visible = functools.partial(step.visible.of, decoder)
        draw = shared.get(place.part.layer) if place.drop.pattern == "adapter" else None
        grid = functools.partial(step.visible.shape, decoder)
        around = (layer.module for layer in layers if is_inside(name, (layer.name,)))
        order = any(map(_puts_tokens_first, around))
        site = SequenceSite(
            place.drop,
            visible,
            step.counts,
            counters[key],
            draw,
            grid,
            order,
            layer_mask=None if reads_encoder else masks.tokens,
        )
        rates.connect(key, site.set_rate)
        handles += [site.install(module) for module in all_copies(transformer, name)]
    return handles


def _puts_tokens_first(layer: nn.Module) -> bool:
    """Whether a layer has PyTorch's attention in its default order, tokens before sequences."""
    own = (module for module in layer.modules() if isinstance(module, nn.MultiheadAttention))
    return any(not module.batch_first for module in own)

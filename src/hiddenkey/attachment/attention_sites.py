"""Puts the attention drops of a configuration on a model, and takes them off."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from hiddenkey.anatomy import AttentionPart
from hiddenkey.anatomy.model import in_decoder
from hiddenkey.anatomy.part import all_copies
from hiddenkey.attention import dispatch
from hiddenkey.attention.intercept import intercept, remove_interrupted
from hiddenkey.attention.site import AttentionSite
from hiddenkey.framework.config import DropoutConfig
from hiddenkey.framework.positions import POSITIONS
from hiddenkey.measure import ShareCounter
from hiddenkey.step.hooks import StepHooks
from hiddenkey.step.places import Place, SitePlan
from hiddenkey.step.rates import Rates


class AttentionInstallation:
    """The attention drops at work on one model.

    Args:
        transformer: the model.
        plan: where they act.
        config: the configuration.
        counters: by :attr:`Site.key`.
        rates: the rates in force.
        step: knows whether draws count, and what of a decoder only its labels show to be padding.

    Raises:
        AttachError: if the model uses an attention implementation that cannot drop.
    """

    def __init__(
        self,
        transformer: nn.Module,
        plan: SitePlan,
        config: DropoutConfig,
        counters: Mapping[str, ShareCounter],
        rates: Rates,
        step: StepHooks,
    ) -> None:
        self._config, self._plan = config, plan
        self._counters, self._rates, self._step = counters, rates, step
        self._handles: list[RemovableHandle] = []
        self._sites: dict[nn.Module, AttentionSite] = {}
        found: dict[nn.Module, list[Place]] = {}
        for place in plan.attention:
            found.setdefault(place.part.module, []).append(place)
        # copies of one module have one site
        copies = [(all_copies(transformer, _part(own).name), own) for own in found.values()]
        self._transformer = transformer
        routed = [module for modules, own in copies if _interface(own) for module in modules]
        for module in routed:
            dispatch.refuse_unsupported(transformer, module, plan.needs_map)
        self._configs: list[Any] = list({id(m.config): m.config for m in routed}.values())
        self._names = [config._attn_implementation for config in self._configs]
        self._sdpa_is_replaced = bool(routed) and dispatch.sdpa_is_replaced()
        if routed:
            dispatch.register(self, self._names)
        for modules, places in copies:
            site = self._site(places)
            for module in modules:
                if _interface(places):
                    self._handles += dispatch.route(module, site)
                    self._sites[module] = site
                else:
                    self._handles += intercept(module, site)

    def begin(self, arguments: Mapping[str, Any]) -> None:
        """Prepare for a training pass; the model's attention implementation may have changed.

        Args:
            arguments: of the model's call, by name.

        Raises:
            AttachError: if attention cannot drop with the one that was chosen.
        """
        if not self._sites:
            return
        wanted = arguments.get("output_attentions")
        if wanted is None:
            configs = (*self._configs, getattr(self._transformer, "config", None))
            wanted = any(getattr(config, "output_attentions", False) for config in configs)
        for site in self._sites.values():
            site.gives_map = bool(wanted)
        if not torch.compiler.is_compiling():
            self._renew()

    def _renew(self) -> None:
        names = [config._attn_implementation for config in self._configs]
        dispatch.register(self, names)  # a copy of a model has not done so yet
        is_replaced = dispatch.sdpa_is_replaced()
        if names == self._names and is_replaced == self._sdpa_is_replaced:
            return
        for module, site in self._sites.items():
            dispatch.refuse_unsupported(self._transformer, module, self._plan.needs_map)
            site.is_intercepted = dispatch.needs_interception(module)
        self._names, self._sdpa_is_replaced = names, is_replaced

    def remove(self) -> None:
        """Give the model back as it was."""
        for handle in self._handles:
            handle.remove()
        for module in self._sites:
            dispatch.restore(module)
        remove_interrupted()
        dispatch.unregister(self)

    def _site(self, places: Sequence[Place]) -> AttentionSite:
        drops = {POSITIONS[place.drop.position].attention: place.drop for place in places}
        keys = {place.drop.position: place.site.key for place in places}
        site = AttentionSite(
            logits=drops.get("logits"),
            weights=drops.get("weights"),
            config=self._config,
            kind=_part(places).kind,
            is_fused=self._plan.fuses,
            is_intercepted=places[0].site.kernel == "intercepted",
            counting=self._step.counts,
            counters={position: self._counters[key] for position, key in keys.items()},
            labelled=self._step.visible.labelled if self._is_decoders_own(places) else None,
        )
        for position, key in keys.items():
            self._rates.connect(key, functools.partial(site.set_rate, position))
        return site

    def _is_decoders_own(self, places: Sequence[Place]) -> bool:
        part = _part(places)
        return part.kind == "self" and in_decoder(self._transformer, part.name)


def _interface(places: Sequence[Place]) -> bool:
    return _part(places).through_interface


def _part(places: Sequence[Place]) -> AttentionPart:
    part = places[0].part
    assert isinstance(part, AttentionPart)
    return part

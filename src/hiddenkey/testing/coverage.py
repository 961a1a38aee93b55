"""Whether a configuration acts everywhere it should: what a spy saw, held against the sites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from hiddenkey.framework.positions import POSITIONS
from hiddenkey.framework.site import Site
from hiddenkey.testing.findings import fail_if
from hiddenkey.testing.spy import Operation, Spy

Layer = tuple[str, ...]
"""Names of the modules that make up one layer."""


@dataclass(frozen=True)
class Coverage:
    """Where a model computes, and where an attachment acts.

    A layer is a member of an outermost module list that holds a site or attention, and has linear
    layers; where lists of the same length stand side by side, such as one of attention modules and
    one of feed-forward blocks, their members with the same number are one layer.

    Attributes:
        transformer: the model, whose names the sites use.
        sites: the attachment's sites.
        gaps: the attachment's gaps.
        seen: a spy that watched a pass of the model without the attachment.
    """

    transformer: nn.Module
    sites: Sequence[Site]
    gaps: Sequence[Any]
    seen: Spy

    def check(self) -> str:
        """Return the reach of each position, such as ``hidden 4 of 4 layers``.

        Raises:
            CheckError: if attention or a layer is neither served nor named as a gap.
        """
        positions = list(dict.fromkeys(s.position for s in self.sites if s.layer is not None))
        inside = [position for position in positions if POSITIONS[position].attention]
        faults = []
        for position in inside:
            faults += self._attention_faults(position)
        layers = self._layers()
        for position in positions:
            faults += self._layer_faults(position, layers)
            faults += self._sibling_faults(position)
        fail_if(faults)
        return "; ".join([*(self._reach(p, layers) for p in positions), *self._outside()])

    def _attention_faults(self, position: str) -> list[str]:
        """Find attention that the position neither serves nor names."""
        served = {site.name for site in self.sites if site.position == position}
        gaps = [gap for gap in self.gaps if gap.position == position]
        faults = [
            f"{gap.name} is a site and a gap of {position}" for gap in gaps if gap.name in served
        ]
        for operation in self.seen.attention:
            if served.intersection(operation.modules):
                continue
            around = (g for g in gaps if any(_is_below(m, g.name) for m in operation.modules))
            gap = next(around, None)
            if gap is None:
                faults.append(f"{_describe(operation)} outside every site of {position}")
            elif gap.layer is not None:  # elsewhere, a gap says that there is attention unserved
                faults.append(f"{_describe(operation)}, which the gap denies: {gap.reason}")
        return list(dict.fromkeys(faults))

    def _layer_faults(self, position: str, layers: Sequence[Layer]) -> list[str]:
        named = [place.name for place in (*self.sites, *self.gaps) if place.position == position]
        named += [gap.name for gap in self.gaps if gap.layer is None]  # other towers, for all
        return [
            f"{layer[0]} has neither a site nor a gap of {position}"
            for layer in layers
            if not any(_touches(name, layer) for name in named)
        ]

    def _sibling_faults(self, position: str) -> list[str]:
        """Find modules that are to their layer what a site is to its own, and are no site."""
        modules = dict(self.transformer.named_modules())
        own = {site.name for site in self.sites if site.position == position}
        gaps = [gap.name for gap in self.gaps if gap.position == position]
        roles = {(self._role(name), type(modules[name])) for name in own if name in modules}
        return [
            f"{name} is no site of {position}, though other modules of its role are"
            for name in sorted(self.seen.called - own)
            if (self._role(name), type(modules[name])) in roles
            and not any(_is_below(name, gap) for gap in gaps)
        ]

    def _layers(self) -> list[Layer]:
        """Return the layers that were called and have linear layers."""
        within = [site.name for site in self.sites if site.layer is not None]
        within += [operation.module for operation in self.seen.attention]
        lists = dict.fromkeys(found for name in within if (found := self._list_around(name)))
        layers: dict[tuple[str, int, str], list[str]] = {}
        for name in lists:
            members = dict(self.transformer.get_submodule(name).named_children())
            for index, member in members.items():
                own = f"{name}.{index}"
                if _holds_linears(member) and any(_is_below(c, own) for c in self.seen.called):
                    beside = (name.rpartition(".")[0], len(members), index)
                    layers.setdefault(beside, []).append(own)
        return [tuple(names) for names in layers.values()]

    def _list_around(self, name: str) -> str | None:
        """Return the outermost module list in a module's path."""
        parts = name.split(".")
        for length in range(1, len(parts)):
            around = ".".join(parts[:length])
            if isinstance(self.transformer.get_submodule(around), nn.ModuleList | nn.Sequential):
                return around
        return None

    def _role(self, name: str) -> str:
        """Return a module's name without the numbers that tell layers, or experts, apart."""
        words, outermost = name.split("."), self._list_around(name)
        role = words[:1]
        for length in range(1, len(words)):
            around = ".".join(words[:length])
            is_list = isinstance(self.transformer.get_submodule(around), nn.ModuleList)
            role.append("*" if is_list or around == outermost else words[length])
        return ".".join(role)

    def _reach(self, position: str, layers: Sequence[Layer]) -> str:
        own = [site.name for site in self.sites if site.position == position]
        served = [layer for layer in layers if any(_touches(name, layer) for name in own)]
        gaps = sum(gap.position == position for gap in self.gaps)
        reach = f"{position} {len(served)} of {len(layers)} layers"
        return f"{reach} ({gaps} gaps)" if gaps else reach

    def _outside(self) -> Iterable[str]:
        return (f"{site.position} at {site.name}" for site in self.sites if site.layer is None)


def _describe(operation: Operation) -> str:
    shape = f" {list(operation.shape)}" if operation.shape else ""
    return f"{operation.module or 'the model'} computes {operation.name}{shape}"


def _is_below(name: str, container: str) -> bool:
    return name == container or name.startswith(f"{container}.")


def _touches(name: str, layer: Layer) -> bool:
    """Whether a module lies in a layer, or around it."""
    return any(_is_below(name, part) or _is_below(part, name) for part in layer)


def _holds_linears(module: nn.Module) -> bool:
    return any(hasattr(m, "in_features") or hasattr(m, "nf") for m in module.modules())

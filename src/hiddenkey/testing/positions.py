"""The checks of a position: where noise enters, and what it does to the units there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

import hiddenkey
from hiddenkey.framework.compensation import rescale
from hiddenkey.framework.config import Drop, DropoutConfig
from hiddenkey.framework.positions import POSITIONS
from hiddenkey.testing.examination import Attach, Examination, examine
from hiddenkey.testing.findings import CheckError, Checks, Finding, Report, fail_if, run_checks
from hiddenkey.testing.models import CHECKS_OF_NOISE
from hiddenkey.testing.passes import Batch, distance, without_dropout_modules


@dataclass(frozen=True)
class _Probe:
    """What one call of a site's module showed."""

    before: Tensor  # the units as they would be without noise, [batch, tokens, features]
    after: Tensor  # the units with noise; a function of before in the autograd graph
    visible: Tensor  # tokens that are not known to be padding, the first dimensions of before
    reported: float  # share of dropped units, as the attachment says

    @property
    def dropped(self) -> Tensor:
        """Units that are zero and would not be."""
        return self.after.eq(0) & self.before.ne(0)

    @property
    def share(self) -> float:
        """Share of the visible units that are dropped."""
        return float(self.dropped[self.visible].double().mean())


@dataclass(frozen=True)
class _Units:
    """The units of a position on one model."""

    examination: Examination
    drop: Drop

    @property
    def factor(self) -> float:
        return rescale.inverse(self.drop.rate) if self.drop.rescaling == "inverse" else 1.0

    def probes(self) -> Iterator[tuple[str, _Probe]]:
        """Yield what one training pass of each batch showed, with the place in words."""
        examination, modules = self.examination, self._modules()
        for name, batch in examination.batches.items():
            with (
                without_dropout_modules(examination.model),
                _tapped(modules, self._is_before, cut=True) as raw,
                examination.attached() as attachment,
                _tapped(modules, self._is_before) as noisy,  # later than the attachment's own hooks
            ):
                examination.runner.forward(batch, seed=0)
                shares, sites = attachment.shares(), attachment.sites
            reported = {site.name: shares[site.key] for site in sites}
            mask = batch.get("attention_mask")
            for (module, before), (_, after) in zip(raw, noisy, strict=True):
                visible = _visible(before, mask)
                yield f"{module}, {name}", _Probe(before, after, visible, reported[module])

    @property
    def _is_before(self) -> bool:
        return POSITIONS[self.drop.position].acts == "before"

    def _modules(self) -> dict[str, nn.Module]:
        with self.examination.attached() as attachment:
            names = [site.name for site in attachment.sites]
        return {name: self.examination.transformer.get_submodule(name) for name in names}


def _visible(before: Tensor, mask: Any) -> Tensor:
    """Return the tokens that are no padding; a layer may flatten the batch, or put tokens first."""
    if isinstance(mask, Tensor) and mask.dim() == 2:
        for seen in (mask, mask.flatten(), mask.t()):
            if before.dim() == seen.dim() + 1 and before.shape[:-1] == seen.shape:
                return seen.bool()
    return before.new_ones(before.shape[:2], dtype=torch.bool)


def examine_position(
    position: str,
    model: nn.Module,
    batches: Mapping[str, Batch] | Batch,
    *,
    pattern: str = "element",
    rate: float = 0.3,
    attach: Attach = hiddenkey.attach,
) -> Report:
    """Check that a position, a key of ``hiddenkey.framework.positions.POSITIONS``, acts.

    A position of one's own is put into that table first. On the model, it goes through the checks
    of :func:`examine_model` that concern noise; where it acts on what enters or leaves a module,
    the units at that module are looked at as well.

    Args:
        position: its name.
        model: a model that has it, without an attachment.
        batches: as for :func:`examine_model`.
        pattern: which units are dropped together there.
        rate: dropout rate.
        attach: what puts a configuration on the model.
    """
    drop = Drop(position, pattern, rate)

    def checks(examination: Examination) -> tuple[Finding, ...]:
        found = run_checks({"sites": _check_sites, **CHECKS_OF_NOISE}, examination)
        if POSITIONS[position].acts == "inside":
            return found
        return found + run_checks(_CHECKS_OF_UNITS, _Units(examination, drop))

    return examine(model, batches, DropoutConfig(drops=(drop,)), attach, position, checks)


def _check_sites(examination: Examination) -> str:
    """Every site is a module of the model that is called in a training pass."""
    with examination.attached() as attachment:
        sites = attachment.sites
    called = examination.spy().called
    modules = dict(examination.transformer.named_modules())
    fail_if([f"there is no module {site.name}" for site in sites if site.name not in modules])
    fail_if([f"{site.name} is not called" for site in sites if site.name not in called])
    if not sites:
        raise CheckError("find returned no module")
    return f"{len(sites)} modules"


def _check_units(units: _Units) -> str:
    """A unit is dropped to zero, or kept and multiplied by the factor of the rescaling."""
    faults = []
    for place, probe in units.probes():
        expected = probe.before * units.factor * ~probe.dropped
        apart = distance(probe.after.detach(), expected.detach())
        if apart > units.examination.tolerance:
            faults.append(
                f"{place}: units are neither dropped nor kept times {units.factor:.4g} (off by"
                f" {apart:.1e}, relative)"
            )
    fail_if(faults)
    return f"zero, or times {units.factor:.4g}"


def _check_unit_gradients(units: _Units) -> str:
    """A dropped unit gets no gradient, a kept one the factor of the rescaling."""
    faults = []
    for place, probe in units.probes():
        found: Any
        (found,) = torch.autograd.grad(probe.after.sum(), probe.before, allow_unused=True)
        # a unit that is zero by itself does not show whether it was dropped
        known = probe.before.ne(0)
        expected = units.factor * (known & ~probe.dropped)
        if found is None:
            faults.append(f"{place}: no gradient goes through")
        elif distance(found * known, expected) > units.examination.tolerance:
            faults.append(
                f"{place}: the gradient is not {units.factor:.4g} where a unit is kept and 0"
                " where it is dropped"
            )
    fail_if(faults)
    return f"0 where a unit is dropped, {units.factor:.4g} where it is kept"


def _check_padding_units(units: _Units) -> str:
    """Padding tokens are kept."""
    if units.drop.pattern == "feature":
        return "a feature is dropped for all tokens of a sequence, padding included"
    hit = [place for place, probe in units.probes() if probe.dropped[~probe.visible].any()]
    fail_if([f"{place}: units of padding tokens are dropped" for place in hit])
    return "padding stays"


def _check_counting(units: _Units) -> str:
    """``Attachment.shares``, which "shares" holds against the rate, reports what was dropped."""
    faults = []
    for place, probe in units.probes():
        unknown = float(probe.before.eq(0).double().mean())
        if not abs(probe.reported - probe.share) <= unknown + 1e-4:
            faults.append(
                f"{place}: {probe.reported:.4f} is reported, {probe.share:.4f} was dropped"
            )
    fail_if(faults)
    return "what is reported was dropped"


_CHECKS_OF_UNITS: Final[Checks[_Units]] = {
    "units": _check_units,
    "unit gradients": _check_unit_gradients,
    "padding units": _check_padding_units,
    "counting": _check_counting,
}


@contextmanager
def _tapped(
    modules: dict[str, nn.Module], before: bool, *, cut: bool = False
) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect what enters (``before``) or leaves modules, as a hook sees it that is registered now.

    Args:
        modules: by name.
        before: what enters, not what leaves.
        cut: hand a leaf of the graph on, so that what later hooks make of it is a function of it.
    """
    found: list[tuple[str, Tensor]] = []

    def tap(name: str, states: Tensor) -> Tensor:
        states = states.detach().requires_grad_() if cut else states
        found.append((name, states))
        return states

    def tap_input(name: str, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if args:
            return (tap(name, args[0]), *args[1:]), kwargs
        key = "hidden_states" if "hidden_states" in kwargs else "inputs_embeds"
        return args, {**kwargs, key: tap(name, kwargs[key])}

    def tap_output(name: str, module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (tap(name, output[0]), *output[1:])
        return tap(name, output)

    handles: list[Any] = []
    for name, module in modules.items():
        if before:
            hook = partial(tap_input, name)
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(partial(tap_output, name)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()

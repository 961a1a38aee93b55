"""The checks of a pattern: a function ``keep_mask(shape, rate, visible)``.

:mod:`hiddenkey.framework.patterns` says what such a function promises; each check is one of its
promises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hiddenkey.framework.patterns import KeepMask
from hiddenkey.testing.findings import CheckError, Checks, Report, fail_if, run_checks, spread

_GROUPS, _HEADS, _TOKENS, _ENTRIES = 256, 2, 40, 8
# operators whose result's size or value the program must wait for
_WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim")


@dataclass(frozen=True)
class _Pattern:
    """A pattern, and what was said about it."""

    keep_mask: KeepMask
    rates: Sequence[float]
    tolerance: float
    together: str | None

    def draw(self, shape: tuple[int, ...], rate: float, visible: Tensor, seed: int = 0) -> Tensor:
        """Return a mask of the full shape."""
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return self.mask(shape, rate, visible).bool().expand(shape)

    def mask(self, shape: tuple[int, ...], rate: float, visible: Tensor) -> Tensor:
        """Return a mask; of a pattern with one draw in each call, one call for each sequence."""
        if self.together != "all":
            return self.keep_mask(shape, rate, visible)
        alone = (1, *shape[1:])
        rows = visible.expand(shape[0], *visible.shape[1:])
        calls = (self.keep_mask(alone, rate, row[None]) for row in rows)
        return torch.cat([mask.expand(alone) for mask in calls])


def examine_pattern(
    keep_mask: KeepMask,
    *,
    rates: Sequence[float] = (0.1, 0.5),
    tolerance: float = 0.0,
    together: Literal["entries", "tokens", "all"] | None = None,
) -> Report:
    """Check that a pattern does what the library expects of one.

    Args:
        keep_mask: the pattern, ``(shape, rate, visible)`` to a boolean keep mask.
        rates: dropout rates to draw at.
        tolerance: how far the observed drop rate may be from the rate by design, in units of the
            rate; a run of whole tokens among ``n`` misses it by up to ``0.5 / n``. Sequences have
            40 tokens, of which 20 or more are visible.
        together: units that must share one draw: the ``entries`` of a token, the ``tokens`` of a
            sequence, or ``all`` units of a call, whatever their group; ``None`` checks none.
    """
    pattern = _Pattern(keep_mask, rates, tolerance, together)
    checks: Checks[_Pattern] = {
        "mask": _check_mask,
        "device": _check_device,
        "rate": _check_rate,
        "rate zero": _check_rate_zero,
        "padding": _check_padding,
        "generator": _check_generator,
        "groups": _check_groups,
        "together": _check_together,
    }
    name = getattr(keep_mask, "__qualname__", type(keep_mask).__name__)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return Report(name, run_checks(checks, pattern))


def _check_mask(pattern: _Pattern) -> str:
    """The mask is boolean and broadcasts to the shape, whatever form ``visible`` has."""
    cases = [
        ((4, 6, 5), (4, 6, 1)),  # a hidden sequence
        ((4, 6, 5), (1, 1, 1)),
        ((4, 1, 5), (1, 1, 1)),  # a classifier's vector
        ((2, 3, 6, 5), (2, 1, 6, 5)),  # attention, [batch, heads, keys, queries]
        ((2, 3, 6, 1), (2, 1, 6, 1)),
    ]
    faults = []
    for shape, visible in cases:
        mask = pattern.keep_mask(shape, 0.5, torch.ones(visible, dtype=torch.bool))
        if mask.dtype != torch.bool:
            faults.append(f"the mask is {mask.dtype}, not torch.bool")
        elif mask.dim() != len(shape) or not _broadcasts(mask, shape):
            faults.append(
                f"for shape {list(shape)} the mask has shape {list(mask.shape)}, which does not"
                " broadcast to it with as many axes"
            )
    fail_if(list(dict.fromkeys(faults)))
    return f"boolean, and broadcasts to {len(cases)} shapes"


def _check_device(pattern: _Pattern) -> str:
    """The mask is where ``visible`` is, and drawing it never waits for the device."""
    with _WaitSpy() as spy:
        pattern.draw((64, 6, 5), 0.5, _padding(6).unsqueeze(-1))
    if spy.waited:
        raise CheckError(
            f"drawing needs the values of its tensors ({', '.join(sorted(spy.waited))}), for which"
            " a GPU stops in each layer; compute with the tensors instead"
        )
    visible = torch.ones(4, 6, 1, dtype=torch.bool, device="meta")
    try:
        mask = pattern.keep_mask((4, 6, 5), 0.5, visible)
    except NotImplementedError as error:  # as a choice by a boolean mask, whose size is a value
        raise CheckError(
            f"drawing needs the values of its tensors ({error}), for which a GPU stops in each"
            " layer; compute with the tensors instead"
        ) from error
    except Exception as error:
        raise CheckError(
            f"drawing fails where visible is not on the CPU ({type(error).__name__}: {error});"
            " create tensors with device=visible.device"
        ) from error
    if mask.device != visible.device:
        raise CheckError(
            f"the mask is on {mask.device} where visible is on another device; create it with"
            " device=visible.device"
        )
    return "follows visible, and never waits"


def _check_rate(pattern: _Pattern) -> str:
    """The observed drop rate of visible units is the rate, with padding and without."""
    faults, found = [], []
    for padding, visible in (("", _all(_GROUPS)), (" with padding", _half(_GROUPS))):
        for rate in pattern.rates:
            dropped = ~pattern.draw(_shape(_GROUPS), rate, visible) & visible
            seen = visible.expand(_shape(_GROUPS)).sum((-1, -2))
            shares = (dropped.sum((-1, -2)) / seen).flatten().double()
            mean, chance = shares.mean().item(), spread(shares.tolist()) + 1e-6
            found.append(f"{mean:.3f} at {rate:g}{padding}")
            if abs(mean - rate) > chance + pattern.tolerance:
                faults.append(
                    f"at rate {rate:g}{padding} a drop rate of {mean:.4f} is observed, and"
                    f" {chance + pattern.tolerance:.4f} to either side is what chance and tolerance"
                    " allow"
                )
    fail_if(faults)
    return ", ".join(found)


def _check_rate_zero(pattern: _Pattern) -> str:
    """At a rate of zero nothing is dropped."""
    for visible in (_all(8), _half(8)):
        dropped = ~pattern.draw(_shape(8), 0.0, visible)
        if dropped.any():
            raise CheckError(
                f"{int(dropped.sum())} of {dropped.numel()} units are dropped at rate 0"
            )
    return "keeps everything"


def _check_padding(pattern: _Pattern) -> str:
    """What is not visible is kept, unless whole features of a sequence are dropped together."""
    visible = _padding(_TOKENS)[:, None, :, None]
    keep = pattern.draw(_shape(len(visible)), 0.9, visible)
    spared = keep | visible
    if _is_constant(keep, -2):  # of a feature that is dropped for a whole sequence, nothing is kept
        spared = spared[~visible.any(-2).flatten()]
    if not spared.all():
        raise CheckError(
            f"{int((~spared).sum())} units that are not visible are dropped; keep them: mask |"
            " ~visible"
        )
    return "what is not visible stays"


def _check_generator(pattern: _Pattern) -> str:
    """All draws come from PyTorch's global generator, and from nowhere else."""
    draw = partial(pattern.mask, _shape(32), 0.5, _all(32))
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        state = torch.get_rng_state()
        first, second = draw(), draw()
        moved = not torch.equal(state, torch.get_rng_state())
        torch.set_rng_state(state)
        replayed = draw()
    if not torch.equal(first, replayed):
        raise CheckError(
            "the same state of PyTorch's global generator gives another mask, so activation"
            " checkpointing would recompute a layer with other noise; draw from no other source"
        )
    if torch.equal(first, second):
        raise CheckError("two draws in a row give the same mask; draw anew in each call")
    if not moved:
        raise CheckError("drawing does not move PyTorch's global generator; draw from it alone")
    return "draws from PyTorch's global generator alone"


def _check_groups(pattern: _Pattern) -> str:
    """Sequences and heads are drawn one by one."""
    keep = pattern.draw(_shape(32), 0.5, _all(32))
    for axis, name in ((0, "sequences of a batch"), (1, "heads of a sequence")):
        if _is_constant(keep, axis) and pattern.together != "all":
            raise CheckError(f"all {name} lose the same units; draw for each group by itself")
    of_all = "all sequences and heads share a draw"
    return of_all if pattern.together == "all" else "each sequence and head has a draw of its own"


def _check_together(pattern: _Pattern) -> str:
    """Units that should be dropped together are."""
    axes = {"entries": -1, "tokens": -2}
    keep = pattern.draw(_shape(8), 0.5, _half(8))
    if pattern.together is None:
        constant = [name for name, axis in axes.items() if _is_constant(keep, axis)]
        return f"{' and '.join(constant) or 'no units'} share a draw"
    shared = [1, *axes.values()] if pattern.together == "all" else [axes[pattern.together]]
    if not all(_is_constant(keep, axis) for axis in shared):
        units = "units" if pattern.together == "all" else pattern.together
        raise CheckError(f"the {units} of a group must share one draw and do not")
    return f"{pattern.together} share a draw"


class _WaitSpy(TorchDispatchMode):
    """Remembers the operators for which a program would wait for its device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waited: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in _WAITING:
            self.waited.add(name)
        return func(*args, **(kwargs or {}))


def _shape(batch: int) -> tuple[int, ...]:
    return (batch, _HEADS, _TOKENS, _ENTRIES)


def _all(batch: int) -> Tensor:
    return torch.ones(batch, 1, _TOKENS, 1, dtype=torch.bool)


def _half(batch: int) -> Tensor:
    """Return sequences of which the first 20 tokens, or the last 30, are visible, in turn."""
    visible = _all(batch)
    visible[::2, :, 20:] = False
    visible[1::2, :, :10] = False
    return visible


def _padding(tokens: int) -> Tensor:
    """Return padding to the right, to the left, in gaps, everywhere: ``[4 · 16, tokens]``."""
    place = torch.arange(tokens)
    kinds = [place < tokens // 2, place >= tokens // 2, place % 3 > 0, place < 0]
    return torch.stack(kinds).repeat(16, 1)


def _is_constant(mask: Tensor, axis: int) -> bool:
    return bool(mask.eq(mask.narrow(axis, 0, 1)).all())


def _broadcasts(mask: Tensor, shape: tuple[int, ...]) -> bool:
    return all(own in (1, full) for own, full in zip(mask.shape, shape, strict=True))

"""The checks of an attention path: equal to the specification, in values and in gradients.

The specification is :mod:`hiddenkey.attention.reference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from hiddenkey.attention import reference
from hiddenkey.errors import ConfigError
from hiddenkey.framework.positions import POSITIONS
from hiddenkey.testing.findings import CheckError, Checks, Report, fail_if, run_checks
from hiddenkey.testing.passes import distance

_BATCH, _HEADS, _QUERIES, _KEYS, _WIDTH = 3, 4, 6, 9, 8
_TOLERANCE = 1e-9  # in float64
_PARTS = ("output", "queries", "keys", "values")


class Attend(Protocol):
    """An attention path with dropped keys."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        keep: Tensor,
        allowed: Tensor,
        scaling: float,
    ) -> Tensor:
        """Return ``[batch, heads, queries, value_dim]``.

        Args:
            query: ``[batch, heads, queries, head_dim]``.
            key: ``[batch, heads, keys, head_dim]``.
            value: ``[batch, heads, keys, value_dim]``.
            keep: boolean ``[batch, heads, 1, keys]``, False for a key that is dropped.
            allowed: boolean ``[batch, 1, queries, keys]``, which keys a query may see.
            scaling: factor of the logits.
        """


@dataclass(frozen=True)
class _Case:
    """Masks to be tried."""

    keep: Tensor  # boolean [batch, heads, 1, keys]
    allowed: Tensor  # boolean [batch, 1, queries, keys]

    @property
    def loses_all(self) -> bool:
        """Whether some query loses all the keys that it may see."""
        return bool((self.allowed.any(-1) & ~(self.keep & self.allowed).any(-1)).any())


@dataclass(frozen=True)
class _Path:
    attend: Attend
    specification: Attend
    cases: dict[str, _Case]  # the masks that the path must serve


def examine_attention(
    attend: Attend,
    *,
    position: str = "attention_logits",
    rescaling: str | None = None,
    rate: float = 0.3,
    rescues: bool = True,
) -> Report:
    """Check that an attention path computes what the specification says, for given masks.

    Among the masks are a causal order, padding, queries that lose all their keys, and single
    queries.

    Args:
        attend: the path; see :class:`Attend`.
        position: ``attention_logits`` or ``attention_weights``.
        rescaling: rule of the position; ``None`` takes the position's own.
        rate: dropout rate, for ``inverse`` rescaling.
        rescues: queries that lose all their keys keep them all; ``False`` for a path that is never
            given such masks.

    Raises:
        ConfigError: if the position is not one of attention, or has no such rescaling.
    """
    if position not in POSITIONS or not POSITIONS[position].attention:
        raise ConfigError(
            f"position must be attention_logits or attention_weights, got {position!r}"
        )
    rescaling = POSITIONS[position].rescales[0] if rescaling is None else rescaling
    if rescaling not in POSITIONS[position].rescales:
        raise ConfigError(
            f"rescaling must be one of {', '.join(POSITIONS[position].rescales)}, got {rescaling!r}"
        )
    dropped = f"{POSITIONS[position].attention}_keep"

    def specification(
        query: Tensor, key: Tensor, value: Tensor, *, keep: Tensor, **masks: Any
    ) -> Tensor:
        places = {"logits_keep": None, "weights_keep": None, dropped: keep}
        rule = {"rate": rate, "rescaling": rescaling}
        return reference.attention(query, key, value, **places, **rule, **masks)

    served = {name: case for name, case in _cases().items() if rescues or not case.loses_all}
    path = _Path(attend, specification, served)
    checks: Checks[_Path] = {
        "form": _check_form,
        "values": partial(_check_parts, _PARTS[:1]),
        "gradients": partial(_check_parts, _PARTS[1:]),
        "no visible key": _check_blind_queries,
    }
    name = getattr(attend, "__qualname__", type(attend).__name__)
    return Report(name, run_checks(checks, path))


def _check_form(path: _Path) -> str:
    """The result has the shape of the specification's, and the dtype of the values."""
    for dtype in (torch.float32, torch.bfloat16):
        case = _cases()["padding, the last key stays"]
        query, key, value = (tensor.detach().to(dtype) for tensor in _inputs(case))
        found = path.attend(
            query, key, value, keep=case.keep, allowed=case.allowed, scaling=_WIDTH**-0.5
        )
        if found.dtype != dtype or found.shape != (_BATCH, _HEADS, _QUERIES, _WIDTH + 1):
            raise CheckError(
                f"for {dtype} values it returns {found.dtype} {list(found.shape)}; expected"
                f" {dtype} {[_BATCH, _HEADS, _QUERIES, _WIDTH + 1]}"
            )
    return "shape and dtype of the values"


def _check_parts(parts: Sequence[str], path: _Path) -> str:
    """Outputs, or gradients of queries, keys and values, are those of the specification."""
    apart: dict[str, float] = {}
    for name, case in path.cases.items():
        found, expected = (_with_gradients(way, case) for way in (path.attend, path.specification))
        far = zip(_PARTS, map(distance, found, expected), strict=True)
        apart |= {f"{name}, {part}": off for part, off in far if part in parts}
    fail_if([f"{where}: {off:.1e} off" for where, off in apart.items() if off > _TOLERANCE])
    return f"at most {max(apart.values()):.1e} off in {len(path.cases)} cases"


def _check_blind_queries(path: _Path) -> str:
    """A sequence of nothing but padding gives no NaN, nor does its gradient."""
    allowed = torch.ones(_BATCH, 1, _QUERIES, _KEYS, dtype=torch.bool)
    allowed[0] = False
    case = _Case(_cases()["plain"].keep, allowed)
    inputs = _inputs(case)
    output = path.attend(*inputs, keep=case.keep, allowed=allowed, scaling=_WIDTH**-0.5)
    found = [output, *torch.autograd.grad(output.sum(), inputs)]
    if not all(bool(tensor.isfinite().all()) for tensor in found):
        raise CheckError("a sequence without a visible key gives values that are not finite")
    return "finite"


def _cases() -> dict[str, _Case]:
    draws = torch.Generator().manual_seed(0)
    keep = torch.rand(_BATCH, _HEADS, 1, _KEYS, generator=draws) > 0.4
    first = keep.clone()
    first[..., 0] = True
    last = keep.clone()
    last[1, ..., 5] = last[2, ..., 8] = True
    lost = keep.clone()
    lost[..., :3] = False
    every = torch.ones(_BATCH, 1, _QUERIES, _KEYS, dtype=torch.bool)
    causal = every.tril()
    padding = every.clone()
    padding[1, ..., 6:] = False
    padding[2, ..., :4] = False
    return {
        "plain": _Case(keep, every),
        "nothing is dropped": _Case(torch.ones_like(keep), every),
        "everything is dropped": _Case(torch.zeros_like(keep), every),
        "padding, the last key stays": _Case(last, padding),
        "causal, the first key stays": _Case(first, causal),
        "causal, early queries lose every key": _Case(lost, causal),
        "causal with padding": _Case(keep, causal & padding),
        "one query": _Case(keep, every[:, :, :1]),
    }


def _inputs(case: _Case) -> list[Tensor]:
    draws = torch.Generator().manual_seed(1)
    shapes = ((case.allowed.shape[-2], _WIDTH), (_KEYS, _WIDTH), (_KEYS, _WIDTH + 1))
    return [
        torch.randn(_BATCH, _HEADS, *shape, generator=draws, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def _with_gradients(attend: Attend, case: _Case) -> list[Tensor]:
    inputs = _inputs(case)
    output = attend(*inputs, keep=case.keep, allowed=case.allowed, scaling=_WIDTH**-0.5)
    blind = ~case.allowed.any(-1, keepdim=True)  # what such a query gets is nobody's business
    draws = torch.Generator().manual_seed(2)
    upstream = torch.randn(output.shape, generator=draws, dtype=output.dtype)
    gradients = torch.autograd.grad(output, inputs, upstream.masked_fill(blind, 0.0))
    return [output.detach().masked_fill(blind, 0.0), *gradients]

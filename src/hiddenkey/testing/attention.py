"""The checks of an attention path: equal to the specification, in values and in gradients.

The specification is :mod:`hiddenkey.attention.reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

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
    position: str
    rescaling: str
    rate: float
    rescues: bool

    def cases(self) -> dict[str, _Case]:
        """Return the masks that the path must serve."""
        return {name: case for name, case in _cases().items() if self.rescues or not case.loses_all}

    def distances(self, case: _Case) -> dict[str, float]:
        """Return how far output and gradients of the path are from those of the specification."""
        path = partial(self.attend, keep=case.keep, allowed=case.allowed)
        is_logits = POSITIONS[self.position].attention == "logits"
        specification = partial(
            reference.attention,
            allowed=case.allowed,
            logits_keep=case.keep if is_logits else None,
            weights_keep=None if is_logits else case.keep,
            rate=self.rate,
            rescaling=self.rescaling,
        )
        pairs = zip(_with_gradients(path, case), _with_gradients(specification, case), strict=True)
        return dict(
            zip(_PARTS, (distance(found, expected) for found, expected in pairs), strict=True)
        )


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
    path = _Path(attend, position, rescaling, rate, rescues)
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
    found = {name: path.distances(case) for name, case in path.cases().items()}
    apart = {f"{name}, {part}": far[part] for name, far in found.items() for part in parts}
    fail_if([f"{where}: {far:.1e} off" for where, far in apart.items() if far > _TOLERANCE])
    return f"at most {max(apart.values()):.1e} off in {len(found)} cases"


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


def _with_gradients(attend: Callable[..., Tensor], case: _Case) -> list[Tensor]:
    inputs = _inputs(case)
    output = attend(*inputs, scaling=_WIDTH**-0.5)
    blind = ~case.allowed.any(-1, keepdim=True)  # what such a query gets is nobody's business
    draws = torch.Generator().manual_seed(2)
    upstream = torch.randn(output.shape, generator=draws, dtype=output.dtype)
    gradients = torch.autograd.grad(output, inputs, upstream.masked_fill(blind, 0.0))
    return [output.detach().masked_fill(blind, 0.0), *gradients]

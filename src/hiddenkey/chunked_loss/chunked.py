"""The language-model loss without a ``[tokens, vocabulary]`` tensor.

Rows without a label are dropped, and the others go through the head a chunk at a time. Loss and
gradient of a chunk are computed in the forward pass, so that nothing of the size of the vocabulary
is kept; the backward pass only scales. :mod:`hiddenkey.chunked_loss.reference` is the
specification.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hiddenkey.chunked_loss.head import Head, Projection, Use
from hiddenkey.chunked_loss.past import Past
from hiddenkey.chunked_loss.rows import gradient_factor, pair_rows, remembered_rows, task_rows
from hiddenkey.chunked_loss.sums import EVEN, IGNORED_LABEL, Factors, Sums

# A chunk is what one matrix product serves. More rows make it faster, up to about 128 on a CPU; the
# chunk's logits, twice as many elements, are what the loss needs in memory.
_CHUNK_ELEMENTS = 2**24
_CHUNK_ROWS_ON_CPU = 128
_LEAST_CHUNK_ROWS = 16
# A tile is what the operations between two products work on: on a CPU it should fit in the cache,
# elsewhere it is the chunk.
_TILE_ELEMENTS_ON_CPU = 2**18


def chunked_loss(
    states: Tensor,
    labels: Tensor,
    head: Head,
    other: Tensor | None = None,
    factors: Factors = EVEN,
    *,
    entropy: bool = False,
    chunk_rows: int | None = None,
) -> Sums:
    """Return task · Σ CE(z₁, y) + other_task · Σ CE(z₂, y) + divergence · Σ D(z₁, z₂), z = head(h).

    Gradient flows to ``states``, to ``other`` and to the head's parameters, where each requires it.

    Args:
        states: h₁ ``[rows, hidden]`` of the trained pass.
        labels: y ``[rows]``; rows with −100 do not count.
        head: from hidden states to logits.
        other: h₂ ``[compared, hidden]`` of a second pass over the first rows of ``states``; detach
            it to back-propagate through one branch only.
        factors: of the parts.
        entropy: add up the entropy of the trained pass too.
        chunk_rows: rows that go through the head at once; ``None`` chooses.

    Raises:
        ValueError: if shapes do not fit, or if ``js`` is to carry gradient through both branches.
    """
    _check(states, labels, other, factors)
    kept = (labels != IGNORED_LABEL).nonzero().squeeze(-1)
    if other is not None:
        other = other.index_select(0, kept[kept < len(other)])
    return labelled_loss(
        states.index_select(0, kept),
        labels.index_select(0, kept),
        head,
        other,
        factors,
        entropy=entropy,
        chunk_rows=chunk_rows,
    )


def labelled_loss(
    states: Tensor,
    labels: Tensor,
    head: Head,
    other: Tensor | None = None,
    factors: Factors = EVEN,
    *,
    past: Past | None = None,
    entropy: bool = False,
    chunk_rows: int | None = None,
) -> Sums:
    """Return :func:`chunked_loss` for rows that all have a label.

    States are ``[rows, hidden]`` and labels ``[rows]``; the rest is as there. With ``past`` the
    divergence is that from earlier predictions of the same rows, which the present ones replace
    there.
    """
    if other is not None and factors.divergence == 0:
        return _two_cross_entropies(states, labels, head, other, factors, entropy, chunk_rows)
    settings = _Settings(
        factors=factors,
        past=past,
        entropy=entropy,
        rows=chunk_rows or rows_of_a_chunk(head.size, states.device.type),
        is_differentiable=torch.is_grad_enabled(),
    )
    loss, parts = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
        states, other, labels, head, settings, *head.parameters()
    )
    task, other_task, divergence, correct, entropies = parts.unbind()
    return Sums(loss, task, other_task, divergence, correct, entropies, len(states))


def rows_of_a_chunk(vocabulary: int, device: str) -> int:
    """Return how many rows go through the head at once."""
    rows = max(_LEAST_CHUNK_ROWS, _CHUNK_ELEMENTS // vocabulary)
    return min(rows, _CHUNK_ROWS_ON_CPU) if device == "cpu" else rows


def _two_cross_entropies(
    states: Tensor,
    labels: Tensor,
    head: Head,
    other: Tensor,
    factors: Factors,
    entropy: bool,
    chunk_rows: int | None,
) -> Sums:
    """What is left where the divergence counts for nothing; it is not computed."""
    first = labelled_loss(
        states, labels, head, None, factors, entropy=entropy, chunk_rows=chunk_rows
    )
    if factors.other_task == 0:
        return first
    swapped = replace(factors, task=factors.other_task)
    second = labelled_loss(other, labels[: len(other)], head, None, swapped, chunk_rows=chunk_rows)
    return first._replace(loss=first.loss + second.loss, other_task=second.task)


def _check(states: Tensor, labels: Tensor, other: Tensor | None, factors: Factors) -> None:
    if states.dim() != 2 or labels.shape != states.shape[:1]:
        raise ValueError(
            "states must be [rows, hidden] with a label for each row, got"
            f" {list(states.shape)} and labels {list(labels.shape)}; flatten batch and tokens"
        )
    if other is None:
        return
    if other.dim() != 2 or other.shape[1] != states.shape[1] or len(other) > len(states):
        raise ValueError(
            "other must hold the first rows of states in a second pass, got"
            f" {list(other.shape)} for states {list(states.shape)}"
        )
    if factors.kind == "js" and (other.requires_grad or factors.other_task):
        raise ValueError(
            "kind 'js' compares with an inference pass, which carries no gradient; detach other and"
            " leave other_task at 0"
        )


@dataclass(frozen=True)
class _Settings:
    factors: Factors
    past: Past | None
    entropy: bool
    rows: int
    is_differentiable: bool


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        other: Tensor | None,
        labels: Tensor,
        head: Head,
        settings: _Settings,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        wants_states, wants_other, _, _, _, *wants_parameters = (
            wanted and settings.is_differentiable for wanted in ctx.needs_input_grad
        )
        pulls = wants_states or wants_other or any(wants_parameters)
        pulls_other = pulls and (wants_other or settings.factors.other_task != 0)
        rows = min(settings.rows, max(len(states), 1))
        branches = int(pulls) + int(pulls_other)
        projection = head.project(Use(states, rows, branches, tuple(wants_parameters)))
        work = _Work(projection, settings, labels, states, other, branches)
        compared = 0 if other is None else len(other)
        with torch.autocast(states.device.type, enabled=False):
            for chunk in _slices(0, compared, rows):
                work.pair(chunk)
            for chunk in _slices(compared, len(states), rows):
                if settings.past is None:
                    work.single(chunk)
                else:
                    work.remembered(chunk, settings.past)

        ctx.parameter_types = [parameter.dtype for parameter in parameters]
        ctx.save_for_backward(
            work.gradients[0] if wants_states else None,
            work.gradients[1] if wants_other else None,
            *projection.parameter_gradients,
        )
        ctx.mark_non_differentiable(work.sums)
        factors = settings.factors
        # by numbers, not by a tensor of them, whose copy to a device would be waited for
        weights = (factors.task, factors.other_task, factors.divergence)
        task, other_task, divergence = (
            part * weight for part, weight in zip(work.sums[:3], weights, strict=True)
        )
        return task + other_task + divergence, work.sums

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: gradients that are constants would be wrong
            raise RuntimeError(
                "the chunked language-model loss computes its gradient in the forward pass and has"
                " no second derivative; leave create_graph=False, or use full logits"
                " (reference_loss, attach(..., lm_loss='full'))"
            )
        states, other, *parameters = (
            None if gradient is None else gradient * scale for gradient in ctx.saved_tensors
        )
        cast = [
            None if gradient is None else gradient.to(kind)
            for gradient, kind in zip(parameters, ctx.parameter_types, strict=True)
        ]
        return (states, other, None, None, None, *cast)


class _Work:
    """Values and gradients of one loss, chunk after chunk.

    Attributes:
        sums: ``[5]``, the fields of :class:`hiddenkey.chunked_loss.rows.RowSums`.
        gradients: ∂loss/∂states and ∂loss/∂other, where these branches are pulled back.
    """

    def __init__(
        self,
        projection: Projection,
        settings: _Settings,
        labels: Tensor,
        states: Tensor,
        other: Tensor | None,
        branches: int,
    ) -> None:
        self._projection, self._settings, self._branches = projection, settings, branches
        self._labels, self._states, self._other = labels, states, other
        factors = settings.factors
        is_smooth = factors.kind == "label-smoothing"
        self._smoothing = factors.divergence / factors.task if is_smooth else 0.0
        wide = torch.promote_types(states.dtype, torch.float32)
        self.sums = states.new_zeros(5, dtype=wide)
        self.gradients = [
            None if branch is None or branches <= index else torch.empty_like(branch)
            for index, branch in enumerate((states, other))
        ]

    def pair(self, chunk: slice) -> None:
        """Rows that are compared with the second forward pass."""
        assert self._other is not None
        logits, half = self._projection.pair(self._states[chunk], self._other[chunk])
        labels, factors = self._labels[chunk], self._settings.factors
        for tile in _tiles(logits):
            self.sums += torch.stack(
                pair_rows(
                    logits[tile],
                    half[tile],
                    labels[tile],
                    factors,
                    entropy=self._settings.entropy,
                    gradient=self._branches > 0,
                    other_gradient=self._branches > 1,
                )
            )
        self._pull([logits, half][: self._branches], gradient_factor(factors), chunk)

    def single(self, chunk: slice) -> None:
        """Rows without a partner."""
        logits = self._projection.single(self._states[chunk])
        labels, is_pulled = self._labels[chunk], self._branches > 0
        for tile in _tiles(logits):
            self.sums += torch.stack(
                task_rows(
                    logits[tile],
                    labels[tile],
                    entropy=self._settings.entropy,
                    gradient=is_pulled,
                    smoothing=self._smoothing,
                )
            )
        self._pull([logits][: self._branches], self._settings.factors.task, chunk)

    def remembered(self, chunk: slice, past: Past) -> None:
        """Rows that are compared with earlier predictions of them."""
        logits = self._projection.single(self._states[chunk])
        labels = self._labels[chunk]
        for tile in _tiles(logits):
            self.sums += torch.stack(
                remembered_rows(
                    logits[tile],
                    labels[tile],
                    past,
                    slice(chunk.start + tile.start, chunk.start + tile.stop),
                    self._settings.factors,
                    entropy=self._settings.entropy,
                    gradient=self._branches > 0,
                )
            )
        self._pull([logits][: self._branches], 1.0, chunk)

    def _pull(self, found: list[Tensor], factor: float, chunk: slice) -> None:
        """Write what a chunk's ∂loss/∂z mean for the hidden states."""
        if not found:
            return
        pulled = self._projection.pull(found, factor)
        for gradient, part in zip(self.gradients[: len(found)], pulled, strict=False):
            if gradient is not None:
                gradient[chunk] = part


def _slices(start: int, stop: int, size: int) -> Iterator[slice]:
    for begin in range(start, stop, size):
        yield slice(begin, min(begin + size, stop))


def _tiles(logits: Tensor) -> Iterator[slice]:
    """Cut a chunk into what is worked on at once."""
    count, vocabulary = logits.shape
    size = max(1, _TILE_ELEMENTS_ON_CPU // vocabulary) if logits.device.type == "cpu" else count
    return _slices(0, count, size)

"""How rows to compare are taken from a model's predictions: a class for each kind of task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from hiddenkey.chunked_loss.sums import IGNORED_LABEL
from hiddenkey.errors import ConsistencyError
from hiddenkey.step.arguments import lead, select, visible_tokens
from hiddenkey.step.packed import per_example

POSITIONS = ("start_positions", "end_positions")
"""Arguments with the labels of a model that answers questions."""


class Rows(Protocol):
    """The rows of one kind of task.

    ``arguments`` are those of the pass, by name, for all sequences.
    """

    def rows(
        self, output: Any, arguments: Mapping[str, Any], chosen: Tensor | None, *, is_sum: bool
    ) -> tuple[Tensor, Tensor | float]:
        """Return the rows to compare, and what each counts for.

        Args:
            output: of a pass.
            arguments: of the pass.
            chosen: ``[sequences]``, indices of those that take part; ``None``: all.
            is_sum: whether the task loss is a sum that is divided by ``num_items_in_batch``.

        Returns:
            ``[rows, classes]``; and ``[rows]``, or one number.
        """

    def counts(self, output: Any, arguments: Mapping[str, Any], starts: Tensor | None) -> list[int]:
        """Return how many rows each example has; ``starts`` as in :func:`per_example`."""

    def at_labels(self, rows: Tensor, output: Any, arguments: Mapping[str, Any]) -> Tensor:
        """Return what each row predicts for its label, ``[rows]``."""

    def known(self, arguments: Mapping[str, Any]) -> Tensor | None:
        """Mark the sequences whose class is given, boolean ``[batch]``; ``None``: all that count.

        The task loss leaves the others out.
        """

    def has_label(self, output: Any, arguments: Mapping[str, Any]) -> Tensor | None:
        """Whether the mean that is the task loss is over anything; ``None``: it always is."""

    def units(self, arguments: Mapping[str, Any]) -> Tensor | int:
        """Return what the sum over rows, each times what it counts for, is divided by."""


class SequenceRows:
    """One distribution over classes, or over choices, for each sequence."""

    def rows(
        self, output: Any, arguments: Mapping[str, Any], chosen: Tensor | None, *, is_sum: bool
    ) -> tuple[Tensor, Tensor | float]:
        """As :class:`Rows` has it."""
        return of(output.logits, chosen), 1.0

    def counts(self, output: Any, arguments: Mapping[str, Any], starts: Tensor | None) -> list[int]:
        """As :class:`Rows` has it."""
        return [1] * len(output.logits)

    def at_labels(self, rows: Tensor, output: Any, arguments: Mapping[str, Any]) -> Tensor:
        """As :class:`Rows` has it; for soft labels their mean."""
        labels = arguments["labels"]
        if labels.shape == rows.shape and rows.shape[1] > 1:
            mean: Tensor = (rows * labels.to(rows)).sum(-1)
            return mean
        return _at(rows, labels.clamp_min(0))  # those without a label are not known to have one

    def known(self, arguments: Mapping[str, Any]) -> Tensor | None:
        """As :class:`Rows` has it."""
        labels = arguments.get("labels")
        if labels is None or labels.is_floating_point():
            return None
        marked: Tensor = labels.flatten() != IGNORED_LABEL
        return marked

    def has_label(self, output: Any, arguments: Mapping[str, Any]) -> Tensor | None:
        """As :class:`Rows` has it."""
        known = self.known(arguments)
        return None if known is None else known.any()

    def units(self, arguments: Mapping[str, Any]) -> Tensor | int:
        """The sequences."""
        return lead(arguments).shape[0]


class LabelRows(SequenceRows):
    """Yes and no for each of several labels of a sequence."""

    def rows(
        self, output: Any, arguments: Mapping[str, Any], chosen: Tensor | None, *, is_sum: bool
    ) -> tuple[Tensor, Tensor | float]:
        """As :class:`Rows` has it."""
        logits = of(output.logits, chosen)
        # a softmax over a logit and 0 is the logit's sigmoid
        pairs = torch.stack([logits, torch.zeros_like(logits)], -1)
        return pairs.flatten(0, 1), 1.0 if is_sum else 1 / logits.shape[1]

    def counts(self, output: Any, arguments: Mapping[str, Any], starts: Tensor | None) -> list[int]:
        """As :class:`Rows` has it."""
        return [output.logits.shape[1]] * len(output.logits)

    def at_labels(self, rows: Tensor, output: Any, arguments: Mapping[str, Any]) -> Tensor:
        """As :class:`Rows` has it."""
        is_so: Tensor = arguments["labels"].flatten()
        return rows[:, 0] * is_so.to(rows)

    def known(self, arguments: Mapping[str, Any]) -> Tensor | None:
        """All labels of a sequence are given."""
        return None


class AnswerRows:
    """A distribution over the visible tokens, first for each answer's start, then for its end.

    As in the task loss, a position outside of the tokens takes no part.

    Args:
        reads_mask: whether the attention mask is of the tokens that are predicted, and not of an
            encoder's.
    """

    def __init__(self, *, reads_mask: bool) -> None:
        self._reads_mask = reads_mask

    def rows(
        self, output: Any, arguments: Mapping[str, Any], chosen: Tensor | None, *, is_sum: bool
    ) -> tuple[Tensor, Tensor | float]:
        """As :class:`Rows` has it."""
        visible = None
        if self._reads_mask:
            batch = select(arguments, chosen)
            visible = visible_tokens(batch, of(output.start_logits, chosen).shape)
        rows, shares = [], []
        for index, logits in enumerate((output.start_logits, output.end_logits)):
            inside = _inside(arguments, index, logits)
            count = 1 if is_sum else inside.sum().clamp_min(1)
            shares.append(0.5 * of(inside, chosen) / count)
            logits = of(logits, chosen)
            if visible is not None:
                logits = logits.masked_fill(~visible, torch.finfo(logits.dtype).min)
            rows.append(logits)
        return torch.cat(rows), torch.cat(shares)

    def counts(self, output: Any, arguments: Mapping[str, Any], starts: Tensor | None) -> list[int]:
        """As :class:`Rows` has it."""
        return [2] * len(output.start_logits)

    def at_labels(self, rows: Tensor, output: Any, arguments: Mapping[str, Any]) -> Tensor:
        """As :class:`Rows` has it."""
        labels = torch.cat([_positions(arguments, index).flatten() for index in (0, 1)])
        return _at(rows, labels.clamp(0, rows.shape[1] - 1))  # those outside have no share

    def known(self, arguments: Mapping[str, Any]) -> Tensor | None:
        """Rows are chosen by their positions."""
        return None

    def has_label(self, output: Any, arguments: Mapping[str, Any]) -> Tensor | None:
        """As :class:`Rows` has it; starts and ends have a mean each."""
        starts = _inside(arguments, 0, output.start_logits).any()
        return starts & _inside(arguments, 1, output.end_logits).any()

    def units(self, arguments: Mapping[str, Any]) -> Tensor | int:
        """1, since start and end have divisors of their own."""
        return 1


class TokenRows:
    """A distribution over classes, or over the vocabulary, for each labelled token.

    Args:
        shifted: whether a token's label is the next token.
    """

    def __init__(self, *, shifted: bool) -> None:
        self._shifted = shifted

    def rows(
        self, output: Any, arguments: Mapping[str, Any], chosen: Tensor | None, *, is_sum: bool
    ) -> tuple[Tensor, Tensor | float]:
        """As :class:`Rows` has it."""
        return self.labelled(of(output.logits, chosen), select(arguments, chosen)), 1.0

    def labelled(self, predictions: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return those of ``predictions``, ``[batch, tokens, ...]``, that have a label.

        Raises:
            ConsistencyError: if there is not one prediction for each label.
        """
        labels = batch["labels"]
        if labels.dim() != 2 or labels.shape[0] != predictions.shape[0]:
            raise ConsistencyError(
                "the consistency loss compares one prediction for each token, got labels of"
                f" shape {list(labels.shape)} with predictions of {list(predictions.shape)}; set"
                " consistency=None"
            )
        return predictions[self._is_labelled(batch, predictions.shape[1])]

    def counts(self, output: Any, arguments: Mapping[str, Any], starts: Tensor | None) -> list[int]:
        """As :class:`Rows` has it."""
        return per_example(self._is_labelled(arguments, output.logits.shape[1]), starts)

    def at_labels(self, rows: Tensor, output: Any, arguments: Mapping[str, Any]) -> Tensor:
        """As :class:`Rows` has it."""
        labels = self._labels(arguments, output.logits.shape[1])
        return _at(rows, labels[labels != IGNORED_LABEL])

    def known(self, arguments: Mapping[str, Any]) -> Tensor | None:
        """Rows are chosen by their labels."""
        return None

    def has_label(self, output: Any, arguments: Mapping[str, Any]) -> Tensor | None:
        """As :class:`Rows` has it."""
        return self._is_labelled(arguments, arguments["labels"].shape[1]).any()

    def units(self, arguments: Mapping[str, Any]) -> Tensor | int:
        """The labelled tokens."""
        return self._is_labelled(arguments, arguments["labels"].shape[1]).sum().clamp_min(1)

    def _is_labelled(self, arguments: Mapping[str, Any], tokens: int) -> Tensor:
        """Mark the positions whose prediction has a label, boolean ``[batch, tokens]``."""
        return self._labels(arguments, tokens) != IGNORED_LABEL

    def _labels(self, arguments: Mapping[str, Any], tokens: int) -> Tensor:
        """Return what each position is to predict, ``[batch, tokens]``; −100 where nothing."""
        labels: Tensor = arguments["labels"]
        if self._shifted:
            given = arguments.get("shift_labels")
            ends = torch.full_like(labels[:, :1], IGNORED_LABEL)
            labels = torch.cat([labels[:, 1:], ends], 1) if given is None else given
        # a prefix of virtual or image tokens has either labels but no logits, or no labels
        return F.pad(
            labels[:, -tokens:], (max(0, tokens - labels.shape[1]), 0), value=IGNORED_LABEL
        )


def rows_of_states(states: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return one row for each token of ``[batch, tokens, features]``; a sequence's count for one.

    Args:
        states: of the last layer.
        batch: arguments of the pass for these sequences.
    """
    visible = visible_tokens(batch, states.shape[:2])
    if visible is None:
        visible = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    shares = visible / visible.sum(-1, keepdim=True).clamp_min(1)
    return states.flatten(0, 1), shares.flatten()


def of(tensor: Any, chosen: Tensor | None) -> Tensor:
    """Return a tensor's entries of the chosen sequences."""
    selected: Tensor = tensor if chosen is None else tensor[chosen]
    return selected


def _at(rows: Tensor, labels: Tensor) -> Tensor:
    return rows.gather(-1, labels.to(rows.device).view(-1, 1)).squeeze(-1)


def _positions(arguments: Mapping[str, Any], index: int) -> Any:
    """The start (0) or end (1) of each answer; ``None`` where a loss from outside has none."""
    own = arguments.get("labels")
    return arguments.get(POSITIONS[index]) if own is None else own[:, index]


def _inside(arguments: Mapping[str, Any], index: int, logits: Tensor) -> Tensor:
    """Mark the sequences whose start (0) or end (1) is one of the tokens, ``[batch]``."""
    positions: Tensor | None = _positions(arguments, index)
    if positions is None:
        return torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    return positions.to(logits.device).flatten() < logits.shape[1]

"""What the consistency loss compares of a model's predictions, and what it is the mean over.

Both follow the task loss, so that a weight means the same for every task:

========================  ========================================  ===========================
task                      a row is a distribution over              the loss is the mean over
========================  ========================================  ===========================
classification            classes                                   sequences
several labels            yes and no, for each label                labels of all sequences
several choices           choices                                   sequences
question answering        visible tokens; one for start, one for    sequences with such a
                          end                                       position; then over both
token classification      classes                                   labelled tokens
language models           the vocabulary                            labelled tokens
regression                features of the last layer's output       visible tokens, then sequences
========================  ========================================  ===========================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hiddenkey import anatomy
from hiddenkey.errors import ConsistencyError
from hiddenkey.framework.consistency import Consistency
from hiddenkey.step.arguments import lead, select
from hiddenkey.step.items import divides_by_items, takes_items
from hiddenkey.step.task_rows import (
    POSITIONS,
    AnswerRows,
    LabelRows,
    Rows,
    SequenceRows,
    TokenRows,
    of,
    rows_of_states,
)
from hiddenkey.step.tasks import ANSWERS, BY_TOKEN, CLASSIFIES, LANGUAGE, MADE_OF_LABELS, SHIFTED

_SEVERAL_LABELS = LabelRows()


class ComparedRows:
    """The rows by which two passes of one model are compared.

    Args:
        consistency: the configured loss.
        transformer: the model.

    Attributes:
        task: see :func:`hiddenkey.anatomy.task_of`.
        label_names: the arguments of the model's call that hold its labels.
        on_representation: whether rows are hidden states of the last layer, and no predictions.
        is_regression: whether the model predicts numbers.
        is_language: whether its classes are the tokens of a language.
        is_token_wise: whether it predicts one class for each token.
        is_own_loss: whether the task loss of the pass at work is computed outside of the model.
    """

    def __init__(self, consistency: Consistency, transformer: nn.Module) -> None:
        self.task = anatomy.task_of(transformer)
        self.label_names = POSITIONS if self.task == ANSWERS else ("labels",)
        self.is_regression = anatomy.is_regression(transformer)
        self.is_language = self.task in LANGUAGE
        self.is_token_wise = self.task in BY_TOKEN
        self.on_representation = consistency.runs_twice and (
            consistency.on == "representation" or (consistency.on == "auto" and self.is_regression)
        )
        self.is_own_loss = False
        self._transformer = transformer
        self._hands_items_on = divides_by_items(transformer)
        self._takes_items = takes_items(transformer)
        self._labelled_tokens = TokenRows(shifted=self.task in SHIFTED)
        self._by_task: Rows = self._rows_of_task()
        self._rows = self._by_task

    def begin(self, arguments: Mapping[str, Any], *, own: bool) -> None:
        """Prepare for a pass and the second one, which are then compared alike.

        Args:
            arguments: that the model itself gets, whose labels can settle what its task is.
            own: whether its task loss is computed outside of the model.

        Raises:
            ConsistencyError: if the model's task has become another one.
        """
        if anatomy.is_regression(self._transformer) != self.is_regression:
            was, now = (
                ("regression", "classes") if self.is_regression else ("classes", "regression")
            )
            raise ConsistencyError(
                f"problem_type or num_labels of the model's config changed after attach, from {was}"
                f" to {now}, of which other predictions are compared; attach after that change"
            )
        self.is_own_loss = own
        if not torch.compiler.is_compiling():
            self._takes_items = takes_items(self._transformer)  # it may be replaced at any time
        several = self._asks_for_several(arguments.get("labels"))
        self._rows = _SEVERAL_LABELS if several else self._by_task

    def has_labels(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a call, by its arguments, makes the model compute its loss."""
        return all(arguments.get(name) is not None for name in self.label_names)

    def without_labels(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the same call without the model's loss."""
        if self.task in MADE_OF_LABELS:  # an encoder-decoder makes its decoder's input of them
            return dict(arguments)
        return {**arguments, **dict.fromkeys(self.label_names)}

    def check_own_labels(self, labels: Tensor | None) -> None:
        """Refuse labels of a loss from outside that do not say what is to be compared.

        Args:
            labels: of the batch, or ``None``.

        Raises:
            ConsistencyError: if they are missing, have another form, or are several of a sequence
                where the model's predictions are one distribution.
        """
        if labels is None and self.task in BY_TOKEN:
            raise ConsistencyError(
                f"the consistency loss of {self.task} models compares labelled tokens, but"
                " own_loss got no labels; use own_loss(labels)"
            )
        if labels is None:
            return
        if self.task == ANSWERS and (labels.dim() != 2 or labels.shape[1] != 2):
            raise ConsistencyError(
                "own_loss of a model that answers questions needs start and end positions of shape"
                f" [batch, 2], got {list(labels.shape)}; use"
                " own_loss(torch.stack([start_positions, end_positions], 1))"
            )
        by_class = self.task in CLASSIFIES and not self.on_representation
        if by_class and _are_independent(labels) and not self._asks_for_several(None):
            raise ConsistencyError(
                "own_loss got several labels of a sequence, but the model's problem_type says that"
                " each has one class; set model.config.problem_type ="
                " 'multi_label_classification', so that each label is compared, or"
                " consistency=None"
            )

    def check(self, output: Any) -> None:
        """Refuse an output without predictions.

        Raises:
            ConsistencyError: if the call returned no such output.
        """
        name = "start_logits" if self.task == ANSWERS else "logits"
        if getattr(output, name, None) is not None:
            return
        if isinstance(output, tuple):
            raise ConsistencyError(
                "the consistency loss is added to the model's output.loss, but this call returned a"
                f" {type(output).__name__}; call the model with return_dict=True"
            )
        raise ConsistencyError(
            f"the consistency loss compares output.{name}, but {type(self._transformer).__name__}"
            f" returned a {type(output).__name__} without it; set consistency=None"
        )

    def check_loss(self, output: Any) -> None:
        """Refuse an output of a trained pass without the loss that another one is added to.

        Raises:
            ConsistencyError: if the model returned none, and the script computes none of its own.
        """
        if self.is_own_loss or getattr(output, "loss", None) is not None:
            return
        raise ConsistencyError(
            "the consistency loss is added to the model's own loss, but"
            f" {type(self._transformer).__name__} returned none for the labels that it was given;"
            " hold the pass by attachment.own_loss(labels), or set consistency=None"
        )

    def rows(
        self,
        output: Any,
        states: Tensor | None,
        arguments: Mapping[str, Any],
        chosen: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | float]:
        """Return the rows to compare, and what each counts for.

        Args:
            output: of a pass.
            states: ``[batch, tokens, features]``, the last layer's output; ``None``: the
                predictions are compared.
            arguments: of the pass, by name.
            chosen: ``[sequences]``, indices of those that take part; ``None``: all.

        Returns:
            ``[rows, classes]``; and ``[rows]``, or one number, such that the sum over rows times
            these, divided by :meth:`units`, is the mean.
        """
        if states is None:
            return self._rows.rows(output, arguments, chosen, is_sum=self.is_sum(arguments))
        states, batch = of(states, chosen), select(arguments, chosen)
        if self.is_token_wise:
            return self._labelled_tokens.labelled(states, batch), 1.0
        return rows_of_states(states, batch)

    def counts(
        self, output: Any, arguments: Mapping[str, Any], starts: Tensor | None = None
    ) -> list[int]:
        """Return how many rows each example has, of :meth:`rows` for all sequences.

        Args:
            output: of the pass.
            arguments: of the pass, by name.
            starts: boolean ``[batch, tokens]``, where examples begin; ``None``: each sequence is
                one.
        """
        return self._rows.counts(output, arguments, starts)

    def at_labels(self, rows: Tensor, output: Any, arguments: Mapping[str, Any]) -> Tensor:
        """Return what each row predicts for its label, ``[rows]``; for soft labels, their mean.

        Args:
            rows: from :meth:`rows`, for all sequences.
            output: of the pass.
            arguments: of the pass, by name, with labels.
        """
        return self._rows.at_labels(rows, output, arguments)

    def known(self, arguments: Mapping[str, Any]) -> Tensor | None:
        """Mark the sequences whose class is given, boolean ``[batch]``.

        The task loss leaves the others out. ``None`` where rows are chosen by their labels anyway,
        or have several.
        """
        return self._rows.known(arguments)

    def has_label(self, output: Any, arguments: Mapping[str, Any]) -> Tensor | None:
        """Whether a pass's own task loss is over anything, a boolean scalar; ``None``: it is.

        A mean over sequences or tokens that all have no label is no number.
        """
        return None if self.is_sum(arguments) else self._rows.has_label(output, arguments)

    def units(self, arguments: Mapping[str, Any]) -> Tensor | int:
        """Return what the sum over rows is divided by."""
        if self.is_sum(arguments):
            return arguments["num_items_in_batch"]  # type: ignore[no-any-return]
        if self.on_representation and not self.is_token_wise:
            return lead(arguments).shape[0]
        return self._rows.units(arguments)

    def is_sum(self, arguments: Mapping[str, Any]) -> bool:
        """Whether the task loss is a sum divided by ``num_items_in_batch``."""
        if arguments.get("num_items_in_batch") is None:
            return False
        if self.is_own_loss:
            return True
        divides = self._hands_items_on and self._takes_items
        if self.task not in CLASSIFIES:
            return divides
        return divides and not (self.is_regression or self._rows is _SEVERAL_LABELS)

    def _asks_for_several(self, labels: Tensor | None) -> bool:
        return self.task in CLASSIFIES and anatomy.is_multi_label(self._transformer, labels)

    def _rows_of_task(self) -> Rows:
        if self.is_token_wise:
            return self._labelled_tokens
        if self.task == ANSWERS:  # an encoder-decoder's decoder has another mask
            return AnswerRows(reads_mask=not anatomy.is_encoder_decoder(self._transformer))
        return SequenceRows()


def _are_independent(labels: Tensor) -> bool:
    """Whether labels ``[batch, classes]`` are no distribution over the classes."""
    if labels.dim() != 2 or labels.shape[1] == 1:
        return False
    return bool(((labels.float().sum(-1) - 1).abs() > 1e-3).any())

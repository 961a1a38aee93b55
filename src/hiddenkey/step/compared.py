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
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiddenkey import anatomy
from hiddenkey.anatomy.code import hands_keywords_on, loss_forwards
from hiddenkey.chunked_loss.sums import IGNORED_LABEL
from hiddenkey.errors import ConsistencyError
from hiddenkey.framework.consistency import Consistency
from hiddenkey.step.arguments import lead, select, visible_tokens
from hiddenkey.step.packed import per_example

_SHIFTED = ("ForCausalLM",)
LANGUAGE = ("ForCausalLM", "ForMaskedLM", "ForConditionalGeneration")
_MADE_OF_LABELS = ("ForConditionalGeneration",)
_BY_TOKEN = (*LANGUAGE, "ForTokenClassification")
_CLASSIFIES = ("ForSequenceClassification", "ForImageClassification")
CHOICES = "ForMultipleChoice"
ANSWERS = "ForQuestionAnswering"
_POSITIONS = ("start_positions", "end_positions")
TASKS = (*_CLASSIFIES, *_BY_TOKEN, ANSWERS, CHOICES)


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
        self.label_names = _POSITIONS if self.task == ANSWERS else ("labels",)
        self.is_regression = anatomy.is_regression(transformer)
        self.is_language = self.task in LANGUAGE
        self.is_token_wise = self.task in _BY_TOKEN
        self.on_representation = consistency.runs_twice and (
            consistency.on == "representation" or (consistency.on == "auto" and self.is_regression)
        )
        self.is_own_loss = self._is_multi_label = False
        self._transformer = transformer
        self._hands_items_on = divides_by_items(transformer)
        self._takes_items = takes_items(transformer)

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
        self._is_multi_label = self._asks_for_several(arguments.get("labels"))

    def has_labels(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a call, by its arguments, makes the model compute its loss."""
        return all(arguments.get(name) is not None for name in self.label_names)

    def without_labels(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the same call without the model's loss."""
        if self.task in _MADE_OF_LABELS:  # an encoder-decoder makes its decoder's input of them
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
        if labels is None and self.task in _BY_TOKEN:
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
        by_class = self.task in _CLASSIFIES and not self.on_representation
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
        batch = select(arguments, chosen)
        if states is None and self.task == ANSWERS:
            return self._positions(output, arguments, batch, chosen)
        predictions: Tensor = _of(output.logits if states is None else states, chosen)
        if self.task in _BY_TOKEN:
            return self._of_labelled_tokens(predictions, batch), 1.0
        if states is not None:
            return _of_visible_tokens(predictions, batch)
        if self._is_multi_label:
            # a softmax over a logit and 0 is the logit's sigmoid
            pairs = torch.stack([predictions, torch.zeros_like(predictions)], -1)
            share = 1.0 if self.is_sum(arguments) else 1 / predictions.shape[1]
            return pairs.flatten(0, 1), share
        return predictions, 1.0

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
        if self.task == ANSWERS:
            return [2] * len(output.start_logits)
        predictions = output.logits
        if self.task in _BY_TOKEN:
            return per_example(self._labelled(arguments, predictions.shape[1]), starts)
        return [predictions.shape[1] if self._is_multi_label else 1] * len(predictions)

    def at_labels(self, rows: Tensor, output: Any, arguments: Mapping[str, Any]) -> Tensor:
        """Return what each row predicts for its label, ``[rows]``; for soft labels, their mean.

        Args:
            rows: from :meth:`rows`, for all sequences.
            output: of the pass.
            arguments: of the pass, by name, with labels.
        """
        if self.task == ANSWERS:
            own = arguments.get("labels")
            given = [arguments[name] for name in _POSITIONS] if own is None else own.unbind(1)
            labels: Tensor = torch.cat([each.flatten() for each in given])
            labels = labels.clamp(0, rows.shape[1] - 1)  # those outside have no share
        elif self.task in _BY_TOKEN:
            labels = self._labels(arguments, output.logits.shape[1])
            labels = labels[labels != IGNORED_LABEL]
        elif self._is_multi_label:
            is_so: Tensor = arguments["labels"].flatten()
            return rows[:, 0] * is_so.to(rows)
        else:
            labels = arguments["labels"]
            if labels.shape == rows.shape and rows.shape[1] > 1:
                return (rows * labels.to(rows)).sum(-1)
            labels = labels.clamp_min(0)  # those without a label are not known to have one
        return rows.gather(-1, labels.to(rows.device).view(-1, 1)).squeeze(-1)

    def known(self, arguments: Mapping[str, Any]) -> Tensor | None:
        """Mark the sequences whose class is given, boolean ``[batch]``.

        The task loss leaves the others out. ``None`` where rows are chosen by their labels anyway,
        or have several.
        """
        labels = arguments.get("labels")
        if self.task not in (*_CLASSIFIES, CHOICES) or self._is_multi_label or labels is None:
            return None
        return None if labels.is_floating_point() else labels.flatten() != IGNORED_LABEL

    def units(self, arguments: Mapping[str, Any]) -> Tensor | int:
        """Return what the sum over rows is divided by."""
        if self.is_sum(arguments):
            return arguments["num_items_in_batch"]  # type: ignore[no-any-return]
        if self.task == ANSWERS and not self.on_representation:
            return 1  # start and end have divisors of their own
        if self.task not in _BY_TOKEN:
            return lead(arguments).shape[0]
        labels = arguments["labels"]
        return self._labelled(arguments, labels.shape[1]).sum().clamp_min(1)

    def is_sum(self, arguments: Mapping[str, Any]) -> bool:
        """Whether the task loss is a sum divided by ``num_items_in_batch``."""
        if arguments.get("num_items_in_batch") is None:
            return False
        if self.is_own_loss:
            return True
        divides = self._hands_items_on and self._takes_items
        if self.task not in _CLASSIFIES:
            return divides
        return divides and not (self.is_regression or self._is_multi_label)

    def _asks_for_several(self, labels: Tensor | None) -> bool:
        return self.task in _CLASSIFIES and anatomy.is_multi_label(self._transformer, labels)

    def _positions(
        self,
        output: Any,
        arguments: Mapping[str, Any],
        batch: Mapping[str, Any],
        chosen: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return distributions over tokens, first for the start of each answer, then for its end.

        As in the task loss, a position outside of the tokens takes no part.
        """
        visible = None
        if not anatomy.is_encoder_decoder(self._transformer):  # whose decoder has another mask
            visible = visible_tokens(batch, _of(output.start_logits, chosen).shape)
        rows, shares = [], []
        for index, logits in enumerate((output.start_logits, output.end_logits)):
            known = self._known_positions(arguments, index, logits)
            count = 1 if self.is_sum(arguments) else known.sum().clamp_min(1)
            shares.append(0.5 * _of(known, chosen) / count)
            logits = _of(logits, chosen)
            if visible is not None:
                logits = logits.masked_fill(~visible, torch.finfo(logits.dtype).min)
            rows.append(logits)
        return torch.cat(rows), torch.cat(shares)

    def _known_positions(self, arguments: Mapping[str, Any], index: int, logits: Tensor) -> Tensor:
        """Mark the sequences whose start (0) or end (1) is one of the tokens, ``[batch]``."""
        own, given = arguments.get("labels"), arguments.get(_POSITIONS[index])
        positions: Tensor | None = given if own is None else own[:, index]
        if positions is None:  # of a loss from outside
            return torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        return positions.to(logits.device).flatten() < logits.shape[1]

    def _of_labelled_tokens(self, predictions: Tensor, batch: Mapping[str, Any]) -> Tensor:
        labels = batch["labels"]
        if labels.dim() != 2 or labels.shape[0] != predictions.shape[0]:
            raise ConsistencyError(
                "the consistency loss compares one prediction for each token, got labels of"
                f" shape {list(labels.shape)} with predictions of {list(predictions.shape)}; set"
                " consistency=None"
            )
        return predictions[self._labelled(batch, predictions.shape[1])]

    def _labelled(self, arguments: Mapping[str, Any], tokens: int) -> Tensor:
        """Mark the positions whose prediction has a label, boolean ``[batch, tokens]``."""
        return self._labels(arguments, tokens) != IGNORED_LABEL

    def _labels(self, arguments: Mapping[str, Any], tokens: int) -> Tensor:
        """Return what each position is to predict, ``[batch, tokens]``; −100 where nothing."""
        labels: Tensor = arguments["labels"]
        if self.task in _SHIFTED:
            given = arguments.get("shift_labels")
            ends = torch.full_like(labels[:, :1], IGNORED_LABEL)
            labels = torch.cat([labels[:, 1:], ends], 1) if given is None else given
        # a prefix of virtual or image tokens has either labels but no logits, or no labels
        return F.pad(
            labels[:, -tokens:], (max(0, tokens - labels.shape[1]), 0), value=IGNORED_LABEL
        )


def divides_by_items(transformer: nn.Module) -> bool:
    """Whether a model's own loss may be a sum divided by ``num_items_in_batch``, if that is given.

    Those that go through transformers' ``loss_function`` and hand their further arguments on. Of
    a classifier it is then so for one class of each sequence alone.
    """
    name = "loss_function"
    return any(
        reached and name in forward.__code__.co_names and hands_keywords_on(forward, name)
        for forward, reached in loss_forwards(transformer)
    )


def takes_items(transformer: nn.Module) -> bool:
    """Whether a model's ``loss_function`` takes ``num_items_in_batch``, as transformers' own do.

    One that a script has put there may be a mean whatever it is handed.
    """
    loss = getattr(transformer, "loss_function", None)
    while isinstance(loss, partial):
        loss = loss.func
    code = getattr(loss, "__code__", None) or getattr(type(loss).__call__, "__code__", None)
    if code is None or (getattr(loss, "__module__", None) or "").startswith("transformers."):
        return True
    names = (*code.co_varnames, *code.co_names, *code.co_consts)
    return "num_items_in_batch" in names


def _of(tensor: Any, chosen: Tensor | None) -> Tensor:
    selected: Tensor = tensor if chosen is None else tensor[chosen]
    return selected


def _of_visible_tokens(states: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return one row for each token; those of a sequence count for one."""
    visible = visible_tokens(batch, states.shape[:2])
    if visible is None:
        visible = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    shares = visible / visible.sum(-1, keepdim=True).clamp_min(1)
    return states.flatten(0, 1), shares.flatten()


def _are_independent(labels: Tensor) -> bool:
    """Whether labels ``[batch, classes]`` are no distribution over the classes."""
    if labels.dim() != 2 or labels.shape[1] == 1:
        return False
    return bool(((labels.float().sum(-1) - 1).abs() > 1e-3).any())

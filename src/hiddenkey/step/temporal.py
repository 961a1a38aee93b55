"""Compares a pass with what the model predicted for the same examples in their last pass.

The prediction of an example's last training pass is a constant, so that a step costs one pass. Of a
language model the most likely classes of each labelled token are kept, and the mass of all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hiddenkey import log
from hiddenkey.anatomy.adapters import Adapters
from hiddenkey.chunked_loss.past import Past
from hiddenkey.chunked_loss.sums import IGNORED_LABEL
from hiddenkey.framework.compensation.kl import bidirectional_kl
from hiddenkey.framework.compensation.temporal import (
    running_mean,
    shortened,
    shortened_mean,
    squared_difference,
)
from hiddenkey.framework.consistency import Consistency
from hiddenkey.step.added_loss import AddedLoss, LanguageModelLoss, Run
from hiddenkey.step.arguments import visible_tokens
from hiddenkey.step.history import History, rows_by_example
from hiddenkey.step.identity import Identities, identities, reading_of
from hiddenkey.step.packed import per_example
from hiddenkey.step.tasks import ANSWERS

_FIRST_VISIT = (
    "temporal consistency: an example's first training pass has no loss; its prediction is kept for"
    " the next one"
)


@dataclass(frozen=True)
class Visit:
    """The examples of one training pass.

    Attributes:
        who: they are.
        chosen: ``[sequences]``, indices of those that are compared; ``None``: all.
        is_due: whether the pass carries the loss.
    """

    who: Identities
    chosen: Tensor | None
    is_due: bool


class TemporalLoss(AddedLoss):
    """The consistency loss with the history of one model's predictions.

    Args:
        consistency: the configured loss.
        transformer: the Hugging Face model.
        lm_loss: how a language model's loss is computed; see :func:`hiddenkey.attach`.
        entry: the module whose call is one pass; ``None``: the transformer.
        adapters: of the model; ``None``: those that are modules in it.

    Attributes:
        history: the predictions.
    """

    def __init__(
        self,
        consistency: Consistency,
        transformer: nn.Module,
        lm_loss: LanguageModelLoss = "auto",
        entry: nn.Module | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        super().__init__(consistency, transformer, lm_loss, entry)
        self._adapters = adapters or Adapters(transformer)
        self._at_attach = set(self._adapters.settings)
        self.history = History(self._adapters.at_work())
        self._reading = reading_of(transformer, by_token=self.compared.is_token_wise)
        self._visit: Visit | None = None
        self._past: tuple[Tensor, Past] | None = None

    @property
    def memory(self) -> str:
        """What one example takes in the store."""
        if self.compared.is_language:
            return f"{8 * self.consistency.top + 4} bytes per labelled token"
        if self.compared.task == ANSWERS:
            return "8 bytes per token"
        classes = int(getattr(self._transformer.config, "num_labels", 1))
        unit = "labelled token" if self.compared.is_token_wise else "example"
        return f"{4 * classes} bytes per {unit}"

    def visit(self, run: Run, arguments: Mapping[str, Any], index: Tensor | None) -> Visit:
        """Recognise the examples of a pass, and count it.

        Args:
            run: calls the model without its hooks.
            arguments: of the trained pass, by name.
            index: the script's own numbers of the examples; ``None``: they are recognised by what
                they hold.

        Raises:
            ConsistencyError: if the batch has no labels, if the numbers do not fit it, or if the
                examples cannot be recognised without.
        """
        self.check_labels(arguments)
        log.once("temporal", _FIRST_VISIT)
        self._verify(run, arguments)
        who = identities(arguments, index, self._reading)
        if (adapters := self._other_adapters()) is not None:
            who = who.under(repr(adapters))
        return Visit(who, self.choose(arguments), self.due())

    def _other_adapters(self) -> tuple[str, ...] | None:
        """Return the adapters at work, whose predictions are another model's; ``None`` otherwise.

        A stored history whose adapters this model never had is that of the one that acts first.
        """
        now, own = self._adapters.at_work(), self.history.adapters
        if now and own and not self._at_attach & {*own}:
            self.history.adapters = own = now
        return None if now == own else now

    def begin(self, arguments: Mapping[str, Any], target: Visit | None) -> None:
        """Prepare the trained pass, which comes next.

        Args:
            arguments: its own, by name.
            target: from :meth:`visit`.
        """
        self._visit = target
        if self._chunked is not None:
            self._chunked.sums = None
            if target is not None and self._may_chunk(arguments):
                self._chunked.begin(self._remember)

    def end(self) -> None:
        """Clear up after the trained pass, however it ended."""
        super().end()
        self._visit = self._past = None

    def after(
        self, output: Any, arguments: Mapping[str, Any], target: Visit | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the trained pass's loss, and the consistency loss in it."""
        task: Tensor | None = getattr(output, "loss", None)
        if target is None:
            return task, None
        if self._chunked is not None:
            parts = self._chunked.finish(output, self._remember)
            if parts is not None:
                assert self._past is not None
                rows, past = self._past
                self.history.write(rows, past.log_q, past.classes)
                self._leave_without_logits(output)
                return parts[0], parts[1] if target.is_due else None
        extra = self._divergence(output, arguments, target)
        if not target.is_due:
            return task, None
        return (None if self.compared.is_own_loss else task + extra), extra  # type: ignore[operator]

    def _divergence(self, output: Any, arguments: Mapping[str, Any], visit: Visit) -> Tensor:
        """Compare the trained pass with the earlier ones, and keep its predictions."""
        compared = self.compared
        compared.check(output)
        compared.check_loss(output)
        rows, shares = compared.rows(output, None, arguments)
        counts = compared.counts(output, arguments, visit.who.starts)
        kept = self._rows(visit, counts, rows.device)
        there = None
        if compared.task == ANSWERS:
            there = self._answer_tokens(arguments, output.start_logits.shape).to(rows.device)
            rows, there = _moved_together(rows, there.repeat(2, 1))
        values = self._distance(rows, kept, there)
        is_compared = _repeated(visit, counts, rows.device)
        if compared.task == ANSWERS:  # first the start of each answer, then all ends
            is_compared = is_compared.view(-1, 2).t().flatten()
        total = torch.where(is_compared, values * shares, 0).sum() / compared.units(arguments)
        return self._scale(arguments, visit.chosen) * total

    def _rows(self, visit: Visit, counts: list[int], device: torch.device) -> Tensor:
        starts = self.history.rows_of(visit.who, counts)
        kept = rows_by_example(starts, counts, device)
        return kept.view(-1, 2).t().flatten() if self.compared.task == ANSWERS else kept

    def _answer_tokens(self, arguments: Mapping[str, Any], shape: torch.Size) -> Tensor:
        """Mark the tokens of each example among those that answers are chosen of.

        An example has as many in any batch, as it has for those who recognise it. A decoder that
        gets no tokens of its own reads the encoder's, one place later.

        Args:
            arguments: of the pass, by name.
            shape: ``[batch, tokens]``.
        """
        side = "decoder_" if isinstance(arguments.get("decoder_input_ids"), Tensor) else ""
        mask, tokens = arguments.get(f"{side}attention_mask"), arguments.get(f"{side}input_ids")
        visible = visible_tokens({**arguments, "attention_mask": mask}, shape)
        if visible is not None:
            return visible
        padding = self._reading.padding
        if padding is not None and isinstance(tokens, Tensor) and tokens.shape == shape:
            return tokens != padding
        return torch.ones(shape, dtype=torch.bool)

    def _distance(self, rows: Tensor, kept: Tensor, there: Tensor | None) -> Tensor:
        """Return the divergence of each row, 0 where nothing was kept, and keep the rows.

        Args:
            rows: ``[rows, classes]`` of the present pass.
            kept: ``[rows]``, where the history has them.
            there: boolean ``[rows, classes]``, which of the classes a row has; ``None``: all.
        """
        if self.compared.is_regression:
            earlier, _ = self.history.read(kept, rows)
            is_seen = torch.isfinite(earlier).all(-1, keepdim=True)
            distance = squared_difference(rows, torch.where(is_seen, earlier, rows.detach()))
            self.history.write(kept, self._mean(earlier, rows.detach(), is_seen, linear=True))
            return torch.where(is_seen.squeeze(-1), distance, 0)
        if there is not None:
            rows = _among(rows, there)
        log_p = torch.log_softmax(rows, -1, dtype=torch.promote_types(rows.dtype, torch.float32))
        if self._shortens(rows.shape[1]):
            return self._distance_of_the_top(log_p, kept)
        earlier, _ = self.history.read(kept, log_p)
        # what is unknown of one prediction must not count in the other: all mass would be there
        known, now = torch.isfinite(earlier), log_p.detach()
        if there is not None:
            known, now = known & there, now.masked_fill(~there, torch.nan)
        distance = bidirectional_kl(_among(rows, known), _among(earlier, known))
        self.history.write(kept, self._mean(earlier, now, known))
        return torch.where(known.any(-1), distance, 0)

    def _distance_of_the_top(self, log_p: Tensor, kept: Tensor) -> Tensor:
        top, momentum = self.consistency.top, self.consistency.momentum
        earlier, known = self.history.read(kept, log_p[:, : top + 1], top)
        assert known is not None
        is_seen = torch.isfinite(earlier).all(-1, keepdim=True)
        present = shortened(log_p, known)
        following = shortened_mean(earlier, known, log_p.detach(), is_seen, top, momentum)
        self.history.write(kept, *following)
        distance = bidirectional_kl(present, torch.where(is_seen, earlier, present.detach()))
        return torch.where(is_seen.squeeze(-1), distance, 0)

    def _shortens(self, classes: int) -> bool:
        return self.compared.is_language and classes > self.consistency.top + 1

    def _mean(
        self, earlier: Tensor, now: Tensor, is_seen: Tensor, *, linear: bool = False
    ) -> Tensor:
        """Return the running mean, which begins with the first prediction."""
        momentum = self.consistency.momentum
        mean = (
            momentum * earlier + (1 - momentum) * now
            if linear
            else running_mean(earlier, now, momentum)
        )
        return torch.where(is_seen, mean, now)

    def _remember(self, labels: Tensor) -> Past:
        """Find what is kept of the labelled tokens of the pass at work."""
        visit = self._visit
        assert visit is not None
        assert self._chunked is not None
        counts = per_example(labels != IGNORED_LABEL, visit.who.starts)
        rows = self._rows(visit, counts, labels.device)
        top = min(self.consistency.top, self._chunked.vocabulary - 1)
        like = torch.empty(len(rows), top + 1, device=labels.device)
        log_q, classes = self.history.read(rows, like, top)
        assert classes is not None
        factor = self.consistency.weight * self.consistency.every
        if visit.chosen is not None:  # the chosen sequences stand for the whole batch
            factor *= len(labels) / len(visit.chosen)
        is_compared = _repeated(visit, counts, labels.device)[:, None]
        past = Past(
            log_q,
            classes,
            is_compared,
            factor if visit.is_due else 0.0,
            self.consistency.momentum,
        )
        self._past = rows, past
        return past


def _repeated(visit: Visit, counts: list[int], device: torch.device) -> Tensor:
    """Mark the units of the sequences that are compared, ``[units]``."""
    starts, numbers = visit.who.starts, torch.tensor(counts, device=device)
    sequences = len(counts) if starts is None else len(starts)
    taken = torch.full((sequences,), visit.chosen is None, device=device)
    if visit.chosen is not None:
        taken[visit.chosen.to(device)] = True
    if starts is not None:
        taken = taken.repeat_interleave(starts.sum(1).to(device))
    return taken.repeat_interleave(numbers)


def _among(logits: Tensor, known: Tensor) -> Tensor:
    """Return logits ``[rows, classes]`` that leave no mass outside of some classes."""
    return logits.masked_fill(~known, torch.finfo(logits.dtype).min)


def _moved_together(rows: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Move what is visible to the first columns, in its order; and say which columns these are.

    So a row is the same whatever its batch is padded to, and on whichever side.

    Args:
        rows: ``[rows, tokens]``.
        visible: boolean ``[rows, tokens]``.
    """
    order = (~visible).to(torch.uint8).argsort(dim=-1, stable=True)
    return rows.gather(-1, order), visible.gather(-1, order)

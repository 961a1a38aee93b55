"""Runs the second forward pass over a batch and compares it with the first.

The second one runs before the trained one, without gradient by default, and only the rows that the
loss compares are kept of it: its activations are gone before the trained pass starts. A language
model's rows are hidden states, and its loss is computed without its logits in full
(:mod:`hiddenkey.chunked_loss.passes`), wherever the model allows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hiddenkey.chunked_loss.passes import SecondStates
from hiddenkey.errors import ConsistencyError
from hiddenkey.framework.compensation import AGAINST_INFERENCE, CONSISTENCIES
from hiddenkey.framework.consistency import Consistency
from hiddenkey.step import caches
from hiddenkey.step.added_loss import AddedLoss, LanguageModelLoss, Run, inference_mode
from hiddenkey.step.arguments import lead, select


@dataclass(frozen=True)
class SecondPass:
    """What is kept of the second forward pass.

    Attributes:
        rows: ``[rows, classes]``, the logits or representations to compare with.
        task_loss: its task loss, where gradient flows through both passes.
        chosen: ``[sequences]``, indices of the sequences that took part; ``None`` means all.
        counts: whether the task loss is over anything, a boolean scalar; ``None``: it is.
    """

    rows: Tensor
    task_loss: Tensor | None
    chosen: Tensor | None
    counts: Tensor | None = None


class TwoPassLoss(AddedLoss):
    """The consistency loss between two passes of one model.

    Args:
        consistency: the configured loss.
        transformer: the Hugging Face model.
        last_layer: its last layer, where the loss may work on the representation.
        lm_loss: how a language model's loss is computed; see :func:`hiddenkey.attach`.
        entry: the module whose call is one pass; ``None``: the transformer.
    """

    def __init__(
        self,
        consistency: Consistency,
        transformer: nn.Module,
        last_layer: nn.Module,
        lm_loss: LanguageModelLoss = "auto",
        entry: nn.Module | None = None,
    ) -> None:
        super().__init__(consistency, transformer, lm_loss, entry)
        self._loss = CONSISTENCIES[consistency.kind]
        self._between_passes = False
        self._representation: Tensor | None = None
        self._handle = (
            last_layer.register_forward_hook(self._keep)
            if self.compared.on_representation
            else None
        )

    def remove(self) -> None:
        """Take the hooks off the model."""
        super().remove()
        if self._handle is not None:
            self._handle.remove()

    def check_own_loss(self, labels: Tensor | None) -> None:
        """Refuse a task loss from outside that the consistency loss cannot be added to.

        Args:
            labels: of the batch, or ``None``.

        Raises:
            ConsistencyError: if it is to be averaged over both passes, or if the labels do not say
                what is to be compared.
        """
        if self.consistency.backward == "both":
            raise ConsistencyError(
                "consistency.backward='both' averages the task loss over both passes, but own_loss"
                " (label smoothing, compute_loss_func) computes it of one; use backward='one'"
            )
        super().check_own_loss(labels)

    def before(
        self, run: Run, arguments: Mapping[str, Any], chosen: Tensor | None
    ) -> SecondPass | SecondStates:
        """Run the second forward pass.

        Args:
            run: calls the model without its hooks.
            arguments: of the trained pass, by name.
            chosen: from :meth:`choose`.

        Raises:
            ConsistencyError: if the batch has no labels, so that there is no task loss to add to.
        """
        self.check_labels(arguments)
        batch = select(arguments, chosen)
        if self._chunked is not None and self._may_chunk(arguments):
            device = lead(arguments).device
            second = self._chunked.before(
                lambda: self._run_second(run, batch, chosen), device, chosen
            )
            if second is not None:
                return second
            self._refuse_full()
        self._between_passes = True
        needs_loss = self.consistency.backward == "both"
        given = batch if needs_loss else self.compared.without_labels(batch)
        output = self._run_second(run, given, chosen)
        rows, _ = self.compared.rows(output, self._take_states(), batch)
        if not needs_loss:
            return SecondPass(rows, None, chosen)
        # only of some sequences can it be that no label counts: else the trained pass has none
        counts = None if chosen is None else self.compared.has_label(output, batch)
        return SecondPass(rows, self._task_share(output.loss, arguments, chosen), chosen, counts)

    def _run_second(self, run: Run, batch: Mapping[str, Any], chosen: Tensor | None) -> Any:
        if (name := caches.given(batch)) is not None:  # the trained pass takes it as it is
            batch = {**batch, name: caches.copied(batch[name], chosen)}
        gradient = nullcontext() if self.consistency.backward == "both" else torch.no_grad()
        with gradient, self._second_precision(batch):
            if self.consistency.kind in AGAINST_INFERENCE:
                with inference_mode(self._entry):
                    output = run(batch)
            else:
                output = run(batch)
        self.compared.check(output)
        return output

    def _second_precision(self, batch: Mapping[str, Any]) -> AbstractContextManager[Any]:
        if self.consistency.precision == "same":
            return nullcontext()
        # autocast's cache does not distinguish the types of several autocasts
        device = lead(batch).device.type
        return torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False)

    def _task_share(
        self, loss: Tensor | None, arguments: Mapping[str, Any], chosen: Tensor | None
    ) -> Tensor | None:
        """Return the second pass's task loss, as if it had been over the whole batch."""
        if loss is None or chosen is None or not self.compared.is_sum(arguments):
            return loss
        return loss * (lead(arguments).shape[0] / chosen.shape[0])

    def begin(self, arguments: Mapping[str, Any], target: SecondPass | SecondStates | None) -> None:
        """Prepare the trained pass, which comes next.

        Args:
            arguments: its own, by name.
            target: from :meth:`before`; ``None`` in a pass that is not :meth:`due`.
        """
        if self._chunked is None:
            return
        self._chunked.sums = None
        if not isinstance(target, SecondPass) and self._may_chunk(arguments):
            self._chunked.begin(target)

    def end(self) -> None:
        """Clear up after the trained pass, however it ended."""
        self._between_passes = False
        super().end()

    def after(
        self,
        output: Any,
        arguments: Mapping[str, Any],
        target: SecondPass | SecondStates | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the trained pass's loss, and the consistency loss in it."""
        if self._chunked is not None and not isinstance(target, SecondPass):
            parts = self._chunked.finish(output, target)
            if parts is not None:
                self._leave_without_logits(output)
                return parts
        task: Tensor | None = getattr(output, "loss", None)
        if not isinstance(target, SecondPass):
            return task, None
        if self.compared.is_own_loss:
            return None, self._divergence(output, arguments, target)
        extra = self._divergence(output, arguments, target)
        assert task is not None  # which was checked with the output
        if target.task_loss is not None:
            plain = self.consistency.kind == "mixture"  # the second pass was without noise
            second = target.task_loss
            if target.counts is not None:
                second = torch.where(target.counts, second, task)
            task = second if plain else (task + second) / 2
        return task + extra, extra

    def _divergence(self, output: Any, arguments: Mapping[str, Any], second: SecondPass) -> Tensor:
        """Compare the trained pass with the second one."""
        compared = self.compared
        compared.check(output)
        compared.check_loss(output)
        rows, shares = compared.rows(output, self._take_states(), arguments, second.chosen)
        divergence = (self._loss(rows, second.rows) * shares).sum() / compared.units(arguments)
        return self._scale(arguments, second.chosen) * divergence

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._between_passes:  # otherwise nobody would take it, and its graph would stay
            self._representation = output[0] if isinstance(output, tuple) else output

    def _take_states(self) -> Tensor | None:
        """Return the last layer's output where that is compared."""
        states, self._representation = self._representation, None
        assert (states is not None) is self.compared.on_representation
        return states

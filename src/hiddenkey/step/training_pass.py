"""One training step, in the order of arXiv 2403.00812: two forward passes, compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hiddenkey.chunked_loss.passes import SecondStates
from hiddenkey.step import caches
from hiddenkey.step.added_loss import AddedLoss
from hiddenkey.step.arguments import select
from hiddenkey.step.consistency import SecondPass, TwoPassLoss
from hiddenkey.step.guards import TrainedLoss, is_backward, refuse_repeated
from hiddenkey.step.outputs import put
from hiddenkey.step.own_loss import OwnLoss
from hiddenkey.step.shared_layers import SharedLayers
from hiddenkey.step.smoothing import SmoothingLoss
from hiddenkey.step.temporal import TemporalLoss, Visit

if TYPE_CHECKING:
    from hiddenkey.step.hooks import StepHooks


class TrainingPass:
    """What belongs to one call of an attached model: made when it begins, dropped when it ends.

    A training step is :meth:`begin`, the model's own call, :meth:`finish`:

    1. draw: the masks come from this process's own random numbers, at the rates in force;
    2. second forward pass: other masks, without gradient by default (``begin``); or, with a loss
       that needs one pass, the examples' earlier predictions are found;
    3. first forward pass: the model's own call, with gradient;
    4. compare: the divergence between the two predictions (``finish``);
    5. add: the divergence, weighted, to the task loss;
    6. count: both parts of the loss, and what was dropped.

    Args:
        step: the hooks, which hold what survives between passes.
        arguments: of the model's call, by name.
        own: the task loss that the script computes of this pass; ``None`` if the model does.
        index: the script's own numbers of the batch's examples, if it gives them.

    Attributes:
        states: ``[batch, tokens, features]``, the last layer's output with gradient.
        is_repeated: whether a backward pass runs the call again, which counted when it ran first.
    """

    def __init__(
        self,
        step: StepHooks,
        arguments: Mapping[str, Any],
        own: OwnLoss | None,
        index: Tensor | None = None,
    ) -> None:
        self.step = step
        self.own = own
        self._index = index
        self._given = arguments
        self.arguments = dict(arguments) if own is None else own.complete(arguments)
        self.target: SecondPass | SecondStates | Visit | bool | None = None
        self.states: Tensor | None = None
        self.is_repeated = is_backward()

    def begin(self) -> None:
        """Draw, and run the second forward pass."""
        step, loss = self.step, self.step.consistency
        step.random_numbers.begin()
        step.rates.act(step.rates.current)
        if loss is not None and torch.is_grad_enabled():
            self._check_order(loss)
            loss.check_call(self.arguments)
            loss.compared.begin(self._given, own=self.own is not None)
            self.target = self._find_target(loss)
            loss.begin(self.arguments, self.target)
        step.visible.see(self.arguments)  # what the first forward pass sees

    def finish(self, output: Any) -> None:
        """Compare, add and count, after the first forward pass.

        Args:
            output: of the model's call; its loss is replaced by the sum.
        """
        loss, meter = self.step.consistency, self.step.meter
        if loss is None:
            if self.own is not None:
                self.own.receive(None)
            elif not self.is_repeated:
                meter.add(getattr(output, "loss", None), None)
            return
        total, extra = loss.after(output, self.arguments, self.target)
        if self.own is not None:  # its `total` adds and counts
            self.own.receive(extra)
            return
        if total is not None and total is not output.loss:
            put(output, "loss", total)
        if self.is_repeated:
            return
        task = total if total is None or extra is None else total.detach() - extra.detach()
        meter.add(task, extra)
        predictions = getattr(output, "logits", getattr(output, "start_logits", None))
        self.step.trained = _trained(extra, (predictions, self.states))

    def _check_order(self, loss: AddedLoss) -> None:
        """Look back at the pass before, unless this one is a pass that ran before."""
        if self.is_repeated:
            refuse_repeated(loss.consistency)
            loss.passes -= 1  # it is counted again
        elif self.step.trained is not None:
            self.step.trained.check()

    def _find_target(self, loss: AddedLoss) -> SecondPass | SecondStates | Visit | bool | None:
        """Return what the first forward pass is compared with; ``None`` in a pass without."""
        if isinstance(loss, TemporalLoss):
            return loss.visit(self._run, self.arguments, self._index)
        if isinstance(loss, SmoothingLoss):
            return loss.prepare(self._run, self.arguments)
        assert isinstance(loss, TwoPassLoss)
        return self._run_second(loss) if loss.due() else None

    def _run_second(self, loss: TwoPassLoss) -> SecondPass | SecondStates:
        """Run the second forward pass; the layers below the first noisy one run once for both."""
        chosen = loss.choose(self.arguments)
        shared = self.step.shared
        # layers that run once for both passes would have to move their running statistics
        moves = self.step.statistics is not None
        if shared is None or moves or not shared.run(self._run, self.arguments):
            return self._run_whole(loss, chosen)
        if shared.is_trusted is None:
            with torch.no_grad():
                shared.compare(
                    lambda: self._run_upper(loss, chosen, shared).rows,
                    lambda: self._run_whole(loss, chosen).rows,
                )
            loss.end()
        if not shared.is_trusted:
            shared.release()
            self.step.shared = None
            return self._run_whole(loss, chosen)
        second = self._run_upper(loss, chosen, shared)
        shared.give(None, once_more=False)  # to the first forward pass
        return second

    def _run_upper(
        self, loss: TwoPassLoss, chosen: Tensor | None, shared: SharedLayers
    ) -> SecondPass | SecondStates:
        shared.give(chosen, once_more=True)
        return self._run_whole(loss, chosen)

    def _run_whole(self, loss: TwoPassLoss, chosen: Tensor | None) -> SecondPass | SecondStates:
        self.step.visible.see(select(self.arguments, chosen))
        return loss.before(self._run, self.arguments, chosen)

    def _run(self, arguments: Mapping[str, Any]) -> Any:
        """Call the model once more, past its own hooks, where these are installed."""
        if self.own is not None:
            arguments = self.own.reduce(arguments)
        statistics = self.step.statistics
        with nullcontext() if statistics is None else statistics.left_alone():
            return self.step.entry.forward(**caches.renamed(arguments, self.step.parameters))


def _trained(extra: Tensor | None, others: Iterable[Any]) -> TrainedLoss | None:
    """Watch a pass whose consistency loss can be back-propagated; ``None`` for others."""
    if torch.compiler.is_compiling() or extra is None or not extra.requires_grad:
        return None
    known = [each for each in others if isinstance(each, Tensor) and each.requires_grad]
    return TrainedLoss(extra, known) if known else None

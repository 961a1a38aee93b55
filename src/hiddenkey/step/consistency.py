"""Runs the second forward pass over a batch and compares it with the first.

The second one runs before the trained one, without gradient by default, and only the rows that the
loss compares are kept of it: its activations are gone before the trained pass starts. A language
model's rows are hidden states, and its loss is computed without its logits in full
(:mod:`hiddenkey.chunked_loss.passes`), wherever the model allows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hiddenkey import anatomy
from hiddenkey.chunked_loss import capture
from hiddenkey.chunked_loss.passes import ChunkedPasses, SecondStates
from hiddenkey.chunked_loss.sums import KINDS, Sums
from hiddenkey.errors import ConsistencyError
from hiddenkey.framework.compensation import AGAINST_INFERENCE, CONSISTENCIES
from hiddenkey.framework.config import Consistency
from hiddenkey.step import caches
from hiddenkey.step.arguments import lead, select
from hiddenkey.step.compared import ComparedRows

LanguageModelLoss = Literal["auto", "chunked", "full"]
# Below this many classes logits are no larger than the hidden states of a few layers.
LARGE_VOCABULARY = 8192

Run = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class SecondPass:
    """What is kept of the second forward pass.

    Attributes:
        rows: ``[rows, classes]``, the logits or representations to compare with.
        task_loss: its task loss, where gradient flows through both passes.
        chosen: ``[sequences]``, indices of the sequences that took part; ``None`` means all.
    """

    rows: Tensor
    task_loss: Tensor | None
    chosen: Tensor | None


class ConsistencyLoss:
    """The consistency loss of one model.

    Args:
        consistency: the configured loss.
        transformer: the Hugging Face model.
        last_layer: its last layer, where the loss may work on the representation.
        lm_loss: how a language model's loss is computed; see :func:`hiddenkey.attach`.
        entry: the module whose call is one pass; ``None``: the transformer.

    Attributes:
        consistency: the configured loss.
        compared: what it compares of each pass.
    """

    def __init__(
        self,
        consistency: Consistency,
        transformer: nn.Module,
        last_layer: nn.Module,
        lm_loss: LanguageModelLoss = "auto",
        entry: nn.Module | None = None,
    ) -> None:
        self.consistency = consistency
        # a tensor: a number that changes would make torch.compile compile each step anew
        self._passes = torch.tensor(0, device="cpu")
        self._loss = CONSISTENCIES[consistency.kind]
        self._transformer = transformer
        self._entry = transformer if entry is None else entry
        self.compared = ComparedRows(consistency, transformer)
        self._must_chunk = lm_loss == "chunked"
        self._chunked: ChunkedPasses | None = None
        if self._must_chunk or (lm_loss == "auto" and should_chunk(consistency, transformer)):
            self._chunked = ChunkedPasses(transformer, consistency)
        self._between_passes = False
        self._representation: Tensor | None = None
        self._handle = (
            last_layer.register_forward_hook(self._keep)
            if self.compared.on_representation
            else None
        )

    def remove(self) -> None:
        """Take the hooks off the model."""
        if self._handle is not None:
            self._handle.remove()
        if self._chunked is not None:
            self._chunked.remove()

    @property
    def is_chunked(self) -> bool:
        """Whether a language model's loss is computed without its logits in full."""
        return self._chunked is not None and self._chunked.refusal is None

    @property
    def lm_sums(self) -> Sums | None:
        """Sums over the labelled tokens of the last pass, if its loss was computed so."""
        return None if self._chunked is None else self._chunked.sums

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
        self.compared.check_own_labels(labels)

    def check_call(self, arguments: Mapping[str, Any]) -> None:
        """Refuse a call whose caller does not train on the model's own loss.

        Args:
            arguments: of the call, by name.

        Raises:
            ConsistencyError: if the call is one of TRL's trainers, which read hidden states.
        """
        if arguments.get("fused_lm_head"):
            raise ConsistencyError(
                "a consistency loss is configured, but TRL's trainers do not train on the"
                " model's own loss, where it is added; with SFTTrainer call"
                " hiddenkey.integrations.trainer.watch(trainer, attachment); DPO, KTO, GRPO and"
                " RLOO need deterministic log-probabilities: set consistency=None"
            )

    def due(self) -> bool:
        """Count one training pass, and say whether it carries the loss."""
        self._passes = self._passes + 1
        return self.consistency.every == 1 or (self.passes - 1) % self.consistency.every == 0

    @property
    def passes(self) -> int:
        """Training passes so far; ``every`` picks by it which of them carry the loss."""
        return int(self._passes)

    @passes.setter
    def passes(self, passes: int) -> None:
        self._passes = torch.tensor(passes, device="cpu")

    def choose(self, arguments: Mapping[str, Any]) -> Tensor | None:
        """Draw the sequences that take part: round(fraction · batch) of them, at least one."""
        if self.consistency.fraction == 1:
            return None
        first = lead(arguments)
        count = max(1, round(self.consistency.fraction * first.shape[0]))
        return torch.randperm(first.shape[0], device=first.device)[:count]

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
        if not self.compared.has_labels(arguments) and not self.compared.is_own_loss:
            wanted = " and ".join(self.compared.label_names)
            raise ConsistencyError(
                "the consistency loss is added to the model's own loss, but this training pass got"
                f" no {wanted}; pass {wanted} to the model or, for a loss of your own, hold the"
                " pass by attachment.own_loss (hiddenkey.integrations.trainer.watch does so for"
                " label smoothing and compute_loss_func), or set consistency=None, as with trainers"
                " that need deterministic log-probabilities (DPO, KTO, GRPO)"
            )
        batch = select(arguments, chosen)
        if self._chunked is not None and self._may_chunk(arguments):
            device = lead(arguments).device
            second = self._chunked.before(
                lambda: self._run_second(run, batch, chosen), device, chosen
            )
            if second is not None:
                return second
            if self._must_chunk:
                raise ConsistencyError(
                    "lm_loss='chunked' computes the loss from what reaches the model's head, but of"
                    f" {type(self._transformer).__name__} {self._chunked.refusal}; use 'auto'"
                )
        self._between_passes = True
        needs_loss = self.consistency.backward == "both"
        given = batch if needs_loss else self.compared.without_labels(batch)
        output = self._run_second(run, given, chosen)
        rows, _ = self.compared.rows(output, self._take_states(), batch)
        loss = output.loss if needs_loss else None
        return SecondPass(rows, self._task_share(loss, arguments, chosen), chosen)

    def _run_second(self, run: Run, batch: Mapping[str, Any], chosen: Tensor | None) -> Any:
        if (name := caches.given(batch)) is not None:  # the trained pass takes it as it is
            batch = {**batch, name: caches.copied(batch[name], chosen)}
        gradient = nullcontext() if self.consistency.backward == "both" else torch.no_grad()
        with gradient, self._second_precision(batch):
            if self.consistency.kind in AGAINST_INFERENCE:
                with _inference_mode(self._entry):
                    output = run(batch)
            else:
                output = run(batch)
        self.compared.check(output)
        return output

    def _second_precision(self, batch: Mapping[str, Any]) -> AbstractContextManager[Any]:
        if self.consistency.precision == "same":
            return nullcontext()
        return torch.autocast(lead(batch).device.type, dtype=torch.bfloat16)

    def _task_share(
        self, loss: Tensor | None, arguments: Mapping[str, Any], chosen: Tensor | None
    ) -> Tensor | None:
        """Return the second pass's task loss, as if it had been over the whole batch."""
        if loss is None or chosen is None or not self.compared.is_sum(arguments):
            return loss
        return loss * (lead(arguments).shape[0] / chosen.shape[0])

    def begin(self, arguments: Mapping[str, Any], second: SecondPass | SecondStates | None) -> None:
        """Prepare the trained pass, which comes next.

        Args:
            arguments: its own, by name.
            second: from :meth:`before`; ``None`` in a pass that is not :meth:`due`.
        """
        if self._chunked is None:
            return
        self._chunked.sums = None
        if not isinstance(second, SecondPass) and self._may_chunk(arguments):
            self._chunked.begin(second)

    def _may_chunk(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a pass can go without logits; a loss of the script's own needs them."""
        chunked = None if self.compared.is_own_loss else self._chunked
        return chunked is not None and chunked.serves(arguments)

    def end(self) -> None:
        """Clear up after the trained pass, however it ended."""
        self._between_passes = False
        if self._chunked is not None:
            self._chunked.end()

    def after(
        self,
        output: Any,
        arguments: Mapping[str, Any],
        second: SecondPass | SecondStates | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the trained pass's loss, and the consistency loss in it.

        The consistency loss is the mean over sequences, or over labelled tokens for token-wise
        tasks; divided by ``num_items_in_batch`` where the model's own loss is. It is scaled by
        ``weight`` and ``every``, and ``None`` in a pass that is not :meth:`due`. Where the loss was
        computed without logits, ``output.logits`` becomes ``None``.
        """
        if self._chunked is not None and not isinstance(second, SecondPass):
            parts = self._chunked.finish(output, second)
            if parts is not None:
                output["logits"] = None
                return parts
        task: Tensor | None = getattr(output, "loss", None)
        if not isinstance(second, SecondPass):
            return task, None
        if self.compared.is_own_loss:
            return None, self._divergence(output, arguments, second)
        assert task is not None  # labels were given, and the second pass returned one
        extra = self._divergence(output, arguments, second)
        if second.task_loss is not None:
            plain = self.consistency.kind == "mixture"  # the second pass was without noise
            task = second.task_loss if plain else (task + second.task_loss) / 2
        return task + extra, extra

    def _divergence(self, output: Any, arguments: Mapping[str, Any], second: SecondPass) -> Tensor:
        """Compare the trained pass with the second one."""
        compared = self.compared
        compared.check(output)
        rows, shares = compared.rows(output, self._take_states(), arguments, second.chosen)
        divergence = (self._loss(rows, second.rows) * shares).sum() / compared.units(arguments)
        if second.chosen is not None:  # the chosen sequences stand for the whole batch
            divergence = divergence * (lead(arguments).shape[0] / second.chosen.shape[0])
        return self.consistency.weight * self.consistency.every * divergence

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._between_passes:  # otherwise nobody would take it, and its graph would stay
            self._representation = output[0] if isinstance(output, tuple) else output

    def _take_states(self) -> Tensor | None:
        """Return the last layer's output where that is compared."""
        states, self._representation = self._representation, None
        assert (states is not None) is self.compared.on_representation
        return states


def should_chunk(consistency: Consistency, transformer: nn.Module) -> bool:
    """Whether a language model's loss pays, and works, without its logits in full."""
    if chunked_refusal(consistency, transformer) is not None:
        return False
    return int(getattr(anatomy.text_config(transformer), "vocab_size", 0)) >= LARGE_VOCABULARY


def chunked_refusal(consistency: Consistency, transformer: nn.Module) -> str | None:
    """Say why a loss cannot be computed without a model's logits in full; ``None`` if it may."""
    if consistency.on == "representation":
        return "consistency.on='representation' compares no logits"
    if consistency.kind not in KINDS:
        return f"consistency.kind={consistency.kind!r} is computed from logits in full"
    return capture.refusal(transformer)


@contextmanager
def _inference_mode(entry: nn.Module) -> Iterator[None]:
    training = [module for module in entry.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True

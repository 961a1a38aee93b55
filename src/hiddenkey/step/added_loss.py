"""What all losses have in common that are added to the task loss of a training pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hiddenkey import anatomy, log
from hiddenkey.chunked_loss import capture
from hiddenkey.chunked_loss.passes import ChunkedPasses
from hiddenkey.chunked_loss.sums import CHUNKED_KINDS, Sums
from hiddenkey.errors import ConsistencyError
from hiddenkey.framework.consistency import Consistency
from hiddenkey.step import caches
from hiddenkey.step.arguments import lead
from hiddenkey.step.compared import ComparedRows
from hiddenkey.step.outputs import put

LanguageModelLoss = Literal["auto", "chunked", "full"]
# Below this many classes logits are no larger than the hidden states of a few layers.
LARGE_VOCABULARY = 8192

_NO_LOGITS = (
    "training passes compute the loss without logits, so that output.logits is None in them; where"
    " a script reads them, as distillation does, attach with lm_loss='full'"
)

Run = Callable[[Mapping[str, Any]], Any]


class AddedLoss(ABC):
    """A loss that is added to one model's task loss.

    Args:
        consistency: the configured loss.
        transformer: the Hugging Face model.
        lm_loss: how a language model's loss is computed; see :func:`hiddenkey.attach`.
        entry: the module whose call is one pass; ``None``: the transformer.

    Attributes:
        consistency: the configured loss.
        compared: what it compares of a pass.
    """

    def __init__(
        self,
        consistency: Consistency,
        transformer: nn.Module,
        lm_loss: LanguageModelLoss = "auto",
        entry: nn.Module | None = None,
    ) -> None:
        self.consistency = consistency
        # a tensor: a number that changes would make torch.compile compile each step anew
        self._passes = torch.tensor(0, device="cpu")
        self._transformer = transformer
        self._entry = transformer if entry is None else entry
        self.compared = ComparedRows(consistency, transformer)
        self._must_chunk = lm_loss == "chunked"
        self._chunked: ChunkedPasses | None = None
        if self._must_chunk or (lm_loss == "auto" and should_chunk(consistency, transformer)):
            self._chunked = ChunkedPasses(transformer, consistency)

    @abstractmethod
    def begin(self, arguments: Mapping[str, Any], target: Any) -> None:
        """Prepare the trained pass, which comes next.

        Args:
            arguments: its own, by name.
            target: what its prediction is compared with; ``None`` without.
        """

    @abstractmethod
    def after(
        self, output: Any, arguments: Mapping[str, Any], target: Any
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the trained pass's loss, and the added loss in it.

        The added loss is the mean over sequences, or over labelled tokens for token-wise tasks;
        divided by ``num_items_in_batch`` where the model's own loss is. It is scaled by ``weight``
        and ``every``, and ``None`` in a pass that is not :meth:`due`. Where the loss was computed
        without logits, ``output.logits`` becomes ``None``.
        """

    def end(self) -> None:
        """Clear up after the trained pass, however it ended."""
        if self._chunked is not None:
            self._chunked.end()

    def remove(self) -> None:
        """Take the hooks off the model."""
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
        """Refuse a task loss from outside that the added loss does not fit.

        Args:
            labels: of the batch, or ``None``.

        Raises:
            ConsistencyError: if the labels do not say what is to be compared.
        """
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

    def check_labels(self, arguments: Mapping[str, Any]) -> None:
        """Refuse a pass without a task loss.

        Args:
            arguments: of the call, by name.

        Raises:
            ConsistencyError: if the batch has no labels, so that there is no task loss to add to.
        """
        if self.compared.has_labels(arguments) or self.compared.is_own_loss:
            return
        wanted = " and ".join(self.compared.label_names)
        raise ConsistencyError(
            "the consistency loss is added to the model's own loss, but this training pass got"
            f" no {wanted}; pass {wanted} to the model or, for a loss of your own, hold the"
            " pass by attachment.own_loss (hiddenkey.integrations.trainer.watch does so for"
            " label smoothing and compute_loss_func; a callback has the attachment), or set"
            " consistency=None, as hiddenkey-minus does, and as with trainers that need"
            " deterministic log-probabilities (DPO, KTO, GRPO)"
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
        """Draw the sequences that take part: round(fraction · batch) of them, at least one.

        Returns:
            Their indices, int64 ``[sequences]``; ``None``: all.
        """
        if self.consistency.fraction == 1:
            return None
        first = lead(arguments)
        count = max(1, round(self.consistency.fraction * first.shape[0]))
        return torch.randperm(first.shape[0], device=first.device)[:count]

    def _leave_without_logits(self, output: Any) -> None:
        """Take out of an output what was not computed, and say so before a script asks for it."""
        put(output, "logits", None)
        if not torch.compiler.is_compiling():
            log.once("logits", _NO_LOGITS)

    def _may_chunk(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a pass can go without logits; a loss of the script's own needs them."""
        chunked = None if self.compared.is_own_loss else self._chunked
        if chunked is None:
            return False
        serves = chunked.serves(arguments)
        self._refuse_full()
        return serves

    def _verify(self, run: Run, arguments: Mapping[str, Any]) -> None:
        """Find out, where no second pass does, whether the model can go without its logits."""
        if self._chunked is not None and self._may_chunk(arguments):
            if (name := caches.given(arguments)) is not None:  # the trained pass takes it as it is
                arguments = {**arguments, name: caches.copied(arguments[name])}
            with torch.no_grad(), inference_mode(self._entry):
                self._chunked.verify(lambda: run(arguments))
            self._refuse_full()

    def _refuse_full(self) -> None:
        """Refuse logits in full where they were ruled out."""
        if self._must_chunk and self._chunked is not None and self._chunked.refusal is not None:
            raise ConsistencyError(
                "lm_loss='chunked' computes the loss from what reaches the model's head, but of"
                f" {type(self._transformer).__name__} {self._chunked.refusal}; use 'auto'"
            )

    def _scale(self, arguments: Mapping[str, Any], chosen: Tensor | None) -> float:
        """Return the factor of a mean; the chosen sequences stand for the whole batch."""
        scale = self.consistency.weight * self.consistency.every
        return scale if chosen is None else scale * lead(arguments).shape[0] / chosen.shape[0]


def should_chunk(consistency: Consistency, transformer: nn.Module) -> bool:
    """Whether a language model's loss pays, and works, without its logits in full."""
    if chunked_refusal(consistency, transformer) is not None:
        return False
    return int(getattr(anatomy.text_config(transformer), "vocab_size", 0)) >= LARGE_VOCABULARY


def chunked_refusal(consistency: Consistency, transformer: nn.Module) -> str | None:
    """Say why a loss cannot be computed without a model's logits in full; ``None`` if it may."""
    if consistency.on == "representation":
        return "consistency.on='representation' compares no logits"
    if consistency.kind not in CHUNKED_KINDS:
        return f"consistency.kind={consistency.kind!r} is computed from logits in full"
    return capture.refusal(transformer)


@contextmanager
def inference_mode(entry: nn.Module) -> Iterator[None]:
    """Switch every module's noise off for a while; the flags come back one by one."""
    training = [module for module in entry.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True

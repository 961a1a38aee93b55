"""Runs the second forward pass over a batch and compares it with the first.

The second one runs before the trained one, without gradient by default, and only the rows that the
loss compares are kept of it: its activations are gone before the trained pass starts. A language
model's rows are hidden states, and its loss is computed without its logits in full
(:mod:`hiddenkey.chunked_loss.passes`), wherever the model allows it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiddenkey import anatomy
from hiddenkey.chunked_loss import capture
from hiddenkey.chunked_loss.passes import ChunkedPasses, SecondStates
from hiddenkey.chunked_loss.sums import IGNORED_LABEL, KINDS, Sums
from hiddenkey.errors import ConsistencyError
from hiddenkey.framework.compensation import AGAINST_INFERENCE, CONSISTENCIES
from hiddenkey.framework.config import Consistency
from hiddenkey.step import caches
from hiddenkey.step.arguments import lead, select, visible_tokens

LanguageModelLoss = Literal["auto", "chunked", "full"]
# Below this many classes logits are no larger than the hidden states of a few layers.
LARGE_VOCABULARY = 8192
_SHIFTED = ("ForCausalLM",)
_MADE_OF_LABELS = ("ForConditionalGeneration",)
_LANGUAGE = ("ForCausalLM", "ForMaskedLM", "ForConditionalGeneration")
_BY_TOKEN = (*_LANGUAGE, "ForTokenClassification")
TASKS = ("ForSequenceClassification", "ForImageClassification", *_BY_TOKEN)

MULTI_LABEL = (
    "the consistency loss compares one distribution over classes, got"
    " problem_type='multi_label_classification'; set consistency=None"
)

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
        is_own_loss: whether the task loss of the pass at work is computed outside of the model.
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
        self._task = anatomy.task_of(transformer)
        self._divides_by_items = divides_by_items(transformer)
        self._on_representation = consistency.on == "representation" or (
            consistency.on == "auto" and anatomy.is_regression(transformer)
        )
        self._must_chunk = lm_loss == "chunked"
        self._chunked: ChunkedPasses | None = None
        if self._must_chunk or (lm_loss == "auto" and should_chunk(consistency, transformer)):
            self._chunked = ChunkedPasses(transformer, consistency)
        self.is_own_loss = False
        self._between_passes = False
        self._representation: Tensor | None = None
        self._handle = (
            last_layer.register_forward_hook(self._keep) if self._on_representation else None
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
            ConsistencyError: if it is to be averaged over both passes, if labels are needed, or if
                a sequence has several.
        """
        if self.consistency.backward == "both":
            raise ConsistencyError(
                "consistency.backward='both' averages the task loss over both passes, but own_loss"
                " (label smoothing, compute_loss_func) computes it of one; use backward='one'"
            )
        by_class = self._task not in _BY_TOKEN and not self._on_representation
        if by_class and labels is not None and _are_independent(labels):
            raise ConsistencyError(MULTI_LABEL)
        if labels is None and self._task in _BY_TOKEN:
            raise ConsistencyError(
                f"the consistency loss of {self._task} models compares labelled tokens, but"
                " own_loss got no labels; use own_loss(labels)"
            )

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
                " model's own loss, where it is added; instead of SFTTrainer use"
                " hiddenkey.integrations.trl.ConsistencySFTTrainer; DPO, KTO, GRPO and RLOO"
                " need deterministic log-probabilities: set consistency=None"
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
        if arguments.get("labels") is None and not self.is_own_loss:
            raise ConsistencyError(
                "the consistency loss is added to the model's own loss, but this training pass got"
                " no labels; pass labels to the model or, for a loss of your own, hold the pass by"
                " attachment.own_loss (hiddenkey.integrations.trainer.watch does so for label"
                " smoothing and compute_loss_func), or set consistency=None, as with trainers that"
                " need deterministic log-probabilities (DPO, KTO, GRPO)"
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
        # an encoder-decoder makes its decoder's input of the labels
        needs_labels = self.consistency.backward == "both" or self._task in _MADE_OF_LABELS
        given = batch if needs_labels else {**batch, "labels": None}
        output = self._run_second(run, given, chosen)
        rows, _ = self._rows(output, batch)
        loss = output.loss if self.consistency.backward == "both" else None
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
        self._check(output)
        return output

    def _second_precision(self, batch: Mapping[str, Any]) -> AbstractContextManager[Any]:
        if self.consistency.precision == "same":
            return nullcontext()
        return torch.autocast(lead(batch).device.type, dtype=torch.bfloat16)

    def _task_share(
        self, loss: Tensor | None, arguments: Mapping[str, Any], chosen: Tensor | None
    ) -> Tensor | None:
        """Return the second pass's task loss, as if it had been over the whole batch."""
        if loss is None or chosen is None or not self._is_sum(arguments):
            return loss
        return loss * (lead(arguments).shape[0] / chosen.shape[0])

    def _check(self, output: Any) -> None:
        config: Any = getattr(self._transformer, "config", None)
        if not hasattr(output, "logits"):
            raise ConsistencyError(
                "the consistency loss is added to the model's output.loss, but this call returned a"
                f" {type(output).__name__}; call the model with return_dict=True"
            )
        if getattr(config, "problem_type", None) == "multi_label_classification":
            raise ConsistencyError(MULTI_LABEL)

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
        chunked = None if self.is_own_loss else self._chunked
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
        if self.is_own_loss:
            return None, self._divergence(output, arguments, second)
        assert task is not None  # labels were given, and the second pass returned one
        extra = self._divergence(output, arguments, second)
        if second.task_loss is not None:
            plain = self.consistency.kind == "mixture"  # the second pass was without noise
            task = second.task_loss if plain else (task + second.task_loss) / 2
        return task + extra, extra

    def _divergence(self, output: Any, arguments: Mapping[str, Any], second: SecondPass) -> Tensor:
        """Compare the trained pass with the second one."""
        self._check(output)  # the first labels can make a model a multi-label one
        rows, shares = self._rows(output, arguments, second.chosen)
        divergence = (self._loss(rows, second.rows) * shares).sum() / self._units(arguments)
        if second.chosen is not None:  # the chosen sequences stand for the whole batch
            divergence = divergence * (lead(arguments).shape[0] / second.chosen.shape[0])
        return self.consistency.weight * self.consistency.every * divergence

    def _rows(
        self, output: Any, arguments: Mapping[str, Any], chosen: Tensor | None = None
    ) -> tuple[Tensor, Tensor | float]:
        """Return the rows to compare ``[rows, classes]`` and what each counts for in its unit."""
        states = self._take_representation() if self._on_representation else output.logits
        if chosen is not None:
            states = states[chosen]
        arguments = select(arguments, chosen)
        if self._task in _BY_TOKEN:
            labels = arguments["labels"]
            if labels.dim() != 2 or labels.shape[0] != states.shape[0]:
                raise ConsistencyError(
                    "the consistency loss compares one prediction for each token, got labels of"
                    f" shape {list(labels.shape)} with predictions of {list(states.shape)}; set"
                    " consistency=None"
                )
            return states[self._labelled(arguments, states.shape[1])], 1.0
        if not self._on_representation:
            return states, 1.0
        visible = visible_tokens(arguments, states.shape[:2])
        if visible is None:
            visible = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        shares = visible / visible.sum(-1, keepdim=True).clamp_min(1)
        return states.flatten(0, 1), shares.flatten()

    def _units(self, arguments: Mapping[str, Any]) -> Tensor | int:
        """Return how many sequences or labelled tokens the task loss is a mean over."""
        if self._is_sum(arguments):
            return arguments["num_items_in_batch"]  # type: ignore[no-any-return]
        if self._task not in _BY_TOKEN:
            return lead(arguments).shape[0]
        labels = arguments["labels"]
        return self._labelled(arguments, labels.shape[1]).sum().clamp_min(1)

    def _is_sum(self, arguments: Mapping[str, Any]) -> bool:
        """Whether the task loss is a sum divided by ``num_items_in_batch``."""
        divides = self._divides_by_items or self.is_own_loss
        return divides and arguments.get("num_items_in_batch") is not None

    def _labelled(self, arguments: Mapping[str, Any], tokens: int) -> Tensor:
        """Mark the positions whose prediction has a label, boolean ``[batch, tokens]``."""
        labels = arguments["labels"]
        if self._task in _SHIFTED:
            given = arguments.get("shift_labels")
            ends = torch.full_like(labels[:, :1], IGNORED_LABEL)
            labels = torch.cat([labels[:, 1:], ends], 1) if given is None else given
        # a prefix of virtual or image tokens has either labels but no logits, or no labels
        labels = F.pad(
            labels[:, -tokens:], (max(0, tokens - labels.shape[1]), 0), value=IGNORED_LABEL
        )
        return labels != IGNORED_LABEL

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._between_passes:  # otherwise nobody would take it, and its graph would stay
            self._representation = output[0] if isinstance(output, tuple) else output

    def _take_representation(self) -> Tensor:
        states, self._representation = self._representation, None
        assert states is not None
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


def divides_by_items(transformer: nn.Module) -> bool:
    """Whether the model's own loss is a sum divided by ``num_items_in_batch`` when that is given.

    Language models that go through ``loss_function`` do; classifiers return a mean over the batch.
    """
    forward = inspect.unwrap(type(transformer).forward)
    code = getattr(forward, "__code__", None)
    by_function = code is not None and "loss_function" in code.co_names
    return by_function and anatomy.task_of(transformer) in _LANGUAGE


def _are_independent(labels: Tensor) -> bool:
    """Whether labels ``[batch, classes]`` are no distribution over the classes."""
    if labels.dim() != 2 or labels.shape[1] == 1:
        return False
    return bool(((labels.float().sum(-1) - 1).abs() > 1e-3).any())


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

"""The loss of a pass under TRL's ``SFTTrainer``: its own, computed from the attached model's.

TRL's own ``compute_loss`` is handed a stand-in of the model, whose fused call is the attached one.
A subclass's, which may use the model before and after ``super().compute_loss``, gets the model.

TRL is not imported here: a trainer of its kind is known by the name of its class.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from hiddenkey.attachment.attachment import Attachment, attachment_of
from hiddenkey.chunked_loss.reference import reference_loss
from hiddenkey.chunked_loss.sums import IGNORED_LABEL, Sums
from hiddenkey.errors import ConfigError, ConsistencyError

# Trainers for whose ``compute_loss`` TRL's own is replaced now; threads may train several.
_at_work: list[Any] = []
_lock = threading.Lock()


def is_sft(trainer: Any) -> bool:
    """Whether a trainer is TRL's ``SFTTrainer`` or made from it."""
    return any(map(_is_trls, type(trainer).__mro__))


def sft_loss(
    trainer: Any,
    plain: Callable[..., Any],
    model: Any,
    inputs: dict[str, Any],
    *rest: Any,
    **named: Any,
) -> Any:
    """Return what ``plain`` returns, computed from the attached model's own loss where it has one.

    Args:
        trainer: TRL's ``SFTTrainer``, or one made from it.
        plain: its ``compute_loss``.
        model: and all that follows: what ``compute_loss`` is called with.
        inputs: the batch.
        rest: ``return_outputs`` and ``num_items_in_batch``, or what a subclass has in their place.
        named: the same, by name.

    Raises:
        ConfigError: if a consistency loss meets ``loss_type='dft'``.
        ConsistencyError: if a configured consistency loss did not see the pass.
    """
    attachment = attachment_of(trainer.model)
    if attachment is None or _is_plain(trainer, attachment, model):
        return plain(model, inputs, *rest, **named)
    if trainer.args.loss_type != "nll":
        raise ConfigError(
            "loss_type must be 'nll' with a consistency loss, which is added to the model's own"
            f" loss, got {trainer.args.loss_type!r}; leave it out, or set consistency=None"
        )
    if _belongs_to_subclass(trainer, plain):
        with _attached_in_trls(trainer):
            return plain(model, inputs, *rest, **named)
    items = named.get("num_items_in_batch", rest[1] if len(rest) > 1 else None)
    coefficient = trainer.router_aux_loss_coef if trainer.aux_loss_enabled else 0.0
    attached = _AttachedModel(model, attachment, items, coefficient)
    return plain(attached, inputs, *rest, **named)


def _is_trls(kind: type) -> bool:
    return kind.__name__ == "SFTTrainer" and kind.__module__.partition(".")[0] == "trl"


def _belongs_to_subclass(trainer: Any, plain: Callable[..., Any]) -> bool:
    """Whether a ``compute_loss`` is a method of a class that comes before TRL's."""
    function = getattr(plain, "__func__", None)
    before = takewhile(lambda kind: not _is_trls(kind), type(trainer).__mro__)
    methods = [vars(kind).get("compute_loss") for kind in before]
    return function is not None and any(method is function for method in methods)


@contextmanager
def _attached_in_trls(trainer: Any) -> Iterator[None]:
    """Let TRL's own ``compute_loss`` call the attached model, for one trainer and for a while.

    A subclass finds it by ``super()`` on TRL's class and nowhere else, so it is replaced there.
    """
    kind: Any = next(filter(_is_trls, type(trainer).__mro__))
    with _lock:
        if not any(isinstance(each, kind) for each in _at_work):
            kind.compute_loss = _for_those_at_work(kind.compute_loss)
        _at_work.append(trainer)
    try:
        yield
    finally:
        with _lock:
            _at_work.remove(trainer)
            if not any(isinstance(each, kind) for each in _at_work):
                kind.compute_loss = kind.compute_loss.__wrapped__


def _for_those_at_work(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return TRL's ``compute_loss``: by :func:`sft_loss` for those at work, else as it is."""

    @functools.wraps(plain)
    def compute_loss(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(each is self for each in _at_work):
            return plain(self, *args, **kwargs)
        return sft_loss(self, functools.partial(plain, self), *args, **kwargs)

    return compute_loss


def _is_plain(trainer: Any, attachment: Attachment, model: Any) -> bool:
    """Whether TRL's loss needs nothing: no consistency loss is due, or it is added elsewhere."""
    return (
        isinstance(model, _AttachedModel)
        or attachment.config.consistency is None
        or not trainer.model.training
        or not attachment.trains
        or trainer.compute_loss_func is not None
        or (trainer.label_smoother is not None and trainer.args.loss_type == "nll")
    )


@dataclass
class _FusedOutput:
    """What ``SFTTrainer.compute_loss`` reads of the output of TRL's fused head."""

    log_probs: Tensor
    entropy: Tensor
    is_top1: Tensor
    label_mask: Tensor
    aux_loss: Tensor | None


class _AttachedModel:
    """Answers TRL's calls of its fused head with the attached model's own loss.

    Scaling, averaging over processes, auxiliary losses and metrics stay TRL's. To a function that
    was put in the place of TRL's method, it is like the model but for its identity.
    """

    def __init__(
        self,
        model: nn.Module,
        attachment: Attachment,
        items: Tensor | int | None,
        aux_coefficient: float,
    ) -> None:
        self._model, self._attachment = model, attachment
        self._items, self._aux_coefficient = items, aux_coefficient

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """What ``isinstance`` sees beside the class itself."""
        return type(self._model)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *, fused_lm_head: bool = False, **inputs: Any) -> Any:
        if not fused_lm_head:
            return self._model(**inputs)
        if self._items is not None:
            inputs["num_items_in_batch"] = self._items
        before = self._attachment.consistency_passes
        output = self._model(**inputs)
        if self._attachment.consistency_passes == before:
            raise ConsistencyError(
                "a consistency loss is configured but did not see this training pass: the model is"
                " called past its hooks; attach to trainer.model"
            )
        sums = self._attachment.lm_sums or _sums(output.logits, inputs)
        loss, aux = output.loss, getattr(output, "aux_loss", None)
        if aux is not None:
            loss = loss - self._aux_coefficient * aux
        count = torch.tensor(sums.rows, device=loss.device)
        units = count if self._items is None else self._items
        # TRL sums what is here, changes its sign and divides it by the same number
        return _FusedOutput(
            log_probs=-loss * torch.as_tensor(units).clamp(min=1),
            entropy=sums.entropy,
            is_top1=sums.correct,
            label_mask=count,
            aux_loss=aux,
        )


@torch.no_grad()
def _sums(logits: Tensor, inputs: dict[str, Any]) -> Sums:
    """Return the sums of a pass that had its logits.

    Args:
        logits: ``[batch, prompt + tokens, vocabulary]``, where PEFT's prompt comes first.
        inputs: of the call, with labels ``[batch, tokens]``.
    """
    shifted = inputs.get("shift_labels") is not None
    labels: Tensor = inputs["shift_labels" if shifted else "labels"]
    prompt = logits.shape[1] - labels.shape[1]  # has no labels, but its end predicts a token
    labels = nn.functional.pad(labels, (prompt, 0), value=IGNORED_LABEL)
    if not shifted:
        labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
    labelled = labels != IGNORED_LABEL
    return reference_loss(logits[labelled], labels[labelled])

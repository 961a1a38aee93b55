"""Finds code that goes past a model's modules, so that noise in them would silently be lost.

Libraries that speed training up replace the ``forward`` of attention, of feed-forward blocks or of
whole layers by code that reads a module's weights without calling it. What can be known is refused
when a configuration is attached; the rest shows in the first training pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hiddenkey.anatomy import AttentionPart, Part
from hiddenkey.anatomy.low_rank import active_pairs
from hiddenkey.errors import AttachError, ConsistencyError
from hiddenkey.framework.consistency import Consistency
from hiddenkey.measure import ShareCounter
from hiddenkey.step.places import Place

_REPLACING = ("unsloth", "unsloth_zoo")


def refuse_replaced(transformer: nn.Module) -> None:
    """Refuse a model whose modules run another library's code in place of their own.

    Raises:
        AttachError: if there is such a module.
    """
    for name, module in transformer.named_modules():
        forward: Any = module.__dict__.get("forward", getattr(type(module), "forward", None))
        origin = str(getattr(forward, "__module__", "")).partition(".")[0]
        if origin in _REPLACING:
            raise AttachError(
                f"the forward of {name} ({type(module).__name__}) was replaced by {origin}, whose"
                " code reads weights without calling the modules that noise is attached to; load"
                " the model with transformers alone"
            )


def refuse_moved(transformer: nn.Module, places: Sequence[Place]) -> None:
    """Refuse a model in which a module with noise was replaced after :func:`hiddenkey.attach`.

    Raises:
        AttachError: naming the module.
    """
    for part in (place.part for place in places):
        if submodule(transformer, part.name) is not part.module:
            raise AttachError(
                f"module {part.name} was replaced after attach, so its noise would be lost;"
                " attach after get_peft_model and after every other change of the model"
            )


def submodule(module: nn.Module, name: str) -> nn.Module | None:
    """Return what a module now has under a name; ``None`` if that is gone."""
    try:
        return module.get_submodule(name)
    except AttributeError:  # a module on the way to it was replaced
        return None


def refuse_unpreserved_rng(transformer: nn.Module, layers: list[Part]) -> None:
    """Refuse activation checkpointing that would recompute a layer with other masks.

    Raises:
        AttachError: if ``preserve_rng_state=False`` is set, by the model or by a wrapper that was
            put around a layer, or if a re-entrant wrapper was put around it after attach.
    """
    for part in layers:
        layer = submodule(transformer, part.name) or part.module
        implementation = getattr(getattr(layer, "checkpoint_impl", None), "name", None)
        if layer is not part.module and implementation == "REENTRANT":
            raise AttachError(
                f"torch's re-entrant checkpoint wrapper was put around {part.name} after attach, so"
                " that a layer that runs again may see the padding of another batch; wrap before"
                " attach, or take CheckpointImpl.NO_REENTRANT"
            )
        for name in ("_gradient_checkpointing_func", "checkpoint_fn"):
            settings = getattr(getattr(layer, name, None), "keywords", {})
            if settings.get("preserve_rng_state") is False:
                raise AttachError(
                    "activation checkpointing with preserve_rng_state=False recomputes a layer with"
                    " other dropout masks and gives wrong gradients; remove it or set it to True"
                    " (accelerate's FSDP checkpointing sets it: use the model's own,"
                    " gradient_checkpointing_enable() or Trainer's gradient_checkpointing)"
                )


def is_backward() -> bool:
    """Whether a backward pass is at work, in which activation checkpointing runs code again."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def refuse_repeated(consistency: Consistency) -> None:
    """Refuse a loss that would be another one when a backward pass runs the whole model again.

    Raises:
        ConsistencyError: if the loss depends on the passes before.
    """
    if consistency.every == 1 and consistency.target != "history":
        return
    reason = (
        "compares with the prediction that the pass itself has left"
        if consistency.target == "history"
        else f"falls on another pass by every={consistency.every}"
    )
    raise ConsistencyError(
        "activation checkpointing is around the whole model, so that a backward pass runs its call"
        f" again, in which the consistency loss {reason}; put checkpointing on the layers"
        " (model.gradient_checkpointing_enable() or Trainer's gradient_checkpointing) instead"
    )


class FirstPass:
    """Watches the first training pass that is not compiled for sites that it went past.

    Args:
        places: where the configuration acts.
        layers: the model's layers.
        counters: by :attr:`Site.key`.
    """

    def __init__(
        self, places: Sequence[Place], layers: Sequence[Part], counters: Mapping[str, ShareCounter]
    ) -> None:
        self._places, self._counters = places, counters
        self._layers = {layer.layer: layer.module for layer in layers}
        self._ran: set[nn.Module] = set()
        inside = (place.part.module for place in places)
        watched = {*self._layers.values(), *inside}
        self._handles = [module.register_forward_hook(self._note) for module in watched]

    def finish(self, rates: Mapping[str, float]) -> None:
        """End the watch after a training pass.

        Args:
            rates: in force in the pass, by :attr:`Site.key`; a rate of 0 draws nothing.

        Raises:
            AttachError: if a layer ran and a site in it did not act.
        """
        self.remove()
        for place in self._places:
            key = place.site.key
            acted = rates[key] == 0 or self._counters[key].has_counted
            if not acted and self._should_have_acted(place):
                raise AttachError(_lost(place))

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _note(self, module: nn.Module, args: Any, output: Any) -> None:
        if module.training and not torch.compiler.is_compiling():
            self._ran.add(module)

    def _should_have_acted(self, place: Place) -> bool:
        if place.site.position == "update" and not active_pairs(place.part.module):
            return False  # of an adapter that does not act now, or under disable_adapter()
        if place.part.module in self._ran:
            return True
        if not place.part.module.training:
            return False
        if isinstance(place.part, AttentionPart) and place.part.kind == "cross":
            return False  # nothing to attend to was given
        if place.site.position == "output":  # a loss may take the head's weights and go past it
            return not self._ran.isdisjoint(self._layers.values())
        return self._layers.get(place.site.layer) in self._ran


class TrainedLoss:
    """Watches whether a pass's consistency loss is trained on, by the gradients that reach it.

    A script may compute a loss of its own from the logits or from hidden states, and leave
    ``output.loss`` alone. The consistency loss is then computed and logged, and changes nothing.

    Args:
        consistency: the loss that was added to ``output.loss``.
        others: of the same pass, what other losses are computed from.
    """

    def __init__(self, consistency: Tensor, others: Sequence[Tensor]) -> None:
        self._reached: set[str] = set()
        named = [("consistency", consistency), *(("another loss", tensor) for tensor in others)]
        for name, tensor in named:
            tensor.register_hook(lambda gradient, name=name: self._reached.add(name))  # type: ignore[no-untyped-call]

    def check(self) -> None:
        """Refuse to go on when a backward pass went around the consistency loss.

        Raises:
            ConsistencyError: if gradient reached the pass and not the loss.
        """
        if "another loss" in self._reached and "consistency" not in self._reached:
            raise ConsistencyError(
                "the last backward pass started from a loss of the script's own, computed from"
                " output.logits or from hidden states, so that the consistency loss, which is in"
                " output.loss, was not trained on; hold each pass by attachment.own_loss(labels)"
                " and train on own.total(your_loss), train on output.loss, or set consistency=None,"
                " as hiddenkey-minus does"
            )


def _lost(place: Place) -> str:
    return (
        f"the training pass went past {place.part.name} ({type(place.part.module).__name__}), so"
        f" its noise ({place.site.position}) was lost; if other code replaced a forward of this"
        " model (fused kernels, a patched library), switch that off, or leave the position out"
    )

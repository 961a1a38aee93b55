"""Activation checkpointing: what would recompute a layer with other noise is refused."""

from __future__ import annotations

from torch import nn

from hiddenkey.anatomy import Part
from hiddenkey.errors import AttachError
from hiddenkey.step.guards import submodule


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
                    " activation_checkpointing_enable() or Trainer's activation_checkpointing)"
                )

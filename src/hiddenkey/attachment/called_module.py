"""Finds the module whose call is one training pass.

With most adapters it is the transformer, since PEFT calls it as anyone would. Some of PEFT's
methods do a part of their work around that call, or go past it by calling ``forward``: what they do
belongs to each pass, so that both passes of a consistency loss must contain it.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Any

from torch import nn

from hiddenkey.anatomy.code import calls
from hiddenkey.errors import AttachError
from hiddenkey.framework.config import DropoutConfig
from hiddenkey.step import caches

# Adapters whose own module is called with the transformer's arguments, and why it must be hooked.
_AROUND = {
    "ADALORA": "adds its orthogonality loss",
    "ADAPTION_PROMPT": "goes past the model's own call",
    "POLY": "hands each sequence's task to its layers",
    "SHADOW": "adds its auxiliary loss",
    "XLORA": "weighs its experts by a pass of its own",
}
_CACHES = {"PREFIX_TUNING", "CARTRIDGE"}


def entry_of(model: Any, transformer: nn.Module) -> nn.Module:
    """Return the module whose call is one training pass, its task loss included.

    Args:
        model: what was given to :func:`hiddenkey.attach`.
        transformer: the Hugging Face model in it.

    Raises:
        AttachError: if that module is not in ``model``.
    """
    methods = _methods(model)
    around = sorted(methods & set(_AROUND))
    adapted = _adapted(model)
    if adapted is None:
        return transformer
    is_bare = adapted is transformer
    if is_bare:
        # transformers' own add_adapter puts the layers alone into the model
        if around and not getattr(adapted, "_hf_peft_config_loaded", False):
            raise AttachError(
                f"PEFT's {around[0]} {_AROUND[around[0]]} in the module around the model; attach to"
                " the PeftModel that get_peft_model gave, not to the model in it"
            )
        return transformer
    if fault := prefix_fault(model, transformer):
        raise AttachError(fault)
    takes_cache = "past_key_values" in inspect.signature(transformer.forward).parameters
    if methods & _CACHES and hasattr(adapted, "_prefix_tuning_forward") and not takes_cache:
        around_body: nn.Module = adapted  # it calls the model's body, and computes the loss itself
        return around_body
    tuner: nn.Module = adapted.base_model
    # PEFT before 0.21 runs the model by its forward, without its hooks
    goes_past = tuner is not transformer and "forward" in calls(tuner)
    return tuner if around or goes_past else transformer


def prefix_fault(model: Any, transformer: nn.Module) -> str | None:
    """Say why PEFT's prefix tuning cannot run on a model of these versions; ``None`` if it may.

    PEFT looks for ``past_key_values`` in the signature of a model that is no language model, or of
    the body of that model; transformers 5.24 calls it ``cache``.
    """
    adapted = _adapted(model)
    forward = getattr(adapted, "_prefix_tuning_forward", None)
    if not _methods(model) & _CACHES or forward is None:
        return None
    body = transformer.get_submodule(getattr(adapted, "transformer_backbone_name", None) or "")
    parameters = {
        name for part in (transformer, body) for name in inspect.signature(part.forward).parameters
    }
    knows = {name for name in caches.NAMES if name in forward.__func__.__code__.co_consts}
    if "cache" not in parameters or knows & parameters:
        return None
    return (
        f"prefix tuning of PEFT {version('peft')} does not fit transformers"
        f" {version('transformers')}, which renamed past_key_values to cache; install"
        " 'transformers<5.24' with this PEFT, or a later PEFT"
    )


def adapter_faults(model: Any, config: DropoutConfig) -> list[str]:
    """Return, one sentence each, why a configuration does not fit a model's adapters."""
    if config.consistency is None:
        return []
    faults = []
    if "CPT" in _methods(model):
        faults.append(
            "PEFT's CPT replaces the model's loss by one of its own, so a consistency loss would be"
            " lost; set consistency=None"
        )
    if config.consistency.fraction < 1 and any(
        getattr(settings, "alora_invocation_tokens", None) for settings in _settings(model)
    ):
        faults.append(
            "consistency.fraction must be 1 with PEFT's alora_invocation_tokens, whose offsets are"
            f" those of the whole batch, got {config.consistency.fraction:g}"
        )
    return faults


def prompts_around(model: Any) -> nn.Module | None:
    """Return the PeftModel whose adapters are prompts or prefixes; ``None`` without such ones."""
    are_prompts = any(getattr(each, "is_prompt_learning", False) for each in _settings(model))
    adapted = _adapted(model)
    return adapted if are_prompts and hasattr(adapted, "active_adapter") else None


def _methods(model: Any) -> set[str]:
    return {str(getattr(settings.peft_type, "value", "")) for settings in _settings(model)}


def _settings(model: Any) -> list[Any]:
    found = getattr(_adapted(model), "peft_config", None)
    return list(found.values()) if isinstance(found, dict) else []


def _adapted(model: Any) -> Any:
    """Return what holds PEFT's configurations: a PeftModel, or the transformer in one."""
    while model is not None and not hasattr(model, "peft_config"):
        model = getattr(model, "module", None)  # DistributedDataParallel
    return model

"""Stands in for a model's attention function while a configuration is attached.

Transformers looks the attention function up by name at every call. One name is registered for each
underlying implementation, with that implementation's mask builder, so that evaluation, and every
module without a site, is handed on with exactly the arguments it would have had.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from hiddenkey.attention.masks import remembering
from hiddenkey.attention.site import AttentionSite
from hiddenkey.errors import AttachError

PREFIX = "hiddenkey_"
SUPPORTED = ("sdpa", "eager")
_SITE = "_hiddenkey_attention_site"
_REFUSED = {
    "softcap": "logit soft-capping",
    "s_aux": "attention sinks",
    "position_bias": "a position bias",
    "cache": "a paged cache",
    "cu_seq_lens_q": "packed sequence lengths",
}


def install(transformer: Any, modules: Iterable[nn.Module]) -> str:
    """Route a model's attention through this library.

    Args:
        transformer: the Hugging Face model.
        modules: its attention modules that will drop.

    Returns:
        Name of the implementation it had, to be given to :func:`uninstall`.

    Raises:
        AttachError: if the implementation is unsupported or the model does not follow it.
    """
    for module in modules:
        _refuse_by_code(module)
    before: str = transformer.config._attn_implementation
    if before not in SUPPORTED:
        raise AttachError(
            f"attention drops work on the attention implementations {', '.join(SUPPORTED)}; this"
            f" model uses {before!r}; load it with attn_implementation='sdpa'"
        )
    if before == "eager" and getattr(transformer.config, "reorder_and_upcast_attn", False):
        raise AttachError(
            "reorder_and_upcast_attn=True bypasses transformers' attention interface; set it to"
            " False or load the model with attn_implementation='sdpa'"
        )
    name = _register(before)
    transformer.set_attn_implementation(name)
    if transformer.config._attn_implementation != name:
        raise AttachError(
            f"{type(transformer).__name__} computes attention outside transformers' attention"
            " interface, so keys cannot be dropped; use a method without attention drops, such as"
            " 'hiddencut'"
        )
    return before


def uninstall(transformer: Any, before: str) -> None:
    """Give a model back the implementation that :func:`install` returned."""
    transformer.set_attn_implementation(before)


def set_site(module: nn.Module, site: AttentionSite | None) -> None:
    """Let an attention module drop as ``site`` says; ``None`` stops it."""
    if site is None:
        module.__dict__.pop(_SITE, None)
    else:
        module.__dict__[_SITE] = site


def _register(base: str) -> str:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    name = PREFIX + base
    AttentionInterface.register(name, _attention_function(base))
    AttentionMaskInterface.register(name, remembering(ALL_MASK_ATTENTION_FUNCTIONS[base]))
    return name


def _attention_function(base: str) -> Any:
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        site: AttentionSite | None = module.__dict__.get(_SITE)
        if site is None or not module.training:
            plain = _base_function(base, module)
            return plain(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
        _refuse_unsupported(module, kwargs)
        is_causal = kwargs.get("is_causal")
        if is_causal is None:
            is_causal = getattr(module, "is_causal", True)
        scaling = kwargs.get("scaling")
        output = site.attend(
            query,
            key,
            value,
            attention_mask,
            is_causal=is_causal,
            mask_implies_causal=base == "sdpa",
            scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
            dropout=kwargs.get("dropout", 0.0),
        )
        return output.transpose(1, 2).contiguous(), None

    return attention


def _base_function(base: str, module: nn.Module) -> Any:
    if base == "eager":  # each model brings its own
        return sys.modules[type(module).__module__].eager_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS[base]


def _refuse_by_code(module: nn.Module) -> None:
    """Refuse, before any training, what the module's own call of its attention shows."""
    forward = inspect.unwrap(type(module).forward)
    names = {
        name for names in forward.__code__.co_consts if isinstance(names, tuple) for name in names
    }
    if getattr(module, "attn_logit_softcapping", None) is None:
        names.discard("softcap")  # passed, but None
    for argument in _REFUSED:
        if argument in names:
            raise AttachError(_refusal(module, argument))


def _refuse_unsupported(module: nn.Module, kwargs: dict[str, Any]) -> None:
    for argument in _REFUSED:
        if kwargs.get(argument) is not None:
            raise AttachError(_refusal(module, argument))


def _refusal(module: nn.Module, argument: str) -> str:
    return (
        f"{type(module).__name__} passes {_REFUSED[argument]} ({argument}) to its attention, which"
        " attention drops do not support yet; use a method without them, such as 'hiddencut'"
    )

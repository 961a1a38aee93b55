"""Stands in for a model's attention function while a configuration is attached.

Transformers looks the attention function up by name at every call. One name is registered for each
underlying implementation, with that implementation's mask builder, so that evaluation, and every
module without a site, is handed on with exactly the arguments it would have had.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hiddenkey.attention.intercept import Interception
from hiddenkey.attention.masks import remembering
from hiddenkey.attention.site import AttentionSite
from hiddenkey.errors import AttachError

PREFIX = "hiddenkey_"
SUPPORTED = ("sdpa", "eager")
_OWN = tuple(PREFIX + base for base in SUPPORTED)
_SITE = "_hiddenkey_attention_site"
# What changes the logits or the softmax, beside the mask: the model's own function must run.
_BESIDE_THE_MASK = ("softcap", "s_aux", "position_bias")
# Names in the code of an eager attention function that computes nothing else than attention.
_PLAIN_EAGER = {
    *("torch", "nn", "functional", "matmul", "softmax", "dropout", "repeat_kv"),
    *("transpose", "contiguous", "view", "size", "shape", "to", "dtype", "type", "float32"),
    *("training", "scaling", "num_key_value_groups"),
}


@dataclass(frozen=True)
class Setting:
    """A config whose attention implementation was changed, and what it was."""

    config: Any
    before: str


def install(transformer: nn.Module, modules: Iterable[nn.Module]) -> list[Setting]:
    """Route a model's attention through this library.

    Args:
        transformer: the model.
        modules: its attention modules that will drop.

    Returns:
        What was changed, to be given to :func:`uninstall`.

    Raises:
        AttachError: if an implementation is unsupported.
    """
    modules = list(modules)
    for module in modules:
        _refuse(transformer, module)
    settings = []
    for config in _configs(transformer, modules) if modules else []:
        before = config._attn_implementation
        if before in SUPPORTED:  # others belong to towers that do not drop
            settings.append(Setting(config, before))
            config._attn_implementation_internal = _register(before)
    return settings


def renew(settings: list[Setting]) -> list[Setting]:
    """Route attention through this library again where a model's implementation was changed since.

    Args:
        settings: of :func:`install`.

    Returns:
        What is changed now, to be given to :func:`uninstall`.

    Raises:
        AttachError: if the implementation that was chosen is unsupported.
    """
    renewed = []
    for setting in settings:
        chosen = setting.config._attn_implementation
        if chosen not in _OWN:
            _refuse_implementation(chosen)
            setting.config._attn_implementation_internal = _register(chosen)
            setting = Setting(setting.config, chosen)
        renewed.append(setting)
    return renewed


def uninstall(settings: list[Setting]) -> None:
    """Give a model back the implementations that :func:`install` changed.

    One that was chosen since stays.
    """
    for setting in settings:
        if setting.config._attn_implementation in _OWN:
            setting.config._attn_implementation_internal = setting.before


def needs_interception(module: nn.Module) -> bool:
    """Whether an attention module's own function must run, with its softmax intercepted.

    It must where the module passes more than a mask (soft caps, sinks, position biases), or where
    its eager function computes more than attention.
    """
    forward = inspect.unwrap(type(module).forward)
    names = {
        name for names in forward.__code__.co_consts if isinstance(names, tuple) for name in names
    }
    if getattr(module, "attn_logit_softcapping", None) is None:
        names.discard("softcap")  # passed, but None
    if names.intersection(_BESIDE_THE_MASK):
        return True
    if _implementation(module) not in ("eager", PREFIX + "eager"):
        return False
    return not _PLAIN_EAGER.issuperset(_base_function("eager", module).__code__.co_names)


def set_site(module: nn.Module, site: AttentionSite | None) -> None:
    """Let an attention module drop as ``site`` says; ``None`` stops it."""
    if site is None:
        module.__dict__.pop(_SITE, None)
    else:
        module.__dict__[_SITE] = site


def _configs(transformer: nn.Module, modules: Iterable[nn.Module]) -> list[Any]:
    """Return every config that says which attention implementation a part of the model takes."""
    holders = [part for part in transformer.modules() if hasattr(part, "set_attn_implementation")]
    configs = [getattr(part, "config", None) for part in (*holders, *modules)]
    return list({id(config): config for config in configs if config is not None}.values())


def _implementation(module: nn.Module) -> str | None:
    return getattr(getattr(module, "config", None), "_attn_implementation", None)


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
        plain = _base_function(base, module)
        if site is None or not module.training or site.is_silent:
            return plain(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
        if kwargs.get("cache") is not None:
            raise AttachError(
                f"{type(module).__name__} trains with a paged cache, in which keys cannot be"
                " dropped; leave the cache out"
            )
        if site.is_intercepted or any(kwargs.get(name) is not None for name in _BESIDE_THE_MASK):
            with Interception(site, module, keys=key.shape[2]):
                return plain(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
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
        return inspect.unwrap(type(module).forward).__globals__["eager_attention_forward"]
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS[base]


def _refuse_implementation(name: str | None) -> None:
    if name not in SUPPORTED:
        raise AttachError(
            f"attention drops work on the attention implementations {', '.join(SUPPORTED)}; this"
            f" model uses {name!r}; load it with attn_implementation='sdpa'"
        )


def _refuse(transformer: nn.Module, module: nn.Module) -> None:
    before = _implementation(module)
    _refuse_implementation(before)
    if before == "eager" and getattr(transformer.config, "reorder_and_upcast_attn", False):
        raise AttachError(
            "reorder_and_upcast_attn=True bypasses transformers' attention interface; set it to"
            " False or load the model with attn_implementation='sdpa'"
        )

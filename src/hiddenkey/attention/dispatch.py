"""Stands in for a model's attention function where a configuration drops.

Transformers looks the attention function up at every call, by the name in the attention module's
config. While a configuration is attached, each module that drops sees its config through a
:class:`RoutedConfig`, which names this library's function in passes that drop and the config's own
name in all others. The config itself, and with it every name that a user or transformers reads from
a model, stays as it is.
"""

from __future__ import annotations

import inspect
import weakref
from typing import Any

from torch import Tensor, nn

from hiddenkey.attention.intercept import Interception
from hiddenkey.attention.masks import forget_masks, remember_masks
from hiddenkey.attention.site import AttentionSite
from hiddenkey.errors import AttachError

PREFIX = "hiddenkey_"
SUPPORTED = ("sdpa", "eager")
_FUNCTION = {base: PREFIX + base for base in SUPPORTED}
# What changes the logits or the softmax, beside the mask: the model's own function must run.
_BESIDE_THE_MASK = ("softcap", "s_aux", "position_bias")
# Names in the code of an eager attention function that computes nothing else than attention.
_PLAIN_EAGER = {
    *("torch", "nn", "functional", "matmul", "softmax", "dropout", "repeat_kv"),
    *("transpose", "contiguous", "view", "size", "shape", "to", "dtype", "type", "float32"),
    *("training", "scaling", "num_key_value_groups"),
}
_users: weakref.WeakSet[Any] = weakref.WeakSet()


class RoutedConfig:
    """A config as one attention module sees it.

    Everything is read from the config and written to it, whatever becomes of it meanwhile. Only the
    attention implementation is this library's where the module drops.

    Args:
        config: the module's own config.
        module: the attention module.
        site: its drops.
    """

    def __init__(self, config: Any, module: nn.Module, site: AttentionSite) -> None:
        self.__dict__.update(routed=config, module=module, site=site)

    @property
    def _attn_implementation(self) -> str | None:
        routed, module, site = self.__dict__.values()
        own: str | None = routed._attn_implementation
        if not module.training or site.is_silent:
            return own
        return _FUNCTION.get(own, own)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if "routed" not in self.__dict__:  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.__dict__["routed"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["routed"], name, value)


def route(module: nn.Module, site: AttentionSite) -> None:
    """Let an attention module drop as ``site`` says."""
    module.__dict__["config"] = RoutedConfig(module.config, module, site)


def restore(module: nn.Module) -> None:
    """Give an attention module its config back."""
    if isinstance(routed := module.__dict__.get("config"), RoutedConfig):
        module.__dict__["config"] = routed.__dict__["routed"]


def register(user: Any) -> None:
    """Let transformers find this library's functions, and remember masks, while ``user`` lives."""
    from transformers import AttentionInterface

    if user in _users and PREFIX + "sdpa" in AttentionInterface._global_mapping:
        return
    _users.add(user)
    weakref.finalize(user, _unregister_unused)
    for base, name in _FUNCTION.items():
        AttentionInterface.register(name, _attention_function(base))
    remember_masks(SUPPORTED)


def unregister(user: Any) -> None:
    """Leave nothing in transformers' tables where ``user`` was the last that needed it."""
    _users.discard(user)
    _unregister_unused()


def _unregister_unused() -> None:
    if any(True for _ in _users):
        return
    from transformers import AttentionInterface

    for name in _FUNCTION.values():
        AttentionInterface._global_mapping.pop(name, None)
    forget_masks()


def implementation(module: nn.Module) -> str | None:
    """Return the name of a module's attention implementation, as its user knows it."""
    config = getattr(module, "config", None)
    if isinstance(config, RoutedConfig):
        config = config.__dict__["routed"]
    return getattr(config, "_attn_implementation", None)


def refuse_unsupported(transformer: nn.Module, module: nn.Module) -> None:
    """Refuse an attention module that uses an implementation which cannot drop.

    Raises:
        AttachError: if it does.
    """
    name = implementation(module)
    if name not in SUPPORTED:
        raise AttachError(
            f"attention drops work on the attention implementations {', '.join(SUPPORTED)}; this"
            f" model uses {name!r}; load it with attn_implementation='sdpa'"
        )
    if name == "eager" and getattr(transformer.config, "reorder_and_upcast_attn", False):
        raise AttachError(
            "reorder_and_upcast_attn=True bypasses transformers' attention interface; set it to"
            " False or load the model with attn_implementation='sdpa'"
        )


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
    if implementation(module) != "eager":
        return False
    return not _PLAIN_EAGER.issuperset(_base_function("eager", module).__code__.co_names)


def _attention_function(base: str) -> Any:
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        site: AttentionSite = module.__dict__["config"].__dict__["site"]
        if kwargs.get("cache") is not None:
            raise AttachError(
                f"{type(module).__name__} trains with a paged cache, in which keys cannot be"
                " dropped; leave the cache out"
            )
        if site.is_intercepted or any(kwargs.get(name) is not None for name in _BESIDE_THE_MASK):
            plain = _base_function(base, module)
            with Interception(site, module, keys=key.shape[2]):
                return plain(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
        is_causal = kwargs.get("is_causal")
        if is_causal is None:
            is_causal = getattr(module, "is_causal", True)
        scaling = kwargs.get("scaling")
        is_asked = site.gives_map or kwargs.get("output_attentions") or not site.is_fused
        maps: list[Tensor] | None = [] if base == "eager" and is_asked else None
        output = site.attend(
            query,
            key,
            value,
            attention_mask,
            is_causal=is_causal,
            mask_implies_causal=base == "sdpa",
            scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
            dropout=kwargs.get("dropout", 0.0),
            maps=maps,
        )
        return output.transpose(1, 2).contiguous(), maps[0] if maps else None

    return attention


def _base_function(base: str, module: nn.Module) -> Any:
    if base == "eager":  # each model brings its own
        return inspect.unwrap(type(module).forward).__globals__["eager_attention_forward"]
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS[base]

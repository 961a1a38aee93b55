"""Stands in for a model's attention function where a configuration drops.

Transformers looks the attention function up at every call, by the name in the attention module's
config. While a configuration is attached, each module that drops sees its config through a
:class:`RoutedConfig`, which names this library's function in passes that drop and the config's own
name in all others. The config itself, and with it every name that a user or transformers reads from
a model, stays as it is.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import Any

from torch import Tensor, nn
from torch._guards import CompileContext
from torch.utils.hooks import RemovableHandle

from hiddenkey.anatomy.code import calls, calls_twice
from hiddenkey.attention import flash, flex
from hiddenkey.attention.intercept import Interception
from hiddenkey.attention.masks import forget_masks, keys_of, remember_masks
from hiddenkey.attention.same_map import SameMap
from hiddenkey.attention.site import AttentionSite
from hiddenkey.errors import AttachError

PREFIX = "hiddenkey_"
SUPPORTED = ("sdpa", "eager")
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
        held = self.__dict__
        routed, module, site = held["routed"], held["module"], held["site"]
        own: str | None = routed._attn_implementation
        if not module.training or site.is_silent or site.is_inside_kernel or not serves(own):
            return own
        return f"{PREFIX}{own}"

    def __getattr__(self, name: str) -> Any:
        if "routed" not in self.__dict__:  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.__dict__["routed"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["routed"], name, value)


def route(module: nn.Module, site: AttentionSite) -> list[RemovableHandle]:
    """Let an attention module drop as ``site`` says.

    Args:
        module: reads the name of its attention function from its ``config``.
        site: its drops.

    Returns:
        Handles of the hooks that it needs, beside :func:`restore`.
    """
    module.__dict__["config"] = RoutedConfig(module.config, module, site)
    if not calls_twice(module, "get_interface"):
        return []
    return [
        module.register_forward_pre_hook(functools.partial(_begin_call, site)),
        module.register_forward_hook(functools.partial(_end_call, site), always_call=True),
    ]


def _begin_call(site: AttentionSite, module: nn.Module, args: Any) -> None:
    site.same_map = SameMap()


def _end_call(site: AttentionSite, module: nn.Module, args: Any, output: Any) -> None:
    site.same_map = None


def restore(module: nn.Module) -> None:
    """Give an attention module its config back."""
    if isinstance(routed := module.__dict__.get("config"), RoutedConfig):
        module.__dict__["config"] = routed.__dict__["routed"]


def serves(name: str | None) -> bool:
    """Whether attention with this implementation can drop."""
    return name in SUPPORTED or _has_no_map(name)


def _has_no_map(name: str | None) -> bool:
    return name == flex.NAME or flash.is_flash(name)


def register(user: Any, names: Iterable[str | None] = ()) -> None:
    """Let transformers find this library's functions, and remember masks, while ``user`` lives.

    Args:
        user: what needs them.
        names: the attention implementations of its model.
    """
    from transformers import AttentionInterface

    known = AttentionInterface._global_mapping
    wanted = {*SUPPORTED, *(name for name in names if name is not None and _has_no_map(name))}
    if user in _users and all(PREFIX + name in known for name in wanted):
        return
    if user not in _users:
        _users.add(user)
        weakref.finalize(user, _unregister_unused)
    for name in wanted:
        function = _kernel_function if _has_no_map(name) else _attention_function
        AttentionInterface.register(PREFIX + name, function(name))
    remember_masks((*SUPPORTED, flex.NAME))


def unregister(user: Any) -> None:
    """Leave nothing in transformers' tables where ``user`` was the last that needed it."""
    _users.discard(user)
    _unregister_unused()


def _unregister_unused() -> None:
    if any(True for _ in _users) or _is_compiling_code():
        return  # the next one that is given up tidies up for both
    from transformers import AttentionInterface

    for name in [name for name in AttentionInterface._global_mapping if name.startswith(PREFIX)]:
        AttentionInterface._global_mapping.pop(name, None)
    forget_masks()


def _is_compiling_code() -> bool:
    """Whether torch.compile is at work, which has read the tables and writes guards on them.

    Any object may be collected meanwhile, also a model that nobody detached.
    """
    return CompileContext.try_get() is not None


def implementation(module: nn.Module) -> str | None:
    """Return the name of a module's attention implementation, as its user knows it."""
    config = getattr(module, "config", None)
    if isinstance(config, RoutedConfig):
        config = config.__dict__["routed"]
    return getattr(config, "_attn_implementation", None)


def refuse_unsupported(transformer: nn.Module, module: nn.Module, needs_map: str | None) -> None:
    """Refuse an attention module that uses an implementation which cannot drop.

    Args:
        transformer: the model.
        module: the attention module.
        needs_map: why the drops need an attention map, which flash and flex attention do not have;
            or ``None``.

    Raises:
        AttachError: if it does.
    """
    name = implementation(module)
    if not serves(name):
        names = ", ".join((*SUPPORTED, *flash.NAMES, flex.NAME))
        raise AttachError(
            f"attention drops work on the attention implementations {names}; this"
            f" model uses {name!r}; load it with attn_implementation='sdpa'"
        )
    if name == flex.NAME and (refusal := flex.refusal()) is not None:
        raise AttachError(f"{refusal}; load the model with attn_implementation='sdpa'")
    if needs_map is not None and _has_no_map(name):
        raise AttachError(
            f"attention implementation {name!r} has no attention map, which these drops need:"
            f" {needs_map}; load the model with attn_implementation='sdpa'"
        )
    if name == "eager" and getattr(transformer.config, "reorder_and_upcast_attn", False):
        raise AttachError(
            "reorder_and_upcast_attn=True bypasses transformers' attention interface; set it to"
            " False or load the model with attn_implementation='sdpa'"
        )


def needs_interception(module: nn.Module) -> bool:
    """Whether an attention module's own function must run, with its softmax intercepted.

    It must where the module passes more than a mask (soft caps, sinks, position biases), where
    its eager function computes more than attention, or where somebody has put a function of their
    own in the place of transformers'.
    """
    if _has_no_map(implementation(module)):
        return False
    if implementation(module) == "sdpa" and sdpa_is_replaced():
        return True
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
    return not _PLAIN_EAGER.issuperset(_eager_function(module).__code__.co_names)


def sdpa_is_replaced() -> bool:
    """Whether transformers' table has somebody's own function under the name ``sdpa``."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS["sdpa"] is not sdpa_attention_forward


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
        _refuse_cache(module, kwargs)
        site.see_map(query, key)
        if site.is_intercepted or any(kwargs.get(name) is not None for name in _BESIDE_THE_MASK):
            plain = _base_function(base, module)
            keys = keys_of(attention_mask)
            sequences = keys if keys is not None and keys.starts is not None else None
            with Interception(site, module, keys=key.shape[2], sequences=sequences):
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


def _kernel_function(base: str) -> Any:
    """Return a function around a kernel that computes no map, FlashAttention's or FlexAttention."""
    kernel: Any = flex if base == flex.NAME else flash

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        site: AttentionSite = module.__dict__["config"].__dict__["site"]
        _refuse_cache(module, kwargs)
        site.see_map(query, key)
        scaling = kwargs.pop("scaling", None)
        kwargs["dropout"] = 0.0  # the model's own is off: with it there is no fused path

        def plain(query: Tensor, key: Tensor, value: Tensor, scaling: float, **more: Any) -> Any:
            if "position_bias" in more and (own := kwargs.get("position_bias")) is not None:
                more["position_bias"] = more["position_bias"] + own
            given = {**kwargs, **more}
            with site.inside_kernel():
                function = _base_function(base, module)
                return function(module, query, key, value, attention_mask, scaling=scaling, **given)

        is_causal = kwargs.get("is_causal")
        output = site.attend_in_kernel(
            kernel.attend,
            plain,
            query,
            key,
            value,
            kernel.read_keys(key, attention_mask, kwargs),
            is_causal=getattr(module, "is_causal", True) if is_causal is None else is_causal,
            scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
            has_sinks=kwargs.get("s_aux") is not None,
        )
        return output.contiguous(), None

    return attention


def _refuse_cache(module: nn.Module, kwargs: Mapping[str, Any]) -> None:
    if kwargs.get("cache") is not None:
        raise AttachError(
            f"{type(module).__name__} trains with a paged cache, in which keys cannot be"
            " dropped; leave the cache out"
        )


def _base_function(base: str, module: nn.Module) -> Any:
    if base == "eager":
        return _eager_function(module)
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS[base]


def _eager_function(module: nn.Module) -> FunctionType:
    """Return what computes a module's attention under the name ``eager``: each model has its own.

    It is a function that the module's code looks up, and is called ``eager_attention_forward``, or
    so in a model of several towers and in code of a user's own, or takes what such a function does.

    Raises:
        AttachError: if there is none that could be found.
    """
    forward = inspect.unwrap(type(module).forward)
    names = (*forward.__code__.co_names, *sorted(calls(module)))
    found = [forward.__globals__.get(name) for name in dict.fromkeys(names)]
    functions = [each for each in found if isinstance(each, FunctionType)]
    for is_it in (_is_named_eager, _takes_a_module):
        if own := [function for function in functions if is_it(function)]:
            return own[0]
    raise AttachError(
        f"{type(module).__name__} has no function for attn_implementation='eager' that its code"
        " looks up by a name, so its attention cannot drop; load the model with"
        " attn_implementation='sdpa'"
    )


def _is_named_eager(function: FunctionType) -> bool:
    return "eager" in function.__name__


def _takes_a_module(function: FunctionType) -> bool:
    """Whether a function takes an attention module, queries, keys, values and a mask."""
    code = function.__code__
    return code.co_argcount >= 5 and code.co_varnames[0] == "module"

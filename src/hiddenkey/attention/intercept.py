"""Attention outside transformers' attention interface: its own calls are seen and changed.

While such a module's ``forward`` runs in training, a mode sees every call of a torch function. Its
softmax over keys, and its ``scaled_dot_product_attention``, get the drops of the module's site; the
rest of its code stays what it is, position terms, soft caps and sinks included. The mathematics is
that of ``reference.py``; masks are read from the logits, since nobody hands them over.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType, FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.hooks import RemovableHandle

from hiddenkey.anatomy.unsuited import has_shared_keys
from hiddenkey.attention import reference
from hiddenkey.attention.blocks import BlockDraws
from hiddenkey.attention.keys import VisibleKeys
from hiddenkey.attention.layouts import Call, layouts_of
from hiddenkey.attention.same_map import SameMap
from hiddenkey.attention.view import HIDDEN_BELOW, is_ordered
from hiddenkey.errors import AttachError
from hiddenkey.framework.booleans import any_along

if TYPE_CHECKING:
    from hiddenkey.attention.site import AttentionSite
    from hiddenkey.framework.config import Drop

UNSEEN_BELOW_MAXIMUM = 80.0
"""So far below a query's largest logit a weight is under 1e-34, and its key as good as hidden."""

_SOFTMAX = (torch.softmax, torch.Tensor.softmax, F.softmax, torch.special.softmax)
_CHANGED = (*_SOFTMAX, F.scaled_dot_product_attention, F.multi_head_attention_forward)


class Interception(TorchFunctionMode):
    """Applies a site's drops to what an attention module calls while the mode is entered.

    Args:
        site: the drops.
        module: the attention module, for messages.
        keys: how many keys there are, where that is known; further columns of the logits are sinks,
            which no drop touches.
        blocks: what draws for a module that lays its logits out in blocks.
        caller: the frame that calls the module; the mode acts only while it runs. An interrupt
            ends that call without the hook that would take the mode off.
        sequences: the keys of rows that hold several sequences each, where that is known.
    """

    def __init__(
        self,
        site: AttentionSite,
        module: nn.Module,
        keys: int | None = None,
        blocks: BlockDraws | None = None,
        caller: FrameType | None = None,
        sequences: VisibleKeys | None = None,
    ) -> None:
        super().__init__()
        self.served = 0
        self._site = site
        self._module = module
        self._keys = keys
        self._blocks = blocks
        self._caller = caller
        self._sequences = sequences

    def is_running(self) -> bool:
        """Whether the call that the mode was entered for is on its way."""
        frame: FrameType | None = self._caller and sys._getframe(1)
        while frame is not self._caller and frame is not None:
            frame = frame.f_back
        return frame is self._caller

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _CHANGED and not self.is_running():
            return func(*args, **kwargs)
        if func is torch.gather and self._blocks is not None:
            self._blocks.see_gather(*args, **kwargs)
        if func in _SOFTMAX:
            return self._softmax(func, *args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._sdpa(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            with self:  # what it calls would otherwise pass the mode unseen
                return _multi_head_attention_forward(*args, **kwargs)
        return func(*args, **kwargs)

    def _softmax(
        self,
        softmax: Callable[..., Tensor],
        input: Tensor,
        dim: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        if dim not in (-1, input.dim() - 1) or input.dim() < 3:
            return softmax(input, dim, *args, **kwargs)  # over something else than keys
        self.served += 1
        if self._keys is None:  # otherwise the module handed over what they are computed from
            self._site.see_map(input, input)
        draw: Callable[[Drop, Tensor], Tensor]
        if self._blocks is None:
            self._refuse_other_keys(input)
            logits = _four_axes(input)
            draw = partial(_draw, self._site, sequences=self._sequences)
        else:
            logits = input
            draw = self._blocks.next_draw(input)

        def weigh(kept: Tensor) -> Tensor:
            return softmax(kept.reshape(input.shape), dim, *args, **kwargs).reshape(kept.shape)

        return drop_from_softmax(self._site, logits, weigh, self._keys, draw).reshape(input.shape)

    def _refuse_other_keys(self, input: Tensor) -> None:
        if input.dim() > 4 and not has_shared_keys(self._module):
            raise AttachError(
                f"{type(self._module).__name__} takes a softmax over {list(input.shape)}, whose"
                " last axis is no sequence of keys that all queries share; leave attention drops"
                " out, for instance with the method 'hiddencut'"
            )
        self._refuse_folded_heads(input)

    def _sdpa(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        self.served += 1
        self._refuse_folded_heads(query)
        self._site.see_map(query, key)
        if is_causal and query.shape[-2] == 1:  # which sees the first key alone
            key, value, is_causal = key[..., :1, :], value[..., :1, :], False
        lead = query.shape[:-2]
        if attn_mask is not None:
            attn_mask = attn_mask.expand(*lead, *attn_mask.shape[-2:])
        output = self._site.attend(
            _four_axes(query),
            _four_axes(key),
            _four_axes(value),
            None if attn_mask is None else _four_axes(attn_mask),
            is_causal=is_causal or (None if attn_mask is not None else False),
            mask_implies_causal=True,
            scaling=query.shape[-1] ** -0.5 if scale is None else scale,
            dropout=dropout_p,
        )
        return output.view(*lead, *output.shape[-2:])

    def _refuse_folded_heads(self, states: Tensor) -> None:
        if self._site.config.share_heads and states.dim() != 4:
            raise AttachError(
                f"{type(self._module).__name__} folds its heads into another axis, so share_heads"
                " cannot tell them apart; set share_heads=False"
            )


def intercept(module: nn.Module, site: AttentionSite) -> list[RemovableHandle]:
    """Let a site act on whatever attention a module computes in training.

    Returns:
        Handles that take it off again.

    Raises:
        AttachError: in training, if the module computes no attention that could be seen.
    """
    hooks = _Hooks(module, site)
    return [
        module.register_forward_pre_hook(hooks.enter, with_kwargs=True),
        module.register_forward_hook(hooks.leave, always_call=True),  # also after an exception
    ]


class _Hooks:
    """Puts an interception around each training call of a module; a copied model has its own."""

    def __init__(self, module: nn.Module, site: AttentionSite) -> None:
        self._site = site
        self._layouts = layouts_of(module)
        self._names = tuple(inspect.signature(type(module).forward).parameters)[1:]
        self._entered: list[Interception] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_entered": []}  # calls are not copied

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if module.training and not self._site.is_silent:
            blocks = None
            if self._layouts is not None:
                arguments = {**dict(zip(self._names, args, strict=False)), **kwargs}
                blocks = BlockDraws(self._site, Call(module, arguments), self._layouts)
            self._site.same_map = SameMap()
            remove_interrupted()
            self._entered[:] = [mode for mode in self._entered if mode.is_running()]
            caller = None if torch.compiler.is_compiling() else sys._getframe(1)
            self._entered.append(Interception(self._site, module, blocks=blocks, caller=caller))
            self._entered[-1].__enter__()  # type: ignore[no-untyped-call]

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._entered:
            return
        self._site.same_map = None
        mode = self._entered.pop()
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if output is not None and not mode.served:
            raise AttachError(
                f"{type(module).__name__} ran without a softmax over keys that could be seen, so"
                " none was dropped; leave attention drops out, for instance with the method"
                " 'hiddencut'"
            )


def remove_interrupted() -> None:
    """Take off the modes of calls that an interrupt has ended."""
    stack = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    while stack and isinstance(mode := stack.pop(), Interception) and not mode.is_running():
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]


def drop_from_softmax(
    site: AttentionSite,
    logits: Tensor,
    softmax: Callable[[Tensor], Tensor],
    keys: int | None = None,
    draw: Callable[[Drop, Tensor], Tensor] | None = None,
) -> Tensor:
    """Turn logits into weights, with a site's drops before and after.

    Args:
        site: the drops.
        logits: ``[batch, heads, queries, keys]``, hidden keys masked; any layout with ``draw``.
        softmax: the module's own, over the last axis.
        keys: number of keys where further columns are sinks; ``None``: all columns are keys.
        draw: returns the keep mask of a drop, given which logits are visible; ``None``: the site's.
    """
    draw = draw or partial(_draw, site)
    own = logits.detach()[..., :keys]
    visible = own > HIDDEN_BELOW
    reach = visible & (own > own.amax(-1, keepdim=True) - UNSEEN_BELOW_MAXIMUM)
    if site.logits is not None and site.logits.rate:
        keep = reference.rescue(draw(site.logits, visible), reach)
        logits, reach = reference.dropkey(logits, _with_sinks(keep, logits)), reach & keep
    weights = softmax(logits)
    if site.weights is not None and site.weights.rate:
        keep = reference.rescue(draw(site.weights, visible), reach)
        weights = reference.dropattention(
            weights, _with_sinks(keep, logits), site.weights.rate, site.weights.rescaling
        )
    return weights


def _draw(
    site: AttentionSite, drop: Drop, visible: Tensor, sequences: VisibleKeys | None = None
) -> Tensor:
    keys = sequences or VisibleKeys(any_along(any_along(visible, -2), 1))
    protect = is_ordered(visible) if site.protects_first else False
    return site.draw(drop, visible, keys, protect)


def _with_sinks(keep: Tensor, logits: Tensor) -> Tensor:
    return F.pad(keep, (0, logits.shape[-1] - keep.shape[-1]), value=True)


def _four_axes(states: Tensor) -> Tensor:
    """Fold the leading axes into ``[batch, heads]``."""
    if states.dim() == 3:
        return states.unsqueeze(1)
    return states if states.dim() == 4 else states.flatten(0, -4)


def _without_override_check(function: Any) -> Any:
    """Copy a function of torch so that it does not hand itself to the active mode again."""
    names = {**function.__globals__, "has_torch_function": lambda arguments: False}
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


_multi_head_attention_forward = _without_override_check(F.multi_head_attention_forward)

"""Runs a Hugging Face language model without its logits.

A hook before the model's output embedding keeps what reaches it and lets one token through; the
model's ``loss_function`` is replaced, through transformers' own setter and for the length of one
pass, by one that keeps the labels and returns zero. Shifting, ``num_items_in_batch`` and auxiliary
losses thus stay the model's own business. What the model does between the head and its loss is
found by comparing the two.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiddenkey import anatomy
from hiddenkey.anatomy.part import saved_copies
from hiddenkey.anatomy.sharding import is_of_fsdp
from hiddenkey.chunked_loss.head import Head, LinearHead, ModuleHead
from hiddenkey.chunked_loss.post import Post, PostHead, Scaled, SoftCapped
from hiddenkey.chunked_loss.sums import IGNORED_LABEL
from hiddenkey.errors import AttachError

_LOSSES = {"ForCausalLMLoss": True, "ForMaskedLMLoss": False}  # and whether labels are shifted
_LOSS_MODULE = "transformers.loss.loss_utils"
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")


@dataclass(frozen=True)
class Captured:
    """What a language model's loss is computed from.

    Attributes:
        states: ``[batch, tokens, hidden]``, what reached the head.
        labels: ``[batch, tokens]``, what each position is to predict; −100 where nothing.
        items: the divisor of the summed loss; ``None`` where the loss is a mean.
    """

    states: Tensor
    labels: Tensor
    items: Tensor | int | None


class _Pass:
    """One model call with the hooks at work."""

    def __init__(self, on_loss: Callable[[Captured], None] | None) -> None:
        self.on_loss = on_loss
        self.states: Tensor | None = None
        self.outputs: Tensor | None = None
        self.outputs_then: Tensor | None = None  # a copy: the model may change them in place
        self.calls = 0
        self.is_computing = False
        self.captured: Captured | None = None
        self.zero: Tensor | None = None
        self.fault: str | None = None


def refusal(transformer: Any) -> str | None:
    """Say why a model cannot run without its logits; ``None`` if it may."""
    if anatomy.task_of(transformer) not in ("ForCausalLM", "ForMaskedLM"):
        return "it is no causal or masked language model"
    if not isinstance(transformer.get_output_embeddings(), nn.Module):
        return "it names no output embedding"
    code = getattr(inspect.unwrap(type(transformer).forward), "__code__", None)
    if code is None or "loss_function" not in code.co_names:
        return "its forward does not call transformers' loss_function"
    loss = transformer.loss_function
    if getattr(loss, "__module__", "") != _LOSS_MODULE or loss.__name__ not in _LOSSES:
        return (
            f"its loss function is {getattr(loss, '__name__', loss)}, not the plain cross-entropy"
        )
    return None


class HeadCapture:
    """The hooks on one model, from :func:`refusal`'s ``None`` until :meth:`remove`.

    Args:
        transformer: the Hugging Face model.

    Attributes:
        is_verified: whether a pass has shown that the loss follows from what is captured.
    """

    def __init__(self, transformer: Any) -> None:
        self.is_verified = False
        self._transformer = transformer
        self._module: nn.Module = transformer.get_output_embeddings()
        self._plain_loss = transformer.loss_function
        self._is_shifted = _LOSSES[self._plain_loss.__name__]
        self._size = 0
        self._post: Post | None = None
        self._pass: _Pass | None = None
        self._loss_before: Any = None
        self._handles = [
            self._module.register_forward_pre_hook(self._trim),
            self._module.register_forward_hook(self._keep_outputs),
        ]

    @property
    def is_loss_replaced(self) -> bool:
        """Whether the model's loss is another function than when this was made."""
        if self._pass is not None or torch.compiler.is_compiling():
            return False
        return self._transformer.loss_function is not self._plain_loss

    def remove(self) -> None:
        """Take the hooks off the model."""
        self.end()
        for handle in self._handles:
            handle.remove()

    def begin(self, on_loss: Callable[[Captured], None] | None = None) -> None:
        """Let the next call run without logits.

        Args:
            on_loss: called where the model calls its loss, in the model's own context (autocast).

        Raises:
            AttachError: if the head is not the one that was hooked.
        """
        self.end()
        if self._transformer.get_output_embeddings() is not self._module:
            raise AttachError(
                "the language-model head was replaced after attach, so its loss would be lost;"
                " attach after get_peft_model and after every other change of the model"
            )
        self._pass = _Pass(on_loss)
        self._loss_before = self._transformer.__dict__.get("_loss_function")
        self._transformer.loss_function = self._loss

    def end(self) -> None:
        """Let the model's calls run as before. Does nothing twice."""
        if self._pass is None:
            return
        self._pass = None
        if self._loss_before is None:
            del self._transformer._loss_function
        else:
            self._transformer.loss_function = self._loss_before

    def take(self, output: Any) -> Captured | str:
        """End the pass; return what it captured, or why its loss cannot be computed from that."""
        assert self._pass is not None
        done = self._pass
        self.end()
        if done.fault is not None:
            return done.fault
        if done.captured is None:
            return "it did not call its loss"
        added = output.loss is not done.zero or done.zero._version > 0
        if added and getattr(output, "aux_loss", None) is None:
            return "it adds something of its own to the loss"
        self.is_verified = True
        return done.captured

    def head(self) -> Head:
        """Return the head as it is now, with what the model does to its output."""
        module = next(iter(saved_copies(self._module).values()), self._module)
        passed = self._passed_hooks() if module is self._module else frozenset()
        head: Head
        if _is_plain_linear(module, passed):
            linear: Any = module
            head = LinearHead(linear.weight, linear.bias)
        else:
            head = ModuleHead(module, self._size, passed)
        return head if self._post is None else PostHead(head, self._post)

    def _passed_hooks(self) -> frozenset[int]:
        """The keys of hooks on the head that have acted on what was kept, and of our own."""
        own = {handle.id for handle in self._handles}
        before = takewhile(lambda key: key not in own, self._module._forward_pre_hooks)
        acted = (key for key in before if not is_of_fsdp(self._module._forward_pre_hooks[key]))
        return frozenset({*own, *acted})

    def _trim(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        now = self._pass
        if now is None or now.is_computing:
            return None
        now.calls += 1
        states = args[0] if args else None
        if not isinstance(states, Tensor) or states.dim() != 3:
            now.fault = "its head is not called with [batch, tokens, hidden]"
            return None
        now.states = states
        return (states[:, :1].detach(), *args[1:])

    def _keep_outputs(self, module: nn.Module, args: Any, output: Any) -> None:
        now = self._pass
        if now is not None and not now.is_computing and not self.is_verified:
            now.outputs, now.outputs_then = output, output.clone()

    def _loss(
        self,
        logits: Tensor,
        labels: Tensor,
        vocab_size: int | None = None,
        num_items_in_batch: Tensor | int | None = None,
        ignore_index: int = IGNORED_LABEL,
        shift_labels: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Stand in for transformers' ``ForCausalLMLoss`` and ``ForMaskedLMLoss``."""
        now = self._pass
        assert now is not None
        now.zero = torch.zeros((), dtype=torch.float32, device=logits.device)
        now.fault = now.fault or self._fault(now, logits, labels, vocab_size, ignore_index)
        if now.fault is not None or now.states is None:
            return now.zero
        if shift_labels is not None:
            labels = shift_labels
        elif self._is_shifted:
            labels = F.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
        now.captured = Captured(now.states, labels.to(now.states.device), num_items_in_batch)
        now.states = None
        if now.on_loss is not None:
            now.is_computing = True
            now.on_loss(now.captured)
        return now.zero

    def _fault(
        self, now: _Pass, logits: Tensor, labels: Tensor, vocab_size: int | None, ignore_index: int
    ) -> str | None:
        if now.calls != 1 or now.states is None:
            return f"it calls its head {now.calls} times before its loss"
        if labels.shape != now.states.shape[:2]:
            return "its labels do not fit what reaches its head"
        if vocab_size not in (None, logits.shape[-1]) or ignore_index != IGNORED_LABEL:
            return "its loss is not over all its logits, or ignores another label than -100"
        if self.is_verified:
            return None
        if not all(_is_plain(parameter) for parameter in self._module.parameters()):
            return "its head's weights are no plain tensors, but sharded or quantised"
        outputs = now.outputs_then
        if outputs is None or outputs.shape != logits.shape:
            return "its loss does not get its head's logits"
        self._size = logits.shape[-1]
        if logits is now.outputs and torch.equal(logits, outputs):
            return None
        found = find_post(outputs, logits, anatomy.text_config(self._transformer))
        if isinstance(found, str):
            return found
        self._post = found
        return None


def find_post(outputs: Tensor, logits: Tensor, config: Any) -> Post | str | None:
    """Find what lies between a head's output and the loss.

    Args:
        outputs: the head's.
        logits: what the loss got.
        config: of the model; its numbers are tried.

    Returns:
        The function, ``None`` for nothing, or why it is unknown.
    """
    for post in _candidates(config):
        if any(
            torch.equal(post.apply(x).to(logits.dtype), logits) for x in (outputs, outputs.float())
        ):
            return post
    if torch.equal(outputs.to(logits.dtype), logits):
        return None
    return "it does something unknown to its head's logits before its loss"


def _candidates(config: Any) -> list[Post]:
    """Functions that the numbers in a configuration suggest."""
    numbers = {name: getattr(config, name, None) for name in (*_CAPS, *_SCALES)}
    posts: list[Post] = []
    for name, number in numbers.items():
        if not isinstance(number, int | float) or number in (0, 1):
            continue
        if name in _CAPS:
            posts.append(SoftCapped(number))
        else:
            posts += [Scaled(number), Scaled(number, divides=True)]
    return posts


def _is_plain_linear(module: nn.Module, passed: frozenset[int]) -> bool:
    """Whether a call is W h + b and nothing else: no adapter, and no hook but ``passed`` ones."""
    if type(module).forward is not nn.Linear.forward or "forward" in module.__dict__:
        return False
    hooks = {**module._forward_hooks, **module._forward_pre_hooks}
    return all(key in passed or is_of_fsdp(hook) for key, hook in hooks.items())


def _is_plain(parameter: Tensor) -> bool:
    plain = type(parameter) in (Tensor, nn.Parameter) and parameter.is_floating_point()
    return plain and not hasattr(parameter, "ds_id")  # DeepSpeed keeps a shard

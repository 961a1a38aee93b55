"""Runs the layers below the first noisy one once for both passes of the consistency loss.

Two passes over a batch are equal up to where noise enters: with noise in the top m of L layers,
the second pass costs m/L of a forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from hiddenkey.anatomy import Part
from hiddenkey.anatomy.sharding import is_sharded
from hiddenkey.step import caches

_NOT_SHARED = ("output_hidden_states", "output_attentions")  # they show what was not run


class SharedLayers:
    """The layers whose outputs two passes have in common.

    While they are given, these layers return what :meth:`run` saw without computing anything.

    Args:
        transformer: the Hugging Face model.
        shared: its layers below the first noisy one, in order; at least one.
        others: the layers above.

    Attributes:
        layers: the shared layers.
        is_trusted: whether a pass that shares them was seen to equal one that does not; ``None``
            until that was looked at.
    """

    def __init__(self, transformer: nn.Module, shared: Sequence[Part], others: Iterable[Part]):
        self.is_trusted: bool | None = None
        self.layers = [part.module for part in shared]
        self._transformer = transformer
        self._noisy = tuple(f"{part.name}." for part in others)
        self._output: Any = None
        self._was_given = False
        self._before: dict[nn.Module, Any] = {}  # the forwards that are replaced at this moment

    @property
    def is_compared(self) -> bool:
        """Whether :meth:`compare` is at work, whose draws train nothing."""
        return self._was_given and self.is_trusted is None

    def run(self, call: Callable[[Mapping[str, Any]], Any], arguments: Mapping[str, Any]) -> bool:
        """Run the shared layers on a batch, with gradient.

        Args:
            call: calls the model without its hooks.
            arguments: of the call, by name.

        Returns:
            False if they cannot be shared in this pass: two passes may differ in them, or more is
            asked of them than their output.
        """
        if not self._fits(arguments):
            return False
        handle = self.layers[-1].register_forward_hook(_stop)
        try:
            call(arguments)
        except _ReachedError as reached:
            self._output = reached.output
        finally:
            handle.remove()
        return self._output is not None

    def give(self, chosen: Tensor | None, *, once_more: bool) -> None:
        """Let each shared layer return its output when it is called next.

        Each computes again from then on, so that a pass which is interrupted in the layers above
        (``KeyboardInterrupt`` runs no hooks) leaves the model as it is.

        Args:
            chosen: ``[sequences]``, indices of those that take part in the pass; ``None``: all.
            once_more: another pass follows, so that the outputs must stay as they are.
        """
        self._put_back()
        self._was_given = True
        output = _select(self._output, chosen, copy=once_more)
        for layer in self.layers:
            self._before[layer] = layer.__dict__.get("forward")
            layer.__dict__["forward"] = functools.partial(self._return, layer, output)

    def _return(self, layer: nn.Module, output: Any, *args: Any, **kwargs: Any) -> Any:
        """Stand for a layer's ``forward``, once."""
        self._put_back(layer)
        return output

    def compare(self, shared: Callable[[], Tensor], whole: Callable[[], Tensor]) -> None:
        """Find out, once, whether a model's later layers see of these no more than their output.

        Some read what earlier ones left elsewhere: keys and values, outputs further back.

        Args:
            shared: runs a pass in which these layers are given; returns what is compared of it.
            whole: runs the same pass in full.
        """
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices):
            try:
                one = shared()
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
                self.is_trusted = False
                return
            finally:
                self._put_back()
        with torch.random.fork_rng(devices):
            other = whole()
        tolerance = 0.05 if other.dtype in (torch.bfloat16, torch.float16) else 1e-3
        self.is_trusted = one.shape == other.shape and torch.allclose(
            one.float(), other.float(), rtol=tolerance, atol=tolerance * other.abs().max().item()
        )

    def release(self) -> bool:
        """Let the layers compute again; return whether they were given."""
        was_given, self._was_given = self._was_given, False
        self._put_back()
        self._output = None
        return was_given

    def _put_back(self, *layers: nn.Module) -> None:
        """Give layers their own forward back; all of them where none is named."""
        for layer in layers or tuple(self._before):
            forward = self._before.pop(layer)
            if forward is None:
                del layer.__dict__["forward"]
            else:
                layer.__dict__["forward"] = forward

    def _fits(self, arguments: Mapping[str, Any]) -> bool:
        config: Any = self._transformer.config
        if torch.compiler.is_compiling() or caches.given(arguments) is not None:
            return False
        if any(arguments.get(key, getattr(config, key, False)) for key in _NOT_SHARED):
            return False
        if any(getattr(layer, "gradient_checkpointing", False) for layer in self.layers):
            return False  # a backward pass would recompute what was not computed here
        if any(is_sharded(layer) for layer in self.layers):
            return False  # one output for all of them: a backward pass would gather all at once
        return not any(
            isinstance(module, _DropoutNd) and module.p > 0 and module.training
            for name, module in self._transformer.named_modules()
            if not name.startswith(self._noisy)
        )


class _ReachedError(Exception):
    """Ends a pass at the last shared layer."""

    def __init__(self, output: Any) -> None:
        super().__init__("the shared layers have run")
        self.output = output


def _stop(module: nn.Module, args: Any, output: Any) -> None:
    raise _ReachedError(output)


def _select(output: Any, chosen: Tensor | None, *, copy: bool) -> Any:
    """Return a layer's output for the chosen sequences; a copy if a layer may write into it."""
    if isinstance(output, tuple):
        return tuple(_select(part, chosen, copy=copy) for part in output)
    if not isinstance(output, Tensor):
        return output
    if chosen is not None:
        return output[chosen]
    return output.clone() if copy else output

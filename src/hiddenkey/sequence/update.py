"""Noise on the update that an adapter adds to a frozen layer, whose own path stays as it is.

A layer with frozen weight W and matrices A ``[ranks, inputs]`` and B ``[outputs, ranks]`` computes
W·x + s·B·A·x, s its scaling. With D the drop of a pattern (m · states / (1 − p), or m · states), a
training pass computes

======================  ===========================  =========================================
pattern                 output                       source
======================  ===========================  =========================================
``rank``                W·x + s·B·D(A·x)             DropLoRA, arXiv 2508.17337: B·diag(m)·A
``two-sided``           W·x + s·D(B·A·D(x))          LoRA dropout, arXiv 2404.09610:
                                                     diag(m_B)·B·A·diag(m_A)
``adapter``             W·x + s·D(B·A·x), one m for  CoTo, arXiv 2506.05713
                        all adapters of a layer
any other               W·x + s·D(B·A·x)             dropout, JMLR 15 (2014) 1929-1958
======================  ===========================  =========================================

DoRA divides by the norm of W + s·B·A. Its norm is computed from the weights as they are, so that
noise is on the term s·B·A·x alone, before the magnitude multiplies it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hiddenkey.anatomy.low_rank import active_pairs, is_merged, low_rank_pairs
from hiddenkey.errors import AttachError

if TYPE_CHECKING:
    from hiddenkey.sequence.site import SequenceSite

_ENDS = {"rank": ("bottleneck",), "two-sided": ("input", "output")}


class UpdateHooks:
    """The hooks on one adapted module: on the matrices of all its adapters, active or not.

    Args:
        module: the adapted module.
        site: drops units of the states that it is given.
    """

    def __init__(self, module: nn.Module, site: SequenceSite) -> None:
        self._site = site
        self._ends = _ENDS.get(site.drop.pattern, ("output",))
        self._pairs = low_rank_pairs(module)
        self._partner = {up: down for down, up in self._pairs.values()}
        self._entered: nn.Module | None = None  # the matrix A that ran last
        self._input: Any = None  # of DoRA's forward, while it runs
        self._weighs = False  # B and A multiply the unit matrix, for DoRA's norm
        self._handles: list[RemovableHandle] = [module.register_forward_pre_hook(self._check)]
        for down, up in self._pairs.values():
            self._handles += [
                down.register_forward_pre_hook(self._enter),
                down.register_forward_hook(self._between),
                up.register_forward_hook(self._leave),
            ]
        for magnitude in getattr(module, "lora_magnitude_vector", {}).values():
            self._handles += [
                magnitude.register_forward_pre_hook(self._begin_norm),
                magnitude.register_forward_hook(self._end_norm, always_call=True),
            ]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _check(self, module: nn.Module, args: Any) -> None:
        """Refuse adapters that came after :func:`hiddenkey.attach`, and merged ones."""
        if not module.training or torch.compiler.is_compiling():
            return
        if is_merged(module):
            raise AttachError(
                "an adapter was merged into its layer, so the noise on its update would be lost;"
                " call unmerge_adapter() before training goes on"
            )
        for name, pair in active_pairs(module).items():
            if pair != self._pairs.get(name):
                raise AttachError(
                    f"adapter {name!r} was added or replaced after attach, so the noise on its"
                    " update would be lost; attach again after add_adapter and load_adapter"
                )

    def _begin_norm(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._input = args[0]

    def _end_norm(self, module: nn.Module, args: Any, output: Any) -> None:
        self._input = None

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        self._entered = module
        self._weighs = self._input is not None and args[0] is not self._input
        return (self._drop("input", args[0]), *args[1:]) if "input" in self._ends else None

    def _between(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return self._drop("bottleneck", output)

    def _leave(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        entered, self._entered = self._entered, None
        if entered is not self._partner[module] and self._ends != ("output",):
            raise AttachError(
                "an adapter multiplied by its matrix A without calling it, so the noise of pattern"
                f" {self._site.drop.pattern!r} would be lost, as with VeLoRA and MonteCLoRA; use"
                " another pattern, such as 'element'"
            )
        return self._drop("output", output)

    def _drop(self, end: str, states: Tensor) -> Tensor:
        if end not in self._ends or self._weighs or self._site.is_silent:
            return states
        if states.dim() == 2 and self._site.in_sequences(states) is None:
            # tokens that a router chose: of unknown sequences, so of one
            return self._site.apply(states[None])[0]
        return self._site.apply(states)


class LayerDraw:
    """One draw for all adapted modules of a layer, in each call of the layer.

    Args:
        layer: its call begins a new draw.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._drawn: tuple[float, Tensor] | None = None
        self._handles = [
            layer.register_forward_pre_hook(self._begin),
            layer.register_forward_hook(self._prepare_recomputing),
        ]

    def mask(self, rate: float, draw: Callable[[], Tensor]) -> Tensor:
        """Return the layer's keep mask; a module of another rate has one of its own."""
        if self._drawn is None:
            self._drawn = rate, draw()
        return self._drawn[1] if self._drawn[0] == rate else draw()

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _begin(self, layer: nn.Module, args: Any) -> None:
        self._drawn = None

    def _prepare_recomputing(self, layer: nn.Module, args: Any, output: Any) -> None:
        """Let activation checkpointing run the layer again with the draw of this call.

        transformers checkpoints a layer's ``forward``, so that no hook of the layer runs again. Its
        first module then has to draw again, as all random numbers after it depend on that. Where a
        part of the layer alone may run again, the draw is taken to be one from before that part.
        """
        states = output[0] if isinstance(output, tuple) else output
        if not isinstance(states, Tensor) or not states.requires_grad:
            return
        if torch.compiler.is_compiling():  # draws and their repetition are in one graph
            return
        drawn = None if getattr(layer, "gradient_checkpointing", False) else self._drawn

        def restore(gradient: Tensor) -> None:
            self._drawn = drawn

        states.register_hook(restore)  # type: ignore[no-untyped-call]

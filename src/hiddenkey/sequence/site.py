"""What happens at one module while it trains with a sequence drop attached."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from hiddenkey.anatomy.part import linear_shape
from hiddenkey.errors import AttachError
from hiddenkey.framework.config import Drop
from hiddenkey.framework.patterns import ALIKE_IN_PACKED_ROWS
from hiddenkey.framework.positions import POSITIONS
from hiddenkey.measure import ShareCounter
from hiddenkey.sequence.drop import draw_map, draw_packed, draw_sequence, drop
from hiddenkey.sequence.update import LayerDraw, UpdateHooks


class Removable(Protocol):
    """What takes hooks off again."""

    def remove(self) -> None:
        """Take them off."""


@dataclass
class SequenceSite:
    """The drop of one module, for the positions outside attention.

    Attributes:
        drop: what is dropped.
        visible: gives the batch's visible tokens, boolean ``[batch, tokens]``, or ``None``.
        counting: whether draws count now; not while activation checkpointing runs a layer again.
        counter: the measured share.
        shared: the draw that this module has in common with others; ``None`` if it draws alone.
        grid: gives the batch's ``[batch, tokens]``, padding included, or ``None``; ``None``: nobody
            knows.
        tokens_first: whether states are ``[tokens, batch, features]``, as in fairseq's models,
            XLNet and PyTorch's attention by default; where the grid tells, it is known from there.
        layer_mask: gives the visible tokens of states ``[batch, tokens]`` by the mask of the layer
            around, and the number of each token's sequence where rows hold several, or ``None``;
            asked where ``visible`` is of other states.
    """

    drop: Drop
    visible: Callable[[], Tensor | None]
    counting: Callable[[], bool]
    counter: ShareCounter = field(default_factory=ShareCounter)
    shared: LayerDraw | None = None
    grid: Callable[[], torch.Size | None] | None = None
    tokens_first: bool = False
    layer_mask: Callable[[torch.Size], tuple[Tensor, Tensor | None] | None] | None = None
    _module: nn.Module = field(init=False, repr=False)

    def install(self, module: nn.Module) -> Removable:
        """Act on what comes into ``module``, on what comes out, or inside, as the position says."""
        position = POSITIONS[self.drop.position]
        if position.inside == "update":
            self._module = module
            return UpdateHooks(module, self)
        if callable(position.inside):
            self._module = module
            return position.inside(module, self)
        return self.hook(module, before=position.acts == "before")

    def hook(self, module: nn.Module, *, before: bool) -> RemovableHandle:
        """Act on what comes into ``module`` (``before``) or on what comes out of it."""
        self._module = module
        if before:
            return module.register_forward_pre_hook(self._before, with_kwargs=True)
        return module.register_forward_hook(self._after)

    def set_rate(self, rate: float) -> None:
        """Change the rate from now on."""
        self.drop = dataclasses.replace(self.drop, rate=rate)

    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self.is_silent:
            return None
        if args:
            return (self.apply(args[0]), *args[1:]), kwargs
        name = "hidden_states" if "hidden_states" in kwargs else "inputs_embeds"
        if name not in kwargs:
            raise AttachError(
                f"{type(module).__name__} was called without its hidden states as first argument;"
                f" position {self.drop.position!r} is not supported on this architecture yet"
            )
        return args, {**kwargs, name: self.apply(kwargs[name])}

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self.is_silent:
            return None
        if isinstance(output, tuple) and not isinstance(output, PackedSequence):
            return (self._apply_in_order(module, output[0]), *output[1:])
        return self._apply_in_order(module, output)

    def _apply_in_order(self, module: nn.Module, states: Any) -> Tensor:
        """Drop units of what a module returns, in the order of axes that its kind has."""
        if isinstance(states, PackedSequence):
            raise AttachError(
                f"{type(module).__name__} was given a packed sequence, whose tokens stand in no"
                " grid that a mask could cover; give it padded tensors and an attention_mask"
            )
        if isinstance(module, nn.Conv1d):  # [batch, features, tokens]
            return self.apply(states.transpose(1, 2)).transpose(1, 2)
        if isinstance(module, nn.RNNBase) and states.dim() == 3 and not module.batch_first:
            return self.apply(states.transpose(0, 1)).transpose(0, 1)  # [tokens, batch, features]
        if states.dim() == 4 and linear_shape(module) is None:
            return self.apply_to_map(states)
        return self.apply(states)

    @property
    def is_silent(self) -> bool:
        """Whether nothing is dropped now: in evaluation mode, and at rate 0."""
        return not self._module.training or self.drop.rate == 0

    def apply(self, states: Tensor) -> Tensor:
        """Drop units of ``states``, ``[batch, tokens, features]`` or ``[batch, features]``.

        Some code gives its linear layers the tokens of all sequences in one row after the other
        (OPT); they are dropped as those of their sequences. Some tokens of them, such as those of
        one modality, are of unknown sequences, and are dropped as those of one.
        """
        if self.is_silent:
            return states
        if (sequences := self.in_sequences(states)) is not None:
            return self.apply(sequences).reshape(states.shape)
        if self._are_chosen(states):
            return self.apply(states[None])[0]
        self._see_order(states)
        ordered = states.transpose(0, 1) if self.tokens_first and states.dim() == 3 else states
        visible, number = self._tokens_of(ordered)
        keep = self._draw(ordered, visible, number)
        if self.counting():
            self._count(keep, visible, ordered)
        if ordered is not states:
            keep = keep.transpose(0, 1).contiguous()
        return drop(states, keep, self.drop.rate, self.drop.rescaling)

    def _tokens_of(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what is known of the tokens of states.

        Returns:
            The visible ones, or what broadcasts to them where all are; and the number of each
            token's sequence, ``[batch, tokens]``, if it is known that rows hold several.
        """
        visible = self.visible()
        if visible is not None and visible.shape == states.shape[:2]:
            return visible, None
        asks = self.layer_mask if states.dim() == 3 else None
        known = None if asks is None else asks(states.shape[:2])
        if known is not None:
            return known
        return torch.ones((1, 1), dtype=torch.bool, device=states.device), None

    def _see_order(self, states: Tensor) -> None:
        """Find out which axis is the tokens'; with as many sequences as tokens nothing tells."""
        grid = self.grid() if self.grid and states.dim() == 3 else None
        if grid is None or grid[0] == grid[1]:
            return
        if states.shape[:2] == grid:
            self.tokens_first = False
        elif states.shape[:2] == grid[::-1]:
            self.tokens_first = True

    def in_sequences(self, states: Tensor) -> Tensor | None:
        """Return the tokens of a whole batch, ``[batch · tokens, features]``, by sequences.

        ``None`` for everything else.
        """
        grid = self.grid() if self.grid and states.dim() == 2 else None
        if grid is None or grid[1] == 1 or len(states) != grid.numel():
            return None
        return states.reshape(*grid, -1)

    def _are_chosen(self, states: Tensor) -> bool:
        """Whether states are those of some tokens of the batch, ``[tokens, features]``.

        As many as there are sequences are taken for a vector of each.
        """
        grid = self.grid() if self.grid and states.dim() == 2 else None
        return grid is not None and grid[1] > 1 and len(states) not in (grid[0], grid.numel())

    def apply_to_map(self, states: Tensor) -> Tensor:
        """Drop units of a feature map, ``[batch, channels, height, width]``."""
        if self.is_silent:
            return states
        keep = draw_map(self.drop.pattern, self.drop.rate, states)
        if self.counting():
            self.counter.add(keep, keep.new_ones(1, 1, 1, 1))
        return drop(states, keep, self.drop.rate, self.drop.rescaling)

    def _draw(self, states: Tensor, visible: Tensor, number: Tensor | None = None) -> Tensor:
        pattern, rate = self.drop.pattern, self.drop.rate
        if number is not None and pattern not in ALIKE_IN_PACKED_ROWS:
            return draw_packed(pattern, rate, states, number)
        if self.shared is None:
            return draw_sequence(pattern, rate, states, visible)
        return self.shared.mask(rate, lambda: draw_sequence(pattern, rate, states, visible))

    def _count(self, keep: Tensor, visible: Tensor, states: Tensor) -> None:
        if states.numel() == 0:
            return  # an empty batch
        if states.dim() == 2:
            visible = visible.new_ones(1)
        if keep.shape == states.shape:
            self.counter.add_all(keep, visible.sum() * (keep.numel() // visible.numel()))
        else:
            self.counter.add(keep, visible.unsqueeze(-1))

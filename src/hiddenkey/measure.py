"""Counts, on the device and without synchronising, how much is dropped."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class ShareCounter:
    """Observed drop rate of visible units at one site since the last reading."""

    def __init__(self) -> None:
        # tensors alone: a number that changes would make torch.compile compile each step anew
        self._dropped: Tensor | None = None
        self._visible: Tensor | None = None

    @property
    def has_counted(self) -> bool:
        """Whether a draw was counted since the last reading."""
        return self._dropped is not None

    @torch.no_grad()
    def add(self, keep: Tensor, visible: Tensor) -> None:
        """Count one draw.

        Args:
            keep: boolean, broadcasts to the units. Where it has an entry for each unit, it is True
                for those that are not visible, as all patterns say.
            visible: boolean, broadcasts to the units; padding is not counted.
        """
        if visible.numel() == 0:
            return  # an empty batch
        units = torch.broadcast_shapes(keep.shape, visible.shape)  # type: ignore[no-untyped-call]
        total = visible.sum() * (math.prod(units) // visible.numel())
        self.add_all(keep if keep.shape == units else keep | ~visible, total)

    @torch.no_grad()
    def add_all(self, keep: Tensor, visible: Tensor) -> None:
        """Count one draw of which every unit has an entry.

        Args:
            keep: boolean, True for units that are not visible.
            visible: how many are visible.
        """
        dropped = keep.numel() - keep.view(torch.uint8).sum()
        self._dropped = dropped if self._dropped is None else self._dropped + dropped
        self._visible = visible if self._visible is None else self._visible + visible

    def read(self) -> float:
        """Return the share and start again; NaN where nothing was counted. Synchronises."""
        if self._dropped is None or self._visible is None:
            return float("nan")
        share: float = (self._dropped / self._visible).item()
        self._dropped = self._visible = None
        return share


class LossMeter:
    """The parts of the training loss: of the last pass, and their mean over optimiser steps.

    A step is made of computations of a loss, one for each part of an accumulated batch. A script
    may call the model several times in one computation: its passes are averaged.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all that was counted."""
        self._last: dict[str, Tensor] = {}
        self._open: dict[str, Tensor] = {}  # sums over the passes of a computation
        self._passes: Tensor | None = None  # on the device, and no number, for torch.compile
        self._step: dict[str, Tensor] = {}  # sums over the computations of a step
        self._computed: Tensor | float = 0.0
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def add(self, task: Tensor | None, consistency: Tensor | None) -> None:
        """Count one training pass; a part that it has not is ``None``."""
        parts = {"task": task, "consistency": consistency}
        self._last = {name: part.detach() for name, part in parts.items() if part is not None}
        _add(self._open, self._last)
        for part in list(self._last.values())[:1]:
            one = torch.ones_like(part)
            self._passes = one if self._passes is None else self._passes + one

    def last(self) -> dict[str, float]:
        """Return the parts of the last pass. Synchronises."""
        return {name: part.item() for name, part in self._last.items()}

    def end_computation(self) -> None:
        """Close a computation of a loss; passes that none closes are one each."""
        if self._passes is not None:
            _add(self._step, {name: part / self._passes for name, part in self._open.items()})
            self._computed = self._computed + 1
        self._open, self._passes = {}, None

    def end_step(self, *, mean: bool) -> None:
        """Close an optimiser step, whose loss is the mean or the sum over its computations."""
        if self._passes is not None:
            _add(self._step, self._open)
            self._computed = self._computed + self._passes
        share = 1 / self._computed if mean and self._step else 1.0
        _add(self._sums, {name: part * share for name, part in self._step.items()})
        self._steps += 1
        self._open, self._passes = {}, None
        self._step, self._computed = {}, 0.0

    def read(self) -> dict[str, float]:
        """Return the mean over the steps closed since the last reading. Synchronises."""
        means = {name: part.item() / self._steps for name, part in self._sums.items()}
        self._sums, self._steps = {}, 0
        return means


def _add(sums: dict[str, Tensor], parts: dict[str, Tensor]) -> None:
    for name, part in parts.items():
        sums[name] = sums[name] + part if name in sums else part

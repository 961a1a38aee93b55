"""Running statistics of normalisation, which a step moves once, however many passes it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


class RunningStatistics:
    """Batch and instance normalisation that tracks what it has seen.

    Args:
        tracking: the modules.
    """

    def __init__(self, tracking: Sequence[_NormBase]) -> None:
        self._tracking = tracking

    @classmethod
    def of(cls, model: nn.Module) -> RunningStatistics | None:
        """The running statistics of a model; ``None`` for one without, as most transformers are."""
        normalising = [module for module in model.modules() if isinstance(module, _NormBase)]
        tracking = [module for module in normalising if module.track_running_stats]
        return cls(tracking) if tracking else None

    @property
    def are_moving(self) -> bool:
        """Whether a pass would move some now: none of modules in evaluation mode."""
        return any(module.training for module in self._tracking)

    @contextmanager
    def left_alone(self) -> Iterator[None]:
        """Let passes in training mode see the batch's own statistics and leave the running ones."""
        changed = [module for module in self._tracking if module.training]
        for module in changed:
            module.track_running_stats = False
        try:
            yield
        finally:
            for module in changed:
                module.track_running_stats = True

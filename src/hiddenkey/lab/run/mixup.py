"""Mixup of embeddings, a rival of dropout: each example becomes a mean of two.

wordMixup of Guo et al. (arXiv 1905.08941), by the mixup of Zhang et al. (arXiv 1710.09412): for a
batch of embedded inputs x and targets y, a permutation π and one λ ~ Beta(alpha, alpha),

    x̃ = λ x + (1 − λ) x[π],    λ loss(f(x̃), y) + (1 − λ) loss(f(x̃), y[π]).

Where one text is shorter, the embedding of the padding token is mixed in, and attention sees what
either text has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hiddenkey.lab.run.options import TrainOptions


@dataclass
class _Mix:
    """One batch's draw.

    Attributes:
        share: λ.
        order: the permutation π, ``[batch]``.
    """

    share: float
    order: Tensor

    def of(self, values: Tensor) -> Tensor:
        """Mix along the first axis."""
        return self.share * values + (1 - self.share) * values[self.order]


def mixup(options: TrainOptions, model: nn.Module, kind: str) -> AbstractContextManager[None]:
    """Mix the training batches of a run, where its options ask for it.

    Args:
        options: the run's.
        model: what is trained.
        kind: of the task.
    """
    if not options.mixup_alpha:
        return nullcontext()
    return Mixup(options.mixup_alpha, regression=kind == "regression").on(model)


class Mixup:
    """Mixes the training batches of a sequence classifier or regressor.

    Args:
        alpha: of the Beta distribution; small values mix little, 1 draws λ uniformly.
        regression: the targets are numbers and the loss is the squared error.
    """

    def __init__(self, alpha: float, *, regression: bool) -> None:
        self._beta = torch.distributions.Beta(alpha, alpha)
        self._loss = _squared_error if regression else nn.functional.cross_entropy
        self._mix: _Mix | None = None

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Mix every batch that a model in training mode is given with labels."""
        handles = [
            # before what reads the padding from the mask
            model.register_forward_pre_hook(self._begin, with_kwargs=True, prepend=True),
            model.get_input_embeddings().register_forward_hook(self._embedded),  # type: ignore[operator]
            model.register_forward_hook(self._finish, with_kwargs=True, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._mix = None

    def _begin(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._mix = None
        if not model.training or kwargs.get("labels") is None:
            return None
        labels = kwargs["labels"]
        order = torch.randperm(len(labels)).to(labels.device)
        self._mix = _Mix(float(self._beta.sample()), order)
        mask = kwargs["attention_mask"]
        return args, {**kwargs, "attention_mask": torch.maximum(mask, mask[order])}

    def _embedded(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return None if self._mix is None else self._mix.of(output)

    def _finish(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Any:
        mix, self._mix = self._mix, None
        if mix is None or output is None:  # the pass was left by an exception
            return None
        other = self._loss(output.logits, kwargs["labels"][mix.order])
        output.loss = mix.share * output.loss + (1 - mix.share) * other
        return output


def _squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))

"""Sharpness-aware minimisation (SAM), a rival of dropout: Foret et al. (arXiv 2010.01412).

A step follows the gradient at the place nearby where the loss is highest, to first order:

    ε = ρ g / ‖g‖₂ with g = ∇L(w),    w ← AdamW(w, ∇L(w + ε)).

The optimiser is pytorch_optimizer's. It takes both gradients from Trainer's own training step, on
the same batch with the same noise (dropout, NEFTune, mixup): both are of one L. A step costs two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from hiddenkey.lab.run.options import TrainOptions


def trainer_of(options: TrainOptions, arguments: TrainingArguments) -> Callable[..., Trainer]:
    """Return what builds the Trainer of a run, with an optimiser of its own where it asks for SAM.

    Args:
        options: the run's.
        arguments: Trainer's, which name the optimiser that takes the steps.
    """
    if not options.sam_rho:
        return lambda **given: Trainer(args=arguments, **given)
    base, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
    chosen = (_sam(), {"base_optimizer": base, "rho": options.sam_rho, **settings})
    return lambda **given: _TwiceAStep(args=arguments, optimizer_cls_and_kwargs=chosen, **given)


def _sam() -> type[torch.optim.Optimizer]:
    from pytorch_optimizer import SAM

    class Sam(SAM):  # type: ignore[misc]
        """SAM whose second gradient is there when it is asked for a step."""

        def step(self, closure: Callable[[], Any] | None = None) -> None:
            self.second_step()

    return Sam


class _TwiceAStep(Trainer):  # type: ignore[misc]
    """Trainer that computes a batch's gradient, moves to w + ε, and computes it again there."""

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *more: Any) -> Tensor:
        """Return the loss at w; the gradients are those at w + ε."""
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices):  # the second pass draws what the first one drew
            loss: Tensor = super().training_step(model, dict(inputs), *more)
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)  # in accelerate's
        optimizer.first_step(zero_grad=True)
        super().training_step(model, inputs, *more)
        return loss

"""A running mean of a model's trainable weights, and putting it into the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from hiddenkey import log
from hiddenkey.errors import AttachError, ConfigError
from hiddenkey.framework.inference import Inference
from hiddenkey.step.statistics import RunningStatistics

_LAYOUT: Final = "hiddenkey"
_UNREADABLE: Final = (AttributeError, LookupError, TypeError, ValueError)  # JSON of another form

_STATISTICS: Final = (
    "the model has running statistics (batch normalisation), which are those of the last weights"
    " and fit their mean badly: an evaluation of the mean can be wrong by much. Estimate them anew"
    " for the mean by passes in training mode over training data (torch.optim.swa_utils.update_bn),"
    " keep these modules in evaluation mode in training, or take inference='last'"
)


class WeightAverage:
    """Keeps the mean of a model's trainable weights, in float32 or wider.

    In a loop of one's own::

        average = WeightAverage(model, Inference("average"), steps=len(batches))
        for batch in batches:
            ...
            optimizer.step()
            average.update()
        with average.applied():
            evaluate(model)
        average.apply()  # for good
        model.save_pretrained(folder)

    It takes the memory of one copy of the trainable weights, from the first step that counts on.
    While it is applied, it keeps the last weights in memory as well.

    Args:
        model: what is trained; before it is wrapped for several processes.
        inference: which mean.
        steps: of the whole training; needed by the mean of a part.

    Raises:
        ConfigError: if the mean needs ``steps``.
        AttachError: if the model trains nothing, or its weights are sharded over processes. In
            :meth:`update`, if other weights are trained than in the beginning.

    Attributes:
        inference: which mean.
        step: steps so far.
        count: steps that the mean counts so far; with 0, the last weights are all there is.
    """

    def __init__(self, model: nn.Module, inference: Inference, steps: int | None = None) -> None:
        self.inference = inference
        self.step = self.count = 0
        self._first = inference.first(steps)
        self._model = model
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self._weights:
            raise AttachError("no weight of the model is trained; average after adding an adapter")
        refuse_sharded(model)
        self._mean: list[Tensor] = []
        self._last: list[Tensor] | None = None

    @property
    def bytes(self) -> int:
        """Memory of what is kept now: the mean, and while it is applied the last weights."""
        return sum(each.nbytes for each in (*self._mean, *(self._last or ())))

    @torch.no_grad()
    def update(self) -> None:
        """Count the weights; to be called after each optimiser step."""
        self.step += 1
        if self.inference.weights == "last" or self.step < self._first:
            return
        if self._last is not None:
            raise AttachError("training went on with the mean applied; call restore() before")
        self._refuse_others()
        weights: list[Tensor] = [*self._weights.values()]
        if not self._mean:
            self._warn_of_statistics()
            self._mean = [torch.zeros_like(p, dtype=_wide(p)) for p in weights]
        self.count += 1
        share = self.inference.share(self.count)
        torch._foreach_mul_(self._mean, 1 - share)
        torch._foreach_add_(self._mean, weights, alpha=share)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the mean into the model; does nothing twice, nor before a step counts."""
        if self._last is not None or not self.count:
            return
        weights: list[Tensor] = [*self._weights.values()]
        self._last = [p.detach().clone() for p in weights]
        torch._foreach_copy_(weights, self._mean)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the last weights back. Does nothing twice."""
        if self._last is not None:
            torch._foreach_copy_(list(self._weights.values()), self._last)
            self._last = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with the mean, for as long as the block lasts."""
        was_applied = self._last is not None
        self.apply()
        try:
            yield
        finally:
            if not was_applied:
                self.restore()

    def save(self, path: Path) -> None:
        """Write the mean as a safetensors file, for :meth:`load`."""
        from safetensors.torch import save_file

        named = dict(zip(self._weights, self._mean, strict=True)) if self.count else {}
        about = {**self._about(), "step": self.step, "count": self.count}
        tensors = {name: tensor.contiguous() for name, tensor in named.items()}
        save_file(tensors, str(path), {_LAYOUT: json.dumps(about)})

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Go on from a file that :meth:`save` wrote.

        Raises:
            ConfigError: if there is none, or it is of another mean or model.
        """
        from safetensors import SafetensorError, safe_open

        self.restore()
        try:
            with safe_open(str(path), "pt") as file:
                about = json.loads((file.metadata() or {})[_LAYOUT])
                step, count = about.pop("step"), about.pop("count")
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, *_UNREADABLE) as error:
            raise ConfigError(
                f"{path} must hold the mean of the weights so far, and cannot be read"
                f" ({type(error).__name__}: {error}); begin anew, or go on with inference='last'"
            ) from error
        own = {name: p.shape for name, p in self._weights.items()} if count else {}
        if about != self._about() or own != {name: each.shape for name, each in found.items()}:
            what = f"{about}, not {self._about()}" if about != self._about() else "other weights"
            raise ConfigError(
                f"{path} must be of the same mean and model, it is of {what}; go on with the"
                " settings and the number of steps of before, or begin anew"
            )
        self.step, self.count = step, count
        self._mean = [
            found[name].to(p.device, _wide(p)) for name, p in self._weights.items() if count
        ]

    def _refuse_others(self) -> None:
        """Refuse weights that began to be trained later: a mean without them is of no model."""
        known = {id(p) for p in self._weights.values()}
        others = (p for p in self._model.parameters() if p.requires_grad and id(p) not in known)
        if (other := next(others, None)) is not None:
            name = next(name for name, p in self._model.named_parameters() if p is other)
            if name in self._weights:
                raise AttachError(
                    f"{name} is another tensor than when the mean of the weights began, whose mean"
                    " could not be put into the model; load weights before the mean begins, or"
                    " without assign=True and low_cpu_mem_usage=True"
                )
            raise AttachError(
                f"{name} is trained now and was not when the mean of the weights began, which would"
                " mix means with last weights; begin the mean when all weights are trained, or"
                " take inference='last'"
            )

    def _warn_of_statistics(self) -> None:
        """Say once, while the model trains, that a mean of weights has other statistics.

        A mean of the statistics would be worse still (tried on ResNet): they vary with the weights.
        """
        statistics = RunningStatistics.of(self._model)
        if statistics is not None and statistics.are_moving and log.is_first_process():
            log.logger.warning(_STATISTICS)

    def _about(self) -> dict[str, Any]:
        rule = self.inference
        kept = {"part": rule.part} if rule.weights == "average" else {"decay": rule.decay}
        return {"weights": rule.weights, **kept, "first": self._first}


def refuse_sharded(model: nn.Module) -> None:
    """Refuse a model of whose weights each process holds a part.

    Raises:
        AttachError: under FSDP, tensor parallelism and DeepSpeed ZeRO-3.
    """
    sharded = any(hasattr(p, "ds_id") or hasattr(p, "device_mesh") for p in model.parameters())
    wrapped = any(type(each).__name__ == "FullyShardedDataParallel" for each in model.modules())
    if sharded or wrapped:
        raise AttachError(
            "the weights are sharded over processes (FSDP, tensor parallelism or ZeRO-3), so that"
            " no process could save their mean; train an adapter without sharding, or take"
            " inference='last'"
        )


def _wide(parameter: Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)

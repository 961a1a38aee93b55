"""What a run uses at inference: chosen on held-out training examples, and put into its model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Trainer

from hiddenkey.framework.inference import Inference, fit_temperature
from hiddenkey.integrations.averaging import AveragingCallback
from hiddenkey.lab.run.calibration import calibration
from hiddenkey.lab.run.choice import Used, chooses
from hiddenkey.lab.run.folder import RunFolder
from hiddenkey.lab.run.leaving import LAST
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.recorder import DEV, TRAIN
from hiddenkey.step.averaging import WeightAverage
from hiddenkey.step.scaling import scaled_update, unscalable

FACTORS: Final = (0.75, 0.5, 0.25)
"""Factors of the update among which a run chooses."""
AFTER: Final = "after_temperature"

Candidates = Mapping[str, Callable[[], AbstractContextManager[None]]]


def means(options: TrainOptions) -> list[Inference]:
    """The means of the weights that a run keeps."""
    wanted = {"average": ("average",), "ema": ("ema",), "chosen": ("average", "ema")}
    return [
        Inference(name, options.average_part, options.ema_decay)
        for name in wanted.get(options.inference, ())
    ]


class InferenceWeights:
    """Keeps what a run may use in training, chooses, and puts it into the model.

    Args:
        trainer: of the run; its callbacks get one for each mean.
        options: the run's settings.

    Attributes:
        used: what is used; the last weights before :meth:`settle`.
    """

    def __init__(self, trainer: Trainer, options: TrainOptions) -> None:
        self._trainer, self._options = trainer, options
        self.used = Used()
        self._in_use: AbstractContextManager[None] = nullcontext()
        used = options.inference != "chosen"
        self._means = {
            rule.weights: AveragingCallback(trainer, rule, used=used) for rule in means(options)
        }
        # Trainer's own way to add one warns of a second one of a class
        trainer.callback_handler.callbacks.extend(self._means.values())

    def settle(self, held_out: Any) -> dict[str, Any]:
        """Choose what is used, put it into the model, and measure what that changes.

        Args:
            held_out: encoded training examples that were not trained on; ``None``: nothing to fit.

        Returns:
            What the last evaluation's line is to hold beside and in place of what it has.
        """
        for callback in self._means.values():
            callback.release()
            _average(callback).restore()
        candidates = self._candidates()
        if held_out is None:
            self.used = Used(next(iter(candidates)))
        else:
            self.used = self._choose(candidates, held_out)
        self._use(candidates[self.used.weights])
        return self._measured() if chooses(self._options) else {}

    def leave(
        self, folder: RunFolder, save_to: Callable[..., None], best: Path | None, newest: Path
    ) -> Used:
        """Write what is used into a run's folder and, where it is a mean, the last adapter too.

        Args:
            folder: of the run.
            save_to: saves the model into a folder; see :func:`hiddenkey.lab.run.leaving.save`.
            best: the checkpoint that is kept, where it is not the newest.
            newest: the checkpoint of the last step.

        Returns:
            What the folder holds.
        """
        if best is not None:
            self._go_to(best)
        used = self.used

        def write(into: Path) -> None:
            save_to(into, weights=best if used.weights == "last" else None, used=used)
            if used.weights != "last":
                with self._last():
                    save_to(into / LAST, weights=best)

        folder.write_adapter(write)
        if best is not None:
            self._go_to(newest)
        return used

    def _go_to(self, checkpoint: Path) -> None:
        """Use the mean of a checkpoint; before its first step it is the last weights."""
        self._in_use.__exit__(None, None, None)
        for callback in self._means.values():
            _average(callback).load(callback.file(checkpoint))
        candidates = self._candidates()
        self.used = replace(self.used, weights=next(iter(candidates)))
        self._use(candidates[self.used.weights])

    @contextmanager
    def _last(self) -> Iterator[None]:
        """The model with its last weights, for as long as the block lasts."""
        self._in_use.__exit__(None, None, None)
        try:
            yield
        finally:
            self._use(self._again)

    def _use(self, made: Callable[[], AbstractContextManager[None]]) -> None:
        self._again, self._in_use = made, made()
        self._in_use.__enter__()

    def _candidates(self) -> Candidates:
        """The ways to use the model, "do nothing" first: it wins where others are as good."""
        means: dict[str, Any] = {
            name: _average(callback).applied
            for name, callback in self._means.items()
            if _average(callback).count
        }
        if self._options.inference != "chosen":
            return means or {"last": nullcontext}
        model = self._trainer.model
        scaled = (
            {}
            if unscalable(model)
            else {f"scale {factor:g}": partial(scaled_update, model, factor) for factor in FACTORS}
        )
        return {"last": nullcontext, **means, **scaled}

    def _choose(self, candidates: Candidates, held_out: Any) -> Used:
        found = {name: self._tried(made, held_out) for name, made in candidates.items()}
        losses = {name: loss for name, (loss, _) in found.items()}
        best = min(losses, key=losses.__getitem__)
        return Used(best, found[best][1], losses)

    def _tried(
        self, made: Callable[[], AbstractContextManager[None]], held_out: Any
    ) -> tuple[float, float]:
        """The loss on the held-out examples, and the temperature that makes it so small."""
        with made():
            outcome = self._evaluated(held_out, "choice")
        if self._options.temperature == "none":
            return float(outcome.metrics["choice_loss"]), 1.0
        logits, labels = _logits(outcome), torch.as_tensor(outcome.label_ids)
        temperature = fit_temperature(logits, labels)
        return float(cross_entropy(logits / temperature, labels)), temperature

    def _measured(self) -> dict[str, Any]:
        """Evaluate what is used; its numbers take the place of those of the last weights."""
        line: dict[str, Any] = {"choice_loss": dict(self.used.losses)}
        for part, shown in ((DEV, "eval"), (TRAIN, "train_sample")):
            outcome = self._evaluated(self._trainer.eval_dataset[part], shown)
            own = (name for name in outcome.metrics if not name.endswith("_time"))
            line |= {name: float(outcome.metrics[name]) for name in own}
            if part == DEV and self._options.temperature == "fitted":
                logits, labels = _logits(outcome), torch.as_tensor(outcome.label_ids)
                line |= after_temperature(logits, labels, self.used.temperature)
        return line

    def _evaluated(self, data: Any, name: str) -> Any:
        """Evaluate without a word to callbacks and trackers, on all processes together."""
        trainer = self._trainer
        loader = trainer.get_eval_dataloader(data)
        only_loss = trainer.compute_metrics is None
        return trainer.evaluation_loop(loader, name, only_loss, metric_key_prefix=name)


def after_temperature(logits: Tensor, labels: Tensor, temperature: float) -> dict[str, float]:
    """Return loss, calibration error and Brier score of logits that are divided by a temperature.

    Args:
        logits: ``[examples, classes]``.
        labels: ``[examples]``, classes from 0.
        temperature: above 0.
    """
    divided = logits.double() / temperature
    found = calibration(divided.numpy(), labels.numpy())
    return {
        "eval_temperature": temperature,
        f"eval_loss_{AFTER}": float(cross_entropy(divided, labels)),
        f"eval_ece_{AFTER}": found["ece"],
        f"eval_brier_{AFTER}": found["brier"],
    }


def _logits(outcome: Any) -> Tensor:
    given = outcome.predictions
    return torch.as_tensor(given[0] if isinstance(given, tuple) else given).double()


def _average(callback: AveragingCallback) -> WeightAverage:
    assert callback.average is not None
    return callback.average

"""One training run, the settings that a method may choose from, and its choice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hiddenkey
from beyond_transformers.data import Data, Examples
from beyond_transformers.networks import PLACES, build
from beyond_transformers.options import Network
from hiddenkey import Drop, DropoutConfig

PLAIN: Final = "plain"
PATTERNS: Final = ("element", "column", "span")
METHODS: Final = (PLAIN, *PATTERNS)

# Both from 0.001 to 0.064: a method with a dropout rate to choose has every second of them.
_LEARNING_RATES: Final = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 4.8e-2, 6.4e-2)
_FEWER_LEARNING_RATES, _RATES = (1e-3, 4e-3, 1.6e-2, 6.4e-2), (0.05, 0.2)


@dataclass(frozen=True)
class Setting:
    """What one run is trained with.

    Attributes:
        network: the network.
        method: one of ``METHODS``.
        learning_rate: largest learning rate of AdamW.
        rate: dropout rate; 0 without dropout.
    """

    network: Network
    method: str
    learning_rate: float
    rate: float = 0.0

    def config(self) -> DropoutConfig | None:
        """Return what hiddenkey attaches; ``None``: nothing."""
        if self.method == PLAIN:
            return None
        drop = Drop("hidden", self.method, self.rate)
        return DropoutConfig((drop,), hidden_modules=PLACES[self.network])

    def attached(self, model: nn.Module) -> AbstractContextManager[object]:
        """Put the noise on a model for as long as the context lasts."""
        config = self.config()
        return nullcontext() if config is None else hiddenkey.attach(model, config)


def grid(network: Network, method: str) -> list[Setting]:
    """Return the settings a method may choose from, as many for each."""
    if method == PLAIN:
        return [Setting(network, method, learning_rate) for learning_rate in _LEARNING_RATES]
    return [Setting(network, method, lr, rate) for lr in _FEWER_LEARNING_RATES for rate in _RATES]


def fit(
    setting: Setting, data: Data, evaluation: Examples, seed: int, steps: int, batch_size: int
) -> dict[str, float]:
    """Train one network and evaluate it without noise.

    The learning rate rises for a tenth of the steps and goes down to 0 by a cosine.

    Returns:
        Accuracy and mean cross-entropy on ``evaluation``, and ``train_loss``.
    """
    model = build(setting.network, data.words, data.classes, seed).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=setting.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rise_and_fall(step, steps))
    with setting.attached(model):
        for rows in batches(len(data.train.classes), batch_size, steps, seed):
            batch = data.train[rows]
            loss = F.cross_entropy(model(**batch.inputs), batch.classes)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
        model.eval()
        return {**evaluate(model, evaluation), "train_loss": evaluate(model, data.train)["loss"]}


def rise_and_fall(step: int, steps: int) -> float:
    """Return the share of the learning rate in a step: up for a tenth, then down by a cosine."""
    rising = max(1, steps // 10)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def batches(count: int, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield row numbers ``[size]``, every row once before any comes again; no noise moves them."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(rows) < size:
            rows = torch.cat([rows, torch.randperm(count, generator=generator)])
        yield rows[:size]
        rows = rows[size:]


@torch.no_grad()
def evaluate(model: nn.Module, examples: Examples) -> dict[str, float]:
    """Return accuracy and mean cross-entropy."""
    logits = model(**examples.inputs)
    right = (logits.argmax(-1) == examples.classes).float()
    loss = F.cross_entropy(logits, examples.classes)
    return {"accuracy": right.mean().item(), "loss": loss.item()}


def choose(found: Mapping[Setting, Sequence[Mapping[str, float]]]) -> dict[str, Setting]:
    """Return each method's setting of the lowest mean loss over the seeds of the choice."""
    losses = {setting: fmean(run["loss"] for run in runs) for setting, runs in found.items()}
    methods = dict.fromkeys(setting.method for setting in losses)
    return {
        method: min((s for s in losses if s.method == method), key=losses.__getitem__)
        for method in methods
    }

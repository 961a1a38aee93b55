"""Tiny models with each of PEFT's adapters, for the tests of this folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hiddenkey
from hiddenkey.attachment.called_module import prefix_fault
from hiddenkey.framework.compensation import CONSISTENCIES
from model_tables.adapters.methods import all_methods
from model_tables.adapters.recipe import AdapterMethod
from models import seeded

METHODS = {(method.name, base): method for method in all_methods() for base in method.bases}
NOISE = hiddenkey.method("hiddenkey-minus", rate=0.3)


@contextmanager
def peft_may_warn() -> Iterator[None]:
    """PEFT warns of settings that are tiny on purpose, and of its own old calls."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def adapted(name: str, base: str, folder: Path) -> Any:
    """Build a tiny model with an adapter; equal each time."""
    with peft_may_warn():
        model = METHODS[name, base].build(base, folder)
    if fault := prefix_fault(model, model.get_base_model()):
        pytest.skip(fault)
    return model


def batch_for(name: str, base: str) -> dict[str, Tensor]:
    return METHODS[name, base].batch(base)


def method_of(name: str, base: str) -> AdapterMethod:
    return METHODS[name, base]


def divergence(kind: str, trained: Tensor, other: Tensor, labels: Tensor) -> Tensor:
    """Mean over sequences, or over tokens with a label; prompts before them have none."""
    if labels.dim() == 2:
        before = trained.shape[1] - labels.shape[1]
        labels = torch.nn.functional.pad(labels, (before, 0), value=-100)
        rows = labels[:, 1:] != -100
        trained, other = trained[:, :-1][rows], other[:, :-1][rows]
    return CONSISTENCIES[kind](trained, other).mean()


def two_passes(
    model: Any, batch: dict[str, Tensor], kind: str = "kl", *, both: bool = False, seed: int = 0
) -> Tensor:
    """Return the loss of two passes, one after the other, with the noise alone attached."""
    with hiddenkey.attach(model, NOISE), seeded(seed):
        with torch.set_grad_enabled(both):
            other = model.train(kind != "js")(**batch)
        trained = model.train()(**batch)
        task = (trained.loss + other.loss) / 2 if both else trained.loss
        return task + divergence(kind, trained.logits, other.logits, batch["labels"])

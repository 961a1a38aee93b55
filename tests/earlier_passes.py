"""What the tests of the loss against earlier predictions share."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

import hiddenkey
from hiddenkey import Consistency, DropoutConfig
from models import lora_model

NOISE = hiddenkey.method("hiddenkey-minus", rate=0.4)
TOP = 5


def config(noise: DropoutConfig = NOISE, **settings: Any) -> DropoutConfig:
    return dataclasses.replace(noise, consistency=Consistency(target="history", **settings))


def change(model: Any, by: float = 0.03) -> None:
    """Move the trained weights, each by the same amount, as a step would."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += by


def shortened_by_hand(logits: Tensor, classes: Tensor) -> Tensor:
    p = logits.double().softmax(-1)
    kept = p.gather(-1, classes)
    return torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1).log()


def without_noise(task: str = "classification", family: str = "bert", **settings: Any):
    model = lora_model(family, task)
    lm_loss = settings.pop("lm_loss", "auto")
    quiet = config(DropoutConfig(), **settings)
    return model, hiddenkey.attach(model, quiet, lm_loss=lm_loss)

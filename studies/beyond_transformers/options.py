"""The settings of the study of networks without attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hiddenkey.lab.run.limits import ONE, Limit

Network = Literal["recurrent", "convolutional"]

_SEEDS = Limit("at least 3", lambda value: value >= 3, "fewer have no interval")


@dataclass(frozen=True)
class BeyondOptions:
    """Element, column and span dropout in a recurrent and a convolutional network."""

    networks: tuple[Network, ...] = ("recurrent", "convolutional")
    """Networks to train: recurrent (a GRU on headlines), convolutional (on 8 × 8 digits)."""
    seeds: int = _SEEDS.default(8)
    """Seeds that are judged, on examples that had no say before."""
    choice_seeds: int = ONE.default(2)
    """Further seeds by which each method chooses its learning rate and dropout rate."""
    train_size: int = ONE.default(200)
    """Training examples."""
    steps: int = ONE.default(400)
    """Optimiser steps of a run."""
    batch_size: int = ONE.default(32)
    """Examples in a batch."""
    output: str = "runs/studies/beyond_transformers"
    """Folder of the runs, the table and the page; a study in it goes on."""
    dry_run: bool = False
    """Say how many runs there are and how long they take, and train nothing."""

"""The device that a run trains on: an accelerator of any kind, or the CPU."""

from __future__ import annotations

import torch


def device() -> torch.device:
    """Return the accelerator, or the CPU where there is none."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def device_name() -> str:
    """Return the accelerator's name, or ``cpu``; only CUDA devices have names of their own."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else device().type


def synchronise() -> None:
    """Wait until the accelerator has done what was asked of it, so that time can be read."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()

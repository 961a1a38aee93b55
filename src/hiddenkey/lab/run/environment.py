"""The versions and the machine of a run."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any, Final

import torch

import hiddenkey
from hiddenkey.lab.run import accelerator, processes

_RECORDED_PACKAGES: Final = ("torch", "transformers", "peft", "accelerate")


def environment() -> dict[str, Any]:
    """Versions and machine, as ``environment.json`` holds them."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes.count(),
        "device": accelerator.device_name(),
        "hiddenkey": hiddenkey.__version__,
        **{name: version(name) for name in _RECORDED_PACKAGES},
    }

"""What torch.compile made of a model's code before noise came to it."""

from __future__ import annotations

import sys

import torch


def forget_compiled() -> None:
    """Let torch.compile compile anew: what it compiled may be of code without this noise.

    It keeps what it compiled by a function's code, which all models of a class share, and does not
    look at a module's hooks. Where a model is compiled in several parts (temporal consistency and
    language models), a part with hooks inside would run as it was compiled without.
    """
    if "torch._dynamo" in sys.modules:  # else nothing was compiled
        torch.compiler.reset()

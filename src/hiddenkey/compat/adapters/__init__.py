"""Tries every adapter of the installed PEFT on tiny models, and writes down what holds."""

from hiddenkey.compat.adapters.checks import AdapterRow
from hiddenkey.compat.adapters.sweep import run_adapters, section

__all__ = ["AdapterRow", "run_adapters", "section"]

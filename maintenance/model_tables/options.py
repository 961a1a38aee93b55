"""The settings of the two commands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ArchitecturesOptions:
    """Which types to examine, each as a tiny random model."""

    types: tuple[str, ...] = ()
    """Names of model types, as in transformers' config.json; none: every type."""
    tasks: tuple[str, ...] = ()
    """Kinds of model: causal, seq2seq, classification, image; none: each type's main one."""
    jobs: int = 2
    """Worker processes; each uses one core and about 1 GiB."""
    limit: float = 240.0
    """Seconds for one type; then its process is ended, and its verdict is 'timed out'."""
    output: str | None = None
    """Folder to write MODELS.md and models.json to; the rest of MODELS.md stays."""
    json: bool = False
    """Print the record as JSON instead of lines."""


@dataclass(frozen=True)
class AdaptersOptions:
    """Which adapters to examine, each on tiny random models."""

    types: tuple[str, ...] = ()
    """Names of PEFT's types, such as LORA or PREFIX_TUNING; none: every type."""
    jobs: int = 2
    """Worker processes; 1 examines them in this one."""
    output: str | None = None
    """Folder to write MODELS.md to; the rest of the file stays."""

"""Analyses of several comparisons: where their pages go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def output_folder(folders: Sequence[str], output: str | None) -> Path:
    """Return the folder that was asked for, or ``analysis`` in the first comparison's."""
    return Path(folders[0]) / "analysis" if output is None else Path(output)

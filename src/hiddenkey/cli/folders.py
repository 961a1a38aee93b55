"""Analyses of several comparisons: their folders on the command line, and where the pages go."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path


def with_folders(arguments: Sequence[str]) -> list[str]:
    """Take the first words without hyphens as the values of ``--folders``."""
    words = list(takewhile(lambda word: not word.startswith("-"), arguments))
    return ["--folders", *words, *arguments[len(words) :]] if words else list(arguments)


def output_folder(folders: Sequence[str], output: str | None) -> Path:
    """Return the folder that was asked for, or ``analysis`` in the first comparison's."""
    return Path(folders[0]) / "analysis" if output is None else Path(output)

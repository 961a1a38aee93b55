"""The settings of the study of overfitting."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OverfittingOptions:
    """How far the runs of comparisons overfit, and how far their probabilities can be believed."""

    folders: tuple[str, ...] = ()
    """Folders that 'hiddenkey compare' or 'hiddenkey claims' wrote; may stand without the flag."""
    baseline: str = "lora"
    """Method that the others are compared with."""
    methods: tuple[str, ...] = ()
    """Methods to look at beside the baseline; none: all."""
    output: str | None = None
    """Folder of overfitting.json, .md and the pictures; none: 'analysis' in the first folder."""

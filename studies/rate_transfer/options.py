"""The settings of the study of rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TransferOptions:
    """What one dropout rate for all tasks loses against the best rate of each."""

    folders: tuple[str, ...] = ()
    """Folders that 'hiddenkey compare' or 'hiddenkey claims' wrote; may stand without the flag."""
    method: str = "hiddenkey-minus"
    """Method whose rate is asked for; its runs must be at several rates on several tasks."""
    baseline: str = "lora"
    """Method that gains are above."""
    tasks: tuple[str, ...] = ()
    """Tasks to look at; none: all that have runs at two rates or more."""
    stage: Literal["compare", "search"] = "compare"
    """compare: the runs that are compared; search: those on held-out training examples that chose
    settings."""
    output: str | None = None
    """Folder of transfer.json, .md and the picture; none: 'analysis' in the first folder."""

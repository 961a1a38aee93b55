"""The terminal: its width, and the libraries' chatter kept off it."""

from __future__ import annotations

import os
import warnings
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

_WIDTH_OF_FILES: Final = 120


def standard_console() -> Console:
    """Return a console on standard output; into a file or pipe it writes wide lines."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_OF_FILES)


def plain_table(title: str) -> Table:
    """Return a table without frame, narrow enough for a terminal of 80 columns."""
    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )


def quiet() -> None:
    """Silence progress bars of downloads and loading, reports and deprecation notes."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")

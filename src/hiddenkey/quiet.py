"""Keeps the libraries' chatter off the terminal."""

from __future__ import annotations

import os
import warnings

from hiddenkey.log import logger


def quiet() -> None:
    """Silence progress bars of downloads and loading, reports and deprecation notes."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logger.setLevel("WARNING")  # a command prints by itself what it did
    from transformers.utils import logging

    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")
    # PEFT looks for a config.json to see whether the vocabulary grew; a GGUF file has none
    warnings.filterwarnings("ignore", message="Could not find a config file in", module=r"peft\.")

"""The logger ``hiddenkey``: what a user should know is seen without any setting.

Python shows nothing below a warning unless logging is set up, and a warning would say that
something is wrong. So this logger has the level INFO and a handler of its own, as Optuna's has. The
handler is silent where the script has set up logging: then the script's handlers decide.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

logger: Final = logging.getLogger("hiddenkey")
_said: Final[set[str]] = set()


class _OwnHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes on standard error, as long as nobody has set up logging."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            self.setStream(sys.stderr)
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"hiddenkey: {text}" if record.name == logger.name else text


def once(subject: str, text: str) -> None:
    """Log a text unless this process has said something on its subject, or is not the first one.

    Args:
        subject: what the text is about.
        text: one line.
    """
    if logger.disabled:
        return
    if subject not in _said and is_first_process():
        logger.info(text)
    _said.add(subject)


def is_first_process() -> bool:
    """Whether this process is the first of those that train together, by a launcher's variables."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def known(subject: str) -> None:
    """Let :func:`once` say nothing on a subject: it is said in another way."""
    _said.add(subject)


@contextmanager
def muted() -> Iterator[None]:
    """Log nothing for as long as the block lasts: what it does is no training of a user's."""
    was_disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was_disabled


if logger.level == logging.NOTSET:
    logger.setLevel(logging.INFO)
logger.addHandler(_OwnHandler())

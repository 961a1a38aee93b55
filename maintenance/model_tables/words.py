"""The part of an error's message that fits into a table."""

from __future__ import annotations

import re


def first_line(text: str) -> str:
    """Return the first line that is not empty."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def first_sentence(text: str) -> str:
    """Return the rule that an error states, without the next step behind it."""
    return re.split(r"; (?=[a-z])|(?<=[.!?]) (?=[A-Z])", first_line(text))[0].rstrip(".")


def reason_of(error: BaseException) -> str:
    """Return an error's type and what it says first."""
    lines = str(error).strip().splitlines()
    if len(lines) > 1 and lines[0].startswith("Class validation error"):
        return lines[1].strip()  # a validated dataclass names itself first, then the error
    said = first_sentence(str(error)) if isinstance(error, ImportError) else first_line(str(error))
    return f"{type(error).__name__}: {said}"

"""How far a command came towards a training with a method, as files in its record folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

IMPORTED: Final = ".imported"
"""A Trainer's module was imported in a Python with the hook, which writes this name by itself."""
BUILT: Final = ".built"
ATTACHED: Final = "attached.json"
LOG: Final = "log.jsonl"
FINISHED: Final = "finished.json"

THREE_LINES: Final = """\
    import hiddenkey
    attachment = hiddenkey.attach(model, "{method}")
    # train on output.loss, or on own.total(loss) in: with attachment.own_loss(labels) as own"""


def clear(record: Path) -> None:
    """Take from a record folder what an earlier command left."""
    for name in (IMPORTED, BUILT, ATTACHED, LOG, FINISHED):
        (record / name).unlink(missing_ok=True)


def why_unattached(record: Path) -> str | None:
    """Say why no model was attached in a command that ended well; ``None`` if one was.

    Args:
        record: the folder that :func:`hiddenkey.launch.launch_environment` was given.
    """
    if (record / ATTACHED).exists():
        return None
    if (record / BUILT).exists():
        return "a Trainer was built and never trained"
    if (record / IMPORTED).exists():
        return "no Trainer of transformers or Lightning was built"
    return (
        "no Trainer of transformers or Lightning was imported by a Python that reads PYTHONPATH"
        " (python -I, -E and -S do not read it, and neither does a program in another language)"
    )

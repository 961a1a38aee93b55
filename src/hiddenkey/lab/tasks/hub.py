"""Examples from the Hugging Face hub, fetched only where the user asks for it by name."""

from __future__ import annotations

from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.installation import install_command
from hiddenkey.lab.tasks.base import Example
from hiddenkey.lab.tasks.files import FileFaults
from hiddenkey.lab.tasks.tables import Columns, Row, to_examples

NAME: Final = "hub"
"""What a user writes for a folder: ``--data hub``."""


def read_examples(dataset: str, part: str, split: str, columns: Columns) -> tuple[Example, ...]:
    """Fetch one split of a data set, or read it from the hub's cache.

    Args:
        dataset: name on the hub.
        part: name of the data set's configuration.
        split: name of the split.
        columns: how rows become examples.

    Raises:
        ConfigError: if the package ``datasets`` is missing, the data cannot be had or rows break
            rules.
    """
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise ConfigError(
            "data from the hub need the package 'datasets', which is missing; run:"
            f" {install_command('hub')}, or give --data FOLDER"
        ) from None
    try:
        rows = load_dataset(dataset, part, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{dataset}, part {part!r}, could not be fetched from the hub ({reason}); check the"
            " network, or give --data FOLDER with the files"
        ) from error
    faults = FileFaults(f"{dataset}/{part}, {split}", unit="row")
    numbered = [Row(number, values) for number, values in enumerate(rows, start=1)]
    examples = to_examples(numbered, columns, faults)
    if faults.found or not examples:
        raise ConfigError(faults.shown() or f"{dataset}/{part}, {split}: holds no example")
    return examples

"""The sweep over all adapters, and its table in Markdown."""

from __future__ import annotations

import logging
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from hiddenkey.config import not_one_of
from hiddenkey.errors import ConfigError
from hiddenkey.lab.sweep.adapters.checks import VERDICTS, AdapterRow, examine_adapter
from hiddenkey.lab.sweep.adapters.methods import all_methods

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "torchao")
_COLUMNS = (
    "adapter",
    "variant",
    "model",
    "places",
    "consistency loss",
    "gradients",
    "saved and loaded",
    "checkpointing",
    "verdict",
    "reason",
)
_MEANING = """\
Each adapter of the installed PEFT, on tiny random models of two layers with HiddenKey attached at a
rate of 0.3. *Places* are attention and second feed-forward layers that drop, of those that the
model has. *Consistency loss*: loss and gradients equal those of two passes made one after the
other. *Gradients*: how many parameters they reach, the same as without HiddenKey. *Saved and
loaded*: the adapter that was trained with HiddenKey gives the same outputs when it is loaded
without. *Checkpointing*: loss and gradients stay the same. Every row that passes has also passed
the conformance suite (`hiddenkey.testing.examine_model`): bit-equal evaluation, noise at each
place, padding, rate zero, measured shares and detaching."""


def run_adapters(
    types: Sequence[str] = (), report: Callable[[AdapterRow], None] = lambda row: None
) -> list[AdapterRow]:
    """Examine adapters on each tiny model that they are for, one after the other.

    Args:
        types: names of PEFT's types; none: every type.
        report: called with each row as soon as it is there.

    Raises:
        ConfigError: if PEFT has no such type.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs each conversion
    methods = all_methods()
    known = list(dict.fromkeys(method.peft_type for method in methods))
    if faults := [not_one_of("types", name, known) for name in types if name not in known]:
        raise ConfigError(faults)
    rows = []
    for method in methods:
        for base in method.bases if not types or method.peft_type in types else ():
            rows.append(examine_adapter(method, base))
            report(rows[-1])
    return rows


def section(rows: Sequence[AdapterRow], command: str) -> str:
    """Return the section of ``docs/MODELS.md`` about adapters.

    Args:
        rows: from :func:`run_adapters`.
        command: what made them.
    """
    counts = Counter(row.verdict for row in rows)
    kinds = len({row.peft_type for row in rows})
    versions = ", ".join([f"Python {platform.python_version()}", *_versions()])
    meanings = [(name, str(counts[name]), text) for name, text in VERDICTS.items() if counts[name]]
    parts = [
        "## Adapters",
        f"Written by `{command}` on {datetime.now(UTC):%Y-%m-%d} with {versions}.",
        _MEANING,
        f"**{kinds} types of PEFT's adapters in {len(rows)} settings.**",
        _table(("verdict", "settings", "meaning"), meanings),
        _table(_COLUMNS, map(astuple, rows)),
    ]
    return "\n\n".join(parts)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _versions() -> list[str]:
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found

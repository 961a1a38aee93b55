"""The sweep over all adapters, and its table in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from typing import Final, cast

from hiddenkey.errors import ConfigError, not_one_of
from model_tables.adapters.checks import VERDICTS, AdapterRow, examine_adapter
from model_tables.adapters.methods import all_methods
from model_tables.document import installed, table, today, verdicts, written_by
from model_tables.examine import prepare
from model_tables.isolated import run_jobs

_LIMIT_SECONDS: Final = 120.0
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
    types: Sequence[str] = (),
    report: Callable[[AdapterRow], None] = lambda row: None,
    *,
    jobs: int = 2,
) -> list[AdapterRow]:
    """Examine adapters on each tiny model that they are for.

    Args:
        types: names of PEFT's types; none: every type.
        report: called with each row as soon as it is there.
        jobs: worker processes; 1 examines them in this one.

    Raises:
        ConfigError: if PEFT has no such type.
    """
    methods = all_methods()
    known = list(dict.fromkeys(method.peft_type for method in methods))
    if faults := [not_one_of("types", name, known) for name in types if name not in known]:
        raise ConfigError(faults)
    wanted = [
        (method.peft_type, method.variant, base)
        for method in methods
        for base in method.bases
        if not types or method.peft_type in types
    ]
    found = {}
    rows = (examine_named(*job) for job in wanted) if jobs == 1 else _in_others(wanted, jobs)
    for row in rows:
        found[row.peft_type, row.variant, row.model] = row
        report(row)
    return [found[job] for job in wanted]


def examine_named(peft_type: str, variant: str, base: str) -> AdapterRow:
    """Examine one adapter on one model, both given by name."""
    named = {(method.peft_type, method.variant): method for method in all_methods()}
    return examine_adapter(named[peft_type, variant], base)


def _in_others(wanted: Iterable[tuple[str, str, str]], jobs: int) -> Iterator[AdapterRow]:
    for outcome in run_jobs(
        examine_named, wanted, workers=jobs, limit=_LIMIT_SECONDS, prepare=prepare
    ):
        if outcome.ending == "returned":
            yield cast(AdapterRow, outcome.value)
        else:
            peft_type, variant, base = outcome.job
            yield AdapterRow(peft_type, variant, base, verdict="fails", reason=str(outcome.value))


def section(rows: Sequence[AdapterRow], command: str) -> str:
    """Return the section of ``docs/MODELS.md`` about adapters.

    Args:
        rows: from :func:`run_adapters`.
        command: what made them.
    """
    counts = Counter(row.verdict for row in rows)
    kinds = len({row.peft_type for row in rows})
    parts = [
        "## Adapters",
        written_by(command, today(), installed(*_PACKAGES)),
        _MEANING,
        f"**{kinds} types of PEFT's adapters in {len(rows)} settings.**",
        verdicts(counts, VERDICTS, "settings"),
        table(_COLUMNS, map(astuple, rows)),
    ]
    return "\n\n".join(parts)

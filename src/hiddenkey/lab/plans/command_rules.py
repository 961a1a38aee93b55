"""Every broken rule of a plan's command, its arguments and its metric."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from hiddenkey.errors import suggestion
from hiddenkey.lab.plans.command import NEEDED, OWN, READING, placeholders

_TAKEN: Final = (*OWN, *READING, "command", "consistency_weight")


def command_faults(command: str, arguments: Mapping[str, Any], metric: str | None) -> list[str]:
    """Return every broken rule of a command, its arguments and its metric.

    Args:
        command: with its placeholders.
        arguments: values of further placeholders.
        metric: what to compare.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        return [f"command must be words that a shell would understand ({error}); fix the quotes"]
    if not words:
        return ["command must start a program, got nothing; give the line that trains"]
    faults = [] if metric else [_no_metric()]
    names = placeholders(command)
    faults += [_lacks(name, command) for name in NEEDED if name not in names]
    faults += [
        f"command has {{{name}}}, of which nothing is known"
        f"{suggestion(name, [*OWN, *arguments]) or ''}; give --arguments.{name} VALUE, or write"
        f" {{{{{name}}}}} for the braces themselves"
        for name in names
        if name not in (*OWN, *arguments)
    ]
    faults += [*_argument_faults(arguments, names)]
    if not placeholders(words[0]) and shutil.which(words[0]) is None:
        faults.append(
            f"command must start with a program, {words[0]!r} is none; give its path, or put"
            " 'python' before a script"
        )
    return faults


def _no_metric() -> str:
    return (
        "metric must name what is compared, got none; give --metric eval_accuracy, or as your"
        " command calls it"
    )


def _lacks(name: str, command: str) -> str:
    why = {
        "seed": "else the seeds of a method would all be one run",
        "output": "else runs would write over each other",
    }[name]
    return (
        f"command must hold {{{name}}} where it takes its {_MEANING[name]}, {why}; got"
        f" {command[:120]!r}; for example: python train.py --seed {{seed}} --output_dir {{output}}"
    )


_MEANING: Final = {"seed": "seed", "output": "output folder"}


def _argument_faults(arguments: Mapping[str, Any], used: Sequence[str]) -> Iterable[str]:
    for name, value in arguments.items():
        if name in _TAKEN:
            yield f"arguments.{name} is a name that the plan fills in by itself; name it otherwise"
        elif name not in used:
            yield f"arguments.{name} must be used by the command as {{{name}}}; leave it out"
        values = value if isinstance(value, list | tuple) else [value]
        if not values or not all(isinstance(each, str | int | float | bool) for each in values):
            yield (
                f"arguments.{name} must be a text, a number or a list of them, got {value!r};"
                " correct it"
            )
        elif len({*map(str, values)}) < len(values):
            yield f"arguments.{name} must not repeat a value, got {value!r}; name it once"

"""Every broken rule of a plan's command, its arguments and its metric."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import suggestion
from hiddenkey.lab.plans.command import NEEDED, OWN, READING, placeholders

_OF_SHELL: Final = frozenset(("|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1"))
"""Words that only a shell understands."""

_VARIABLE: Final = re.compile(r"[A-Za-z_]\w*=")
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
    faults += _unknown("command", names, arguments)
    faults += [*_argument_faults(arguments, names)]
    if not placeholders(words[0]) and shutil.which(words[0]) is None:
        hint = "give its path, or put 'python' before a script"
        if _VARIABLE.match(words[0]):
            hint = "put 'env' before it"
        faults.append(f"command must start with a program, {words[0]!r} is none; {hint}")
    if shell := next(filter(_OF_SHELL.__contains__, words), None):
        faults.append(
            f"command is started without a shell, for which {shell!r} is a word like others; write"
            " a script that takes {seed} and {output}, and name that"
        )
    return faults


def metric_file_faults(file: str, arguments: Mapping[str, Any]) -> list[str]:
    """Return every broken rule of the name of a command's file of metrics.

    Args:
        file: with its placeholders.
        arguments: values of further placeholders.
    """
    names = placeholders(file)
    faults = _unknown("metric_file", names, arguments)
    if not faults and not {*NEEDED} & {*names}:
        faults.append(
            "metric_file must hold {output} or {seed}, else all runs would be read from one file;"
            f" got {file!r}; for example: {{output}}/{Path(file).name}"
        )
    return faults


def _unknown(where: str, names: Iterable[str], arguments: Mapping[str, Any]) -> list[str]:
    return [
        f"{where} has {{{name}}}, of which nothing is known"
        f"{suggestion(name, [*OWN, *arguments]) or ''}; give --arguments.{name} VALUE, or write"
        f" {{{{{name}}}}} for the braces themselves"
        for name in names
        if name not in (*OWN, *arguments)
    ]


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

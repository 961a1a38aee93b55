"""Lines to copy: the commands and the Python that a report tells its reader to use."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hiddenkey.framework.catalogue import method, methods
from hiddenkey.lab.plans.attached import VARIED, given
from hiddenkey.lab.plans.command import AS_IS, fill, placeholders
from hiddenkey.lab.plans.identity import changed, options_from
from hiddenkey.lab.present.words import numbers
from hiddenkey.lab.run.dropout import dropout_config, rate_schedules
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.tasks import TASKS

DATA_FOLDER: Final = "DATA_FOLDER"
"""What stands for a task's folder where the records do not say it."""

_COMMAND: Final = "command"
"""Option of runs of somebody else's command: its template."""

_OPEN: Final = {"seed": "SEED", "output": "OUTPUT"}
"""What stands for a command's own seed and folder."""


def is_command(options: Mapping[str, Any]) -> bool:
    """Whether a run was one of somebody else's command."""
    return bool(options.get(_COMMAND))


def is_ours(options: Mapping[str, Any]) -> bool:
    """Whether 'hiddenkey train' can do a run again: not one of a table of results."""
    known = options.get("method") in methods() and options.get("task") in TASKS
    return known and "learning_rate" in options and not is_command(options)


def train_command(options: Mapping[str, Any]) -> str:
    """Return 'hiddenkey train' with all settings of a run that are not the default, but its seed.

    Args:
        options: of the run's record.
    """
    chosen = dataclasses.replace(options_from(options), seed=TrainOptions.seed)
    if TASKS[chosen.task].needs == "folder" and chosen.data is None:
        chosen = dataclasses.replace(chosen, data=DATA_FOLDER)
    shown = {"task": chosen.task, "method": chosen.method, **changed(chosen)}
    return shlex.join(["hiddenkey", "train", *_flags(shown)])


def run_command(options: Mapping[str, Any]) -> str:
    """Return the command that a run was of, after 'hiddenkey run' with the run's method.

    A command that takes the method by itself is given it. Seed and output folder stay open.

    Args:
        options: of the run's record.
    """
    template = str(options[_COMMAND])
    names = placeholders(template)
    own = {name: value for name in VARIED if (value := options.get(name)) is not None}
    own |= given({name: value for name, value in options.items() if name not in names})
    words = ["hiddenkey", "run", *_flags({"method": options["method"], **own})]
    values = {**options, "weight": options.get("consistency_weight"), **_OPEN}
    filled = shlex.join(fill(word, _numbers(values)) for word in shlex.split(template))
    as_is = "method" in names or options["method"] == AS_IS
    return filled if as_is else f"{shlex.join(words)} -- {filled}"


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of placeholders; a rate or weight that is not set is 0, as it was in the run."""
    return {name: 0.0 if value is None else value for name, value in values.items()}


def script_lines(options: Mapping[str, Any]) -> str:
    """Return the lines that put a run's method on the model of one's own script.

    Args:
        options: of the run's record.
    """
    chosen = options_from(options)
    config = dropout_config(chosen)
    said = f"hiddenkey.DropoutConfig.from_dict({config.to_dict()!r})"
    if config == methods()[chosen.method].config:
        said = json.dumps(chosen.method)
    elif config == method(chosen.method, chosen.rate):
        said = f"hiddenkey.method({json.dumps(chosen.method)}, rate={chosen.rate:g})"
    kernel = "" if chosen.kernel == "auto" else f", kernel={json.dumps(chosen.kernel)}"
    schedules = "".join(f", hiddenkey.{each!r}" for each in rate_schedules(chosen))
    return (
        "import hiddenkey\n"
        "from hiddenkey.integrations.trainer import watch\n\n"
        f"attachment = hiddenkey.attach(model, {said}{kernel})\n"
        f"watch(trainer, attachment{schedules})"
    )


def compare_command(plan: Path | None, **axes: Sequence[Any]) -> str:
    """Return 'hiddenkey compare' on a plan with other values of some axes.

    Args:
        plan: its file; ``None`` writes ``PLAN.yaml`` for the one that the reader has.
        axes: values by setting; none of them makes a flag that stands alone.
    """
    words = ["hiddenkey", "compare", "PLAN.yaml" if plan is None else str(plan)]
    for name, values in axes.items():
        whole = values and all(type(value) is int for value in values)
        given = numbers(values).split() if whole else map(str, values)
        words += [f"--{name.replace('_', '-')}", *given]
    return shlex.join(words)


def _flags(settings: Mapping[str, Any]) -> Iterable[str]:
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            for part, own in value.items():
                yield from (f"{flag}.{part}", _word(own))
        elif isinstance(value, list | tuple):
            words = list(map(_word, value))
            odd = not words or any(word.startswith(("--", "[")) for word in words)
            yield from [f"{flag}={json.dumps(list(value))}"] if odd else [flag, *words]
        elif value is True:
            yield flag
        elif _word(value).startswith("--"):
            yield f"{flag}={value}"
        else:
            yield from (flag, _word(value))


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

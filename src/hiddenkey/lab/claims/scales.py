"""Scales from YAML: every fault of a file is found at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.framework.catalogue import methods
from hiddenkey.lab.claims.faults import Faults, one_line
from hiddenkey.lab.claims.plan import Choice, Power, Scale, TaskSetup
from hiddenkey.lab.run.rules import suggestion

_SCALE: Final = ("summary", "seeds", "repeats", "common", "choices", "tasks", "power")


def read_scale(folder: Path, scale: str) -> Scale:
    """Read a scale by its name, or from a file of one's own.

    Raises:
        ConfigError: with every fault.
    """
    known = {path.stem: path for path in sorted((folder / "scales").glob("*.yaml"))}
    path = known.get(scale, Path(scale))
    if not path.is_file():
        near = suggestion(scale, known) or ""
        raise ConfigError(
            f"scale must be one of {', '.join(known)} or a YAML file, got {scale!r}{near}; choose"
            " one"
        )
    faults = Faults(path)
    content = faults.load()
    if faults:  # what cannot be read lacks everything, which need not be said
        raise ConfigError(faults)
    found = _scale(path.stem, content, faults)
    if faults:
        raise ConfigError(faults)
    return found


def _scale(name: str, content: dict[str, Any], faults: Faults) -> Scale:
    faults.known(content, _SCALE)
    for missing in (key for key in _SCALE if key not in content):
        faults.add(f"{missing} is missing; a scale says it before the runs")
    choices = _choices(content.get("choices", {}), faults)
    repeats = content.get("repeats", 1)
    if not isinstance(repeats, int) or repeats < 1:
        faults.add(f"repeats must be a whole number from 1, got {repeats!r}; give one")
    return Scale(
        name=name,
        summary=one_line(content, "summary"),
        seeds=faults.numbers("seeds", content.get("seeds", [0])),
        repeats=repeats,
        common=faults.settings(content.get("common", {}), "common"),
        tasks={
            str(task): _setup(str(task), given, choices, faults)
            for task, given in content.get("tasks", {}).items()
        },
        choices=choices,
        power=_power(content.get("power", {}), faults),
    )


def _power(content: Any, faults: Faults) -> Power:
    given = content if isinstance(content, dict) else {}
    deviation = given.get("deviation", math.nan)
    if content != {} and not (isinstance(deviation, int | float) and deviation > 0):
        faults.add(f"power must have a deviation above 0, got {content!r}; and name its source")
        deviation = math.nan
    return Power(float(deviation), one_line(given, "source"))


def _choices(content: Mapping[str, Any], faults: Faults) -> dict[str, Choice]:
    common = {name: content.get(name, ()) for name in ("learning_rates", "rates", "seeds")}
    found = {}
    for name, given in content.get("methods", {}).items():
        values = {**common, "method": name, **(given or {})}
        method = str(values.pop("method"))
        axes = {
            axis: faults.numbers(f"choices: {name}: {axis}", values.pop(axis)) for axis in common
        }
        faults.one_of(f"choices: {name}: method", method, tuple(methods()))
        settings = faults.settings(values, f"choices: {name}")
        found[str(name)] = Choice(str(name), method, settings, **axes)
    return found


def _setup(
    name: str, given: Mapping[str, Any], choices: Mapping[str, Choice], faults: Faults
) -> TaskSetup:
    values = dict(given)
    validation, floor = values.pop("validation", 0), values.pop("floor", 0.0)
    named = tuple(values.pop("choices", tuple(choices)))
    own = values.pop("learning_rates", {})
    for choice in (*named, *own):
        faults.one_of(f"tasks: {name}: choices", choice, tuple(choices))
    options = faults.settings({"task": name, **values}, f"tasks: {name}")
    whole = options.get("train_size") is None
    if whole != (0 < validation < 1):
        faults.add(
            f"tasks: {name}: validation must be a number of examples beside train_size, or a share"
            f" of all training examples without it, got {validation!r}; mend it"
        )
    rates = {
        str(choice): faults.numbers(f"tasks: {name}: learning_rates: {choice}", tried)
        for choice, tried in own.items()
    }
    return TaskSetup(name, options, float(validation), float(floor), named, rates)

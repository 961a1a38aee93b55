"""Claims and scales from YAML: every fault of every file is found at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from hiddenkey.errors import ConfigError
from hiddenkey.framework.catalogue import methods
from hiddenkey.lab.claims import plan
from hiddenkey.lab.claims.plan import (
    COST,
    MEASURES,
    Choice,
    Claim,
    Configuration,
    Contrast,
    Drawing,
    Scale,
    Scatter,
    TaskSetup,
)
from hiddenkey.lab.plans import recipes
from hiddenkey.lab.plans.settings import read_settings, read_yaml
from hiddenkey.lab.run.rules import suggestion

_Key = TypeVar("_Key")
_CLAIM: Final = ("title", "paper", "how", "configurations", "contrasts", "margin", "tasks")
_SCALE: Final = ("summary", "seeds", "repeats", "common", "choices", "tasks", "power")
_CONTRAST: Final = ("name", "weights", "measure", "expect", "margin", "low", "high")
_AXES: Final = ("learning_rates", "rates", "seeds")
_OLDER: Final = {"arms": "configurations"}
"""Names that files of earlier versions use, and today's."""

_ROUNDING: Final = 1e-9


def default_folder() -> Path:
    """The folder of the plans that come with the package."""
    return recipes.FOLDER / "claims"


def read_plans(
    folder: Path, scale: str, names: Sequence[str] = ()
) -> tuple[tuple[Claim, ...], Scale]:
    """Read claims, one YAML file each in the order of their names, and the scale of their evidence.

    Args:
        folder: holds ``NAME.yaml`` for each claim, and ``scales/NAME.yaml``.
        scale: name of a scale, or a file of one's own.
        names: the claims to read, in any case; none: all that have tasks at the scale.

    Raises:
        ConfigError: with every fault.
    """
    paths = _claim_paths(folder, names)
    of_scale = _File(_scale_path(folder, scale))
    found = _scale(of_scale)
    if of_scale.faults:
        raise ConfigError(of_scale.faults)
    seen: dict[str, tuple[str, Configuration]] = {}
    claims, faults = [], []
    for name, path in paths.items():
        file = _File(path)
        claims.append(_claim(name, file, found, seen))
        faults += file.faults
    without = [claim.name for claim in claims if not claim.tasks]
    if names and without and not faults:
        faults.append(
            f"claims must have tasks at scale {found.name!r}, {', '.join(without)} have none;"
            " name others or another scale"
        )
    if faults:
        raise ConfigError(faults)
    return tuple(claim for claim in claims if claim.tasks), found


class _File:
    """A YAML file of a plan: its content, and all that is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content, faults = read_yaml(path)
        self.content = {_OLDER.get(name, name): value for name, value in content.items()}
        self.faults = faults
        self._unread = bool(faults)

    def add(self, fault: str) -> None:
        """Note a fault, with the file's name."""
        self.faults.append(f"{self.path}: {fault}")

    def require(self, names: Sequence[str], optional: Sequence[str] = ()) -> None:
        """Complain of settings that are missing or unknown; of a file not read that is all said."""
        if not self._unread:
            self.known(self.content, (*names, *optional))
            for name in (name for name in names if name not in self.content):
                self.add(f"{name} is missing; a plan says it before the runs")

    def known(self, content: Mapping[str, Any], names: Sequence[str]) -> None:
        """Complain of what the content has beside the names."""
        for name in (name for name in content if name not in names):
            near = suggestion(str(name), names) or f"; choose from {', '.join(names)}"
            self.add(f"{name!r} is not a setting{near}")

    def one_of(self, place: str, value: Any, known: Collection[str]) -> Any:
        """Return the value; complain unless it is known."""
        if value not in tuple(known):
            near = suggestion(str(value), known) or ""
            self.add(f"{place} must be one of {', '.join(known)}, got {value!r}{near}")
        return value

    def numbers(self, place: str, value: object) -> tuple[Any, ...]:
        """Return a list of numbers, nothing and a complaint if it is none."""
        if isinstance(value, list | tuple) and value and all(map(_is_number, value)):
            return tuple(value)
        self.add(f"{place} must name at least one number in a list, got {value!r}; such as [1, 2]")
        return ()

    def settings(self, values: Mapping[str, Any], place: str) -> dict[str, Any]:
        """Return settings of a run; task, model and rank are the plan's own and passed through."""
        own = {name: values[name] for name in ("task", "model", "rank") if name in values}
        rest = {name: value for name, value in values.items() if name not in own}
        typed, faults = read_settings(rest, place)
        for fault in faults:
            self.add(fault)
        return {**own, **typed}

    def line(self, name: str, content: Mapping[str, Any] | None = None) -> str:
        """Return a text of the file, or of a part of it, in one line; nothing if there is none."""
        return " ".join(str((self.content if content is None else content).get(name, "")).split())


def _claim_paths(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    found = {path.stem.upper(): path for path in sorted(folder.glob("*.yaml"))}
    if not found:
        raise ConfigError(
            f"plans must be a folder with a YAML file for each claim, {str(folder)!r} has none;"
            " check the path"
        )
    wanted = [name.upper() for name in names] or list(found)
    unknown = [name for name in wanted if name not in found]
    if unknown:
        near = suggestion(unknown[0], found) or ""
        raise ConfigError(
            f"claims must be of {', '.join(found)}, got {', '.join(unknown)}{near}; name others"
        )
    return {name: found[name] for name in wanted}


def _scale_path(folder: Path, scale: str) -> Path:
    known = {path.stem: path for path in sorted((folder / "scales").glob("*.yaml"))}
    path = known.get(scale, Path(scale))
    if not path.is_file():
        near = suggestion(scale, known) or ""
        raise ConfigError(
            f"scale must be one of {', '.join(known)} or a YAML file, got {scale!r}{near}; choose"
            " one"
        )
    return path


def _claim(
    name: str, file: _File, scale: Scale, seen: dict[str, tuple[str, Configuration]]
) -> Claim:
    content = file.content
    file.require(_CLAIM, ("scope", "need", "pictures"))
    configurations = {
        str(own): _configuration(str(own), given or {}, file)
        for own, given in content.get("configurations", {}).items()
    }
    for own, found in configurations.items():  # claims share the runs of a configuration
        first, other = seen.setdefault(own, (name, found))
        if found != other:
            file.add(
                f"configuration {own!r} must mean what it means in {first}, got other settings;"
                " rename one of them"
            )
    tasks = tuple(content.get("tasks", {}).get(scale.name, ()))
    for task in tasks:
        if file.one_of(f"tasks: {scale.name}", task, scale.tasks) in scale.tasks:
            for own, found in configurations.items():
                place = f"configurations: {own}: choice on task {task!r}"
                file.one_of(place, found.chosen_as, scale.tasks[task].choices)
    need = content.get("need", 1)
    if not isinstance(need, int | float) or not 0 < need <= 1:
        file.add(f"need must be a share in (0, 1], got {need!r}; 1 means all")
    return Claim(
        name=name,
        title=file.line("title"),
        paper=file.line("paper"),
        how=file.line("how"),
        configurations=configurations,
        contrasts=tuple(
            _contrast({"margin": content.get("margin", math.nan), **given}, configurations, file)
            for given in content.get("contrasts", ())
        ),
        scope=file.one_of("scope", content.get("scope", "pooled"), get_args(plan.Scope)),
        need=float(need),
        tasks=tasks,
        drawings=tuple(
            _drawing(given, configurations, file) for given in content.get("pictures", ())
        ),
    )


def _configuration(name: str, given: Mapping[str, Any], file: _File) -> Configuration:
    values = {"method": name, **given}
    method = file.one_of(f"configurations: {name}: method", values.pop("method"), methods())
    chosen_as = str(values.pop("as", method))
    settings = file.settings(values, f"configurations: {name}")
    return Configuration(name, method, settings, chosen_as)


def _contrast(given: Mapping[str, Any], known: Collection[str], file: _File) -> Contrast:
    place = f"contrasts: {given.get('name')}"
    file.known(given, _CONTRAST)
    weights = {str(name): float(weight) for name, weight in given.get("weights", {}).items()}
    for name in weights:
        file.one_of(f"{place}: weights", name, known)
    measure = file.one_of(f"{place}: measure", given.get("measure", "metric"), MEASURES)
    expect = given.get("expect", "better")
    file.one_of(f"{place}: expect", expect, get_args(plan.Expectation))
    if measure != COST and abs(sum(weights.values())) > _ROUNDING:
        file.add(f"{place}: weights must sum to 0, got {weights!r}; each gain has its baseline")
    if expect == "between" and not {"low", "high"} <= set(given):
        file.add(f"{place}: between needs low and high; give both")
    low, high = float(given.get("low", -math.inf)), float(given.get("high", math.inf))
    name = str(given.get("name", ""))
    return Contrast(name, weights, measure, expect, float(given["margin"]), low, high)


def _drawing(given: Mapping[str, Any], known: Collection[str], file: _File) -> Drawing:
    title = str(given.get("title", ""))
    found = Drawing(
        kind=file.one_of(f"pictures: {title}: kind", given.get("kind"), get_args(plan.Kind)),
        title=title,
        x=str(given.get("x", "")),
        logarithmic=bool(given.get("logarithmic", False)),
        series=_by_two(given.get("series", {}), float),
        cells=_by_two(given.get("cells", {}), str),
        measure=str(given.get("measure", "metric")),
    )
    for name in sorted(found.shown):
        file.one_of(f"pictures: {title}", name, known)
    return found


def _by_two(
    given: Mapping[str, Mapping[Any, str]], kind: Callable[[Any], _Key]
) -> dict[str, dict[_Key, str]]:
    """Configurations by two axes."""
    return {
        str(label): {kind(place): str(name) for place, name in points.items()}
        for label, points in given.items()
    }


def _scale(file: _File) -> Scale:
    content = file.content
    file.require(_SCALE)
    choices = _choices(content.get("choices", {}), file)
    repeats = content.get("repeats", 1)
    if not isinstance(repeats, int) or repeats < 1:
        file.add(f"repeats must be a whole number from 1, got {repeats!r}; give one")
    return Scale(
        name=file.path.stem,
        summary=file.line("summary"),
        seeds=file.numbers("seeds", content.get("seeds", [0])),
        repeats=repeats,
        common=file.settings(content.get("common", {}), "common"),
        tasks={
            str(task): _setup(str(task), given, choices, file)
            for task, given in content.get("tasks", {}).items()
        },
        choices=choices,
        scatter=_scatter(content.get("power", {}), file),
    )


def _scatter(content: Any, file: _File) -> Scatter:
    given = content if isinstance(content, dict) else {}
    deviation = given.get("deviation", math.nan)
    if content != {} and not (_is_number(deviation) and deviation > 0):
        file.add(f"power must have a deviation above 0, got {content!r}; and name its source")
        deviation = math.nan
    return Scatter(float(deviation), file.line("source", given))


def _choices(content: Mapping[str, Any], file: _File) -> dict[str, Choice]:
    found = {}
    for name, given in content.get("methods", {}).items():
        place = f"choices: {name}"
        values = {
            "method": name,
            **{axis: content.get(axis, ()) for axis in _AXES},
            **(given or {}),
        }
        axes = {axis: file.numbers(f"{place}: {axis}", values.pop(axis)) for axis in _AXES}
        method = file.one_of(f"{place}: method", values.pop("method"), methods())
        found[str(name)] = Choice(str(name), method, file.settings(values, place), **axes)
    return found


def _setup(name: str, given: Mapping[str, Any], choices: Collection[str], file: _File) -> TaskSetup:
    place, values = f"tasks: {name}", dict(given)
    validation, floor = values.pop("validation", 0), values.pop("floor", 0.0)
    named, own = tuple(values.pop("choices", choices)), values.pop("learning_rates", {})
    for choice in (*named, *own):
        file.one_of(f"{place}: choices", choice, choices)
    options = file.settings({"task": name, **values}, place)
    whole = options.get("train_size") is None
    if whole != (0 < validation < 1):
        file.add(
            f"{place}: validation must be a number of examples beside train_size, or a share of"
            f" all training examples without it, got {validation!r}; fix it"
        )
    rates = {
        str(choice): file.numbers(f"{place}: learning_rates: {choice}", tried)
        for choice, tried in own.items()
    }
    return TaskSetup(name, options, float(validation), float(floor), named, rates)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

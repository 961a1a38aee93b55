"""Claims and scales from YAML: every fault of a file is found at once."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from hiddenkey.errors import ConfigError, suggestion
from hiddenkey.framework.catalogue import methods
from hiddenkey.lab.claims.plan import (
    COST,
    Choice,
    Claim,
    Configuration,
    Contrast,
    Scale,
    TaskSetup,
)
from hiddenkey.lab.plans import recipes
from hiddenkey.lab.plans.settings import read_settings, read_yaml

_Kind = TypeVar("_Kind")
_AXES: Final = ("learning_rates", "rates", "seeds", "epochs", "by", "scope")
_NAMES: Final = {"arms": "configurations"}
"""Names that files of earlier versions use, and today's."""

_NEUTRAL: Final = {float: math.nan, int: 1, Mapping: {}, tuple: ()}
"""Stands for a value that is missing or wrong, so that reading goes on."""

_ROUNDING: Final = 1e-9

MOST_SEEDS: Final = 1000
"""Most seeds of a configuration, and most measurements of a step's time."""


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
        content, self.faults = read_yaml(path)
        self._unread = bool(self.faults)
        self.content = {_NAMES.get(name, name): value for name, value in content.items()}

    def add(self, fault: str) -> None:
        """Note a fault, with the file's name; of a file that cannot be read all is said."""
        if not self._unread:
            self.faults.append(f"{self.path}: {fault}")

    def one_of(self, place: str, value: Any, known: Collection[str]) -> Any:
        """Return the value; complain unless it is known."""
        if value not in tuple(known):
            near = suggestion(str(value), known) or ""
            self.add(f"{place} must be one of {', '.join(known)}, got {value!r}{near}")
        return value

    def build(
        self, kind: type[_Kind], given: Any, place: str = "", rest: str = "", **read: Any
    ) -> _Kind:
        """Return an instance of a plan's type from settings by name.

        Args:
            kind: the type, a dataclass.
            given: what the file says.
            place: where it says that, for messages; empty for the whole file.
            rest: field that takes what is no field, as settings of a run.
            read: fields that were read already.
        """
        hints = get_type_hints(kind)
        fields = [f for f in dataclasses.fields(kind) if f.name not in {*read, rest}]  # type: ignore[arg-type]
        own = {field.name: field for field in fields}
        given = self.value(Mapping[str, object], given, place)
        others = {name: value for name, value in given.items() if name not in own}
        if rest:
            read[rest] = self._settings(others, place)
        for name in () if rest else others:
            near = suggestion(name, own) or f"; choose from {', '.join(own)}"
            self.add(f"{name!r} is not a setting{near}")
        for name, field in own.items():
            if name in given or field.default is dataclasses.MISSING is field.default_factory:
                where = f"{place}: {name}" if place else name
                read[name] = self.value(hints[name], given.get(name), where)
        return kind(**read)

    def value(self, hint: Any, given: Any, place: str) -> Any:
        """Return what the file says of a field, a neutral value and a complaint if it is wrong."""
        kind, parts = get_origin(hint) or hint, get_args(hint)
        if kind is object:
            return given
        if given is None:
            self.add(f"{place} is missing; a plan says it before the runs")
            return _NEUTRAL.get(kind, "")
        if kind is Literal:
            return self.one_of(place, given, parts)
        if kind is str:
            return " ".join(str(given).split())
        if kind is bool:
            if not isinstance(given, bool):
                self.add(f"{place} must be true or false, got {given!r}; write it without quotes")
            return given is True
        if dataclasses.is_dataclass(kind):
            return self.build(hint, given, place)
        may_be_empty = kind is tuple and parts[0] not in (int, float)
        if kind is tuple and isinstance(given, list | tuple) and (given or may_be_empty):
            return tuple(self.value(parts[0], each, place) for each in given)
        if kind is Mapping and isinstance(given, Mapping):
            if parts[1] is Any:
                return self._settings(given, place)
            return {
                self.value(parts[0], name, place): self.value(parts[1], value, f"{place}: {name}")
                for name, value in given.items()
            }
        is_number = isinstance(given, int | kind) and not isinstance(given, bool)
        if kind in (int, float) and is_number and abs(given) < math.inf:
            return given
        wanted = {int: "a whole number", float: "a finite number", tuple: "a list of at least one"}
        self.add(f"{place} must be {wanted.get(kind, 'name: value')}, got {given!r}; fix it")
        return _NEUTRAL.get(kind, "")

    def _settings(self, values: Mapping[str, Any], place: str) -> dict[str, Any]:
        """Settings of a run; task, model and rank are the plan's own and passed through."""
        own = {name: values[name] for name in ("task", "model", "rank") if name in values}
        rest = {name: value for name, value in values.items() if name not in own}
        typed, faults = read_settings(rest, place)
        for fault in faults:
            self.add(fault)
        return {**own, **typed}


def _in_order(path: Path) -> list[str | int]:
    """A key to sort by that puts R2 before R10: texts and the numbers between them."""
    parts = re.split(r"(\d+)", path.stem)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _claim_paths(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    paths = sorted(folder.glob("*.yaml"), key=_in_order)
    found = {path.stem.upper(): path for path in paths}
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
    content = dict(file.content)
    usual = {"measure": "metric", "expect": "better"}
    usual |= {"margin": content.pop("margin")} if "margin" in content else {}
    asked = content.get("contrasts", ())
    contrasts = file.value(tuple[Mapping[str, object], ...], asked, "contrasts")
    content["contrasts"] = [{**usual, **each} for each in contrasts]
    trained = content.pop("configurations", None)
    configurations = _methods(file, Configuration, trained, "configurations")
    listed = file.value(Mapping[str, object], content.pop("tasks", {}), "tasks").get(scale.name, ())
    tasks = file.value(tuple[str, ...], listed, f"tasks: {scale.name}")
    claim = file.build(Claim, content, name=name, configurations=configurations, tasks=tasks)
    if not 0 < claim.need <= 1:
        file.add(f"need must be a share in (0, 1], got {claim.need!r}; 1 means all")
    for contrast in claim.contrasts:
        _check_contrast(contrast, claim, file)
    for drawing in claim.pictures:
        for shown in sorted(drawing.shown):
            file.one_of(f"pictures: {drawing.title}", shown, claim.configurations)
    for own, configuration in claim.configurations.items():
        first, other = seen.setdefault(own, (name, configuration))
        if configuration != other:  # claims share the runs of a configuration
            file.add(
                f"configuration {own!r} must mean what it means in {first}, got other settings;"
                " rename one of them"
            )
    for task in claim.tasks:
        if file.one_of(f"tasks: {scale.name}", task, scale.tasks) in scale.tasks:
            for own, configuration in claim.configurations.items():
                place = f"configurations: {own}: choice on task {task!r}"
                file.one_of(place, configuration.chosen_as, scale.tasks[task].choices)
    return claim.asked() if scale.asked_only and not file.faults else claim


def _methods(
    file: _File, kind: type[_Kind], given: Any, place: str, more: Mapping[str, Any] = {}
) -> dict[str, _Kind]:
    """Return configurations or choices by name, which is their method unless they name one."""
    found = {}
    for name, own in file.value(Mapping[str, object], given, place).items():
        where = f"{place.partition(':')[0]}: {name}"
        settings = file.value(Mapping[str, object], own or {}, where)
        values = {"method": name, **more, **settings}
        if kind is Configuration:
            values["chosen_as"] = values.pop("as", values["method"])
        found[name] = file.build(kind, values, where, "settings", name=name)
        file.one_of(f"{where}: method", values["method"], methods())
    return found


def _check_contrast(contrast: Contrast, claim: Claim, file: _File) -> None:
    place, weights = f"contrasts: {contrast.name}", contrast.weights
    for name in weights:
        file.one_of(f"{place}: weights", name, claim.configurations)
    if contrast.measure != COST and abs(math.fsum(weights.values())) > _ROUNDING:
        file.add(f"{place}: weights must sum to 0, got {weights!r}; each gain has its baseline")
    if contrast.margin < 0:
        file.add(f"{place}: margin must be 0 or more, got {contrast.margin!r}; fix it")
    if contrast.low > contrast.high:
        file.add(f"{place}: low must not exceed high, got {contrast.low!r} and {contrast.high!r}")
    if contrast.expect == "between" and math.isinf(contrast.low) and math.isinf(contrast.high):
        file.add(f"{place}: between needs low and high; give both")


def _scale(file: _File) -> Scale:
    content = dict(file.content)
    given = file.value(Mapping[str, object], content.pop("choices", None), "choices")
    axes = {axis: given[axis] for axis in _AXES if axis in given}
    choices = _methods(file, Choice, given.get("methods"), "choices: methods", axes)
    tasks = file.value(Mapping[str, object], content.pop("tasks", None), "tasks")
    setups = {name: _setup(name, given, choices, file) for name, given in tasks.items()}
    scale = file.build(Scale, content, name=file.path.stem, choices=choices, tasks=setups)
    if len(set(scale.seeds)) < len(scale.seeds):
        file.add(f"seeds must be different, got {list(scale.seeds)!r}; name each once")
    if not 1 <= scale.repeats <= MOST_SEEDS:
        file.add(f"repeats must be from 1 to {MOST_SEEDS}, got {scale.repeats!r}; give one")
    if not scale.power or not scale.power.deviation > 0:
        file.add("power must have a deviation above 0, in points; and name its source")
    return scale


def _setup(name: str, given: Any, choices: Mapping[str, Choice], file: _File) -> TaskSetup:
    place = f"tasks: {name}"
    usual = {"task": name, "choices": [*choices], "validation": 0, "floor": 0.0}
    values = usual | file.value(Mapping[str, object], given, place)
    setup = file.build(TaskSetup, values, place, "options", name=name)
    for choice in (*setup.choices, *setup.learning_rates):
        file.one_of(f"{place}: choices", choice, choices)
    for choice in setup.learning_rates:
        if choice in choices and choices[choice].scope == "all tasks":
            file.add(
                f"{place}: learning_rates of {choice!r} must be those of all tasks, which have one"
                " choice together; leave them out"
            )
    whole = setup.options.get("train_size") is None
    fits = 0 < setup.validation < 1 if whole else setup.validation >= 1
    if not fits:
        file.add(
            f"{place}: validation must be a number of examples, 1 or more, beside train_size, or a"
            f" share of all training examples without it, got {setup.validation!r}; fix it"
        )
    return setup

"""Claims and scales from YAML: every fault of every file is found at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from hiddenkey.catalogue import methods
from hiddenkey.errors import ConfigError
from hiddenkey.lab.claims.plan import (
    COST,
    MEASURES,
    Arm,
    Choice,
    Claim,
    Contrast,
    Picture,
    Power,
    Scale,
    TaskSetup,
)
from hiddenkey.lab.comparison.settings import read_settings
from hiddenkey.lab.rules import suggestion

_CLAIM: Final = ("title", "paper", "how", "arms", "contrasts", "scope", "need", "margin", "tasks")
_SCALE: Final = ("summary", "seeds", "repeats", "common", "choices", "tasks", "power")
_EXPECTATIONS: Final = ("better", "no better", "equal", "between")
_SCOPES: Final = ("pooled", "each task")
_PICTURES: Final = ("sweep", "grid", "effects")
_ROUNDING: Final = 1e-9


class _Faults(list[str]):
    """Collects what is wrong with one file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def add(self, fault: str) -> None:
        self.append(f"{self._path}: {fault}")

    def one_of(self, place: str, value: object, known: Sequence[str]) -> None:
        """Complain unless the value is known."""
        if value not in tuple(known):
            near = suggestion(str(value), known) or ""
            self.add(f"{place} must be one of {', '.join(known)}, got {value!r}{near}")

    def settings(self, values: Mapping[str, Any], place: str) -> dict[str, Any]:
        """Read settings of a run; those that a task or an arm sets itself are passed through."""
        own = {name: values[name] for name in ("task", "model", "rank", "method") if name in values}
        rest = {name: value for name, value in values.items() if name not in own}
        typed, faults = read_settings(rest, place)
        for fault in faults:
            self.add(fault)
        return {**own, **typed}


def default_folder() -> Path:
    """The folder of the plans that come with the package."""
    return Path(__file__).parent / "plans"


def read_claims(folder: Path, names: Sequence[str] = ()) -> tuple[Claim, ...]:
    """Read the claims of a folder, one YAML file each, in the order of their names.

    Args:
        folder: holds ``NAME.yaml`` for each claim.
        names: the claims to read, in any case; none: all.

    Raises:
        ConfigError: with every fault.
    """
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
    claims: list[Claim] = []
    faults: list[str] = []
    for name in dict.fromkeys(wanted):
        here = _Faults(found[name])
        claims.append(_claim(name, _load(found[name], here), here))
        faults += here
    faults += _clashes(claims)
    if faults:
        raise ConfigError(faults)
    return tuple(claims)


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
    faults = _Faults(path)
    found = _scale(path.stem, _load(path, faults), faults)
    if faults:
        raise ConfigError(faults)
    return found


def fit(claims: Sequence[Claim], scale: Scale) -> list[str]:
    """Say where claims name tasks or choices that the scale has not."""
    faults = []
    for claim in claims:
        for task in claim.tasks.get(scale.name, ()):
            setup = scale.tasks.get(task)
            if setup is None:
                faults.append(
                    f"{claim.name}: task {task!r} is not in scale {scale.name!r}; choose from"
                    f" {', '.join(scale.tasks)}"
                )
                continue
            missing = {arm.chosen_as for arm in claim.arms.values()} - set(setup.choices)
            if missing:
                faults.append(
                    f"{claim.name}: task {task!r} of scale {scale.name!r} has no choice"
                    f" {', '.join(sorted(missing))}; add it to its choices"
                )
    return faults


def _load(path: Path, faults: _Faults) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        faults.add(f"must be YAML ({' '.join(str(error).split())}); mend the file")
        return {}
    if not isinstance(content, dict):
        faults.add(f"must hold settings as 'name: value', got {type(content).__name__}")
        return {}
    return content


def _known(content: Mapping[str, Any], names: Sequence[str], faults: _Faults) -> None:
    for name in content:
        if name not in names:
            near = suggestion(str(name), names) or f"; choose from {', '.join(names)}"
            faults.add(f"{name!r} is not a setting{near}")


def _claim(name: str, content: dict[str, Any], faults: _Faults) -> Claim:
    _known(content, (*_CLAIM, "pictures"), faults)
    for missing in (key for key in _CLAIM if key not in content and key not in ("scope", "need")):
        faults.add(f"{missing} is missing; a plan says it before the runs")
    arms = {
        str(arm): _arm(str(arm), given or {}, faults)
        for arm, given in content.get("arms", {}).items()
    }
    margin = content.get("margin", math.nan)
    contrasts = tuple(
        _contrast(given, arms, margin, faults) for given in content.get("contrasts", ())
    )
    scope, need = content.get("scope", "pooled"), content.get("need", 1)
    faults.one_of("scope", scope, _SCOPES)
    if not isinstance(need, int | float) or not 0 < need <= 1:
        faults.add(f"need must be a share in (0, 1], got {need!r}; 1 means all")
    return Claim(
        name=name,
        title=_text(content, "title"),
        paper=_text(content, "paper"),
        how=_text(content, "how"),
        arms=arms,
        contrasts=contrasts,
        scope=scope,
        need=float(need),
        tasks={scale: tuple(tasks) for scale, tasks in content.get("tasks", {}).items()},
        pictures=tuple(_picture(given, arms, faults) for given in content.get("pictures", ())),
    )


def _text(content: Mapping[str, Any], name: str) -> str:
    return " ".join(str(content.get(name, "")).split())


def _arm(name: str, given: Mapping[str, Any], faults: _Faults) -> Arm:
    values = {"method": name, **given}
    method = str(values.pop("method"))
    chosen_as = str(values.pop("as", method))
    faults.one_of(f"arms: {name}: method", method, tuple(methods()))
    return Arm(name, method, faults.settings(values, f"arms: {name}"), chosen_as)


def _contrast(
    given: Mapping[str, Any], arms: Mapping[str, Arm], margin: float, faults: _Faults
) -> Contrast:
    name = str(given.get("name", ""))
    place = f"contrasts: {name}"
    _known(given, ("name", "weights", "measure", "expect", "margin", "low", "high"), faults)
    weights = {str(arm): float(weight) for arm, weight in given.get("weights", {}).items()}
    for arm in weights:
        faults.one_of(f"{place}: weights", arm, tuple(arms))
    measure, expect = given.get("measure", "metric"), given.get("expect", "better")
    faults.one_of(f"{place}: measure", measure, tuple(MEASURES))
    faults.one_of(f"{place}: expect", expect, _EXPECTATIONS)
    if measure != COST and abs(sum(weights.values())) > _ROUNDING:
        faults.add(f"{place}: weights must sum to 0, got {weights!r}; each gain has its baseline")
    if expect == "between" and not {"low", "high"} <= set(given):
        faults.add(f"{place}: between needs low and high; give both")
    return Contrast(
        name,
        weights,
        measure,
        expect,
        float(given.get("margin", margin)),
        float(given.get("low", -math.inf)),
        float(given.get("high", math.inf)),
    )


def _picture(given: Mapping[str, Any], arms: Mapping[str, Arm], faults: _Faults) -> Picture:
    values = dict(given)
    kind, title = values.get("kind"), str(values.get("title", ""))
    faults.one_of(f"pictures: {title}: kind", kind, _PICTURES)
    series = {
        str(label): {float(x): str(arm) for x, arm in points.items()}
        for label, points in values.get("series", {}).items()
    }
    rows = {str(row): dict(cells) for row, cells in values.get("cells", {}).items()}
    cells = {(row, str(column)): str(arm) for row, c in rows.items() for column, arm in c.items()}
    used = [arm for points in series.values() for arm in points.values()] + list(cells.values())
    for arm in used:
        faults.one_of(f"pictures: {title}", arm, tuple(arms))
    return Picture(
        kind=kind if kind in _PICTURES else "effects",
        title=title,
        x=str(values.get("x", "")),
        logarithmic=bool(values.get("logarithmic", False)),
        series=series,
        rows=tuple(rows),
        columns=tuple(dict.fromkeys(column for _, column in cells)),
        cells=cells,
        measure=str(values.get("measure", "metric")),
    )


def _clashes(claims: Sequence[Claim]) -> list[str]:
    """An arm means the same in all claims, so that they share its runs."""
    seen: dict[str, tuple[Claim, Arm]] = {}
    faults = []
    for claim in claims:
        for name, arm in claim.arms.items():
            first, other = seen.setdefault(name, (claim, arm))
            if arm != other:
                faults.append(
                    f"{claim.name}: arm {name!r} must mean what it means in {first.name}, got"
                    " other settings; rename one of them"
                )
    return faults


def _scale(name: str, content: dict[str, Any], faults: _Faults) -> Scale:
    _known(content, _SCALE, faults)
    for missing in (key for key in _SCALE if key not in content):
        faults.add(f"{missing} is missing; a scale says it before the runs")
    choices = _choices(content.get("choices", {}), faults)
    power = content.get("power", {})
    return Scale(
        name=name,
        summary=_text(content, "summary"),
        seeds=tuple(content.get("seeds", ())),
        repeats=int(content.get("repeats", 1)),
        common=faults.settings(content.get("common", {}), "common"),
        tasks={
            str(task): _setup(str(task), given, choices, faults)
            for task, given in content.get("tasks", {}).items()
        },
        choices=choices,
        power=Power(float(power.get("deviation", math.nan)), _text(power, "source")),
    )


def _choices(content: Mapping[str, Any], faults: _Faults) -> dict[str, Choice]:
    common = {name: content.get(name, ()) for name in ("learning_rates", "rates", "seeds")}
    found = {}
    for name, given in content.get("methods", {}).items():
        values = {**common, "method": name, **(given or {})}
        method = str(values.pop("method"))
        axes = {axis: tuple(values.pop(axis)) for axis in common}
        faults.one_of(f"choices: {name}: method", method, tuple(methods()))
        for axis in (axis for axis, tried in axes.items() if not tried):
            faults.add(f"choices: {name}: {axis} must name at least one, got none; add one")
        settings = faults.settings(values, f"choices: {name}")
        found[str(name)] = Choice(str(name), method, settings, **axes)
    return found


def _setup(
    name: str, given: Mapping[str, Any], choices: Mapping[str, Choice], faults: _Faults
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
    rates = {str(choice): tuple(map(float, tried)) for choice, tried in own.items()}
    return TaskSetup(name, options, float(validation), float(floor), named, rates)

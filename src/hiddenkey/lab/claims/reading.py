"""Claims from YAML: every fault of every file is found at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.framework.catalogue import methods
from hiddenkey.lab.claims.faults import Faults, one_line
from hiddenkey.lab.claims.plan import (
    COST,
    MEASURES,
    Arm,
    Claim,
    Contrast,
    Picture,
    Scale,
)
from hiddenkey.lab.plans import recipes
from hiddenkey.lab.run.rules import suggestion

_CLAIM: Final = ("title", "paper", "how", "arms", "contrasts", "scope", "need", "margin", "tasks")
_EXPECTATIONS: Final = ("better", "no better", "equal", "between")
_SCOPES: Final = ("pooled", "each task")
_PICTURES: Final = ("sweep", "grid", "effects")
_ROUNDING: Final = 1e-9


def default_folder() -> Path:
    """The folder of the plans that come with the package."""
    return recipes.FOLDER / "claims"


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
        here = Faults(found[name])
        content = here.load()
        if not here:  # what cannot be read lacks everything, which need not be said
            claims.append(_claim(name, content, here))
        faults += here
    faults += _clashes(claims)
    if faults:
        raise ConfigError(faults)
    return tuple(claims)


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


def _claim(name: str, content: dict[str, Any], faults: Faults) -> Claim:
    faults.known(content, (*_CLAIM, "pictures"))
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
        title=one_line(content, "title"),
        paper=one_line(content, "paper"),
        how=one_line(content, "how"),
        arms=arms,
        contrasts=contrasts,
        scope=scope,
        need=float(need),
        tasks={scale: tuple(tasks) for scale, tasks in content.get("tasks", {}).items()},
        pictures=tuple(_picture(given, arms, faults) for given in content.get("pictures", ())),
    )


def _arm(name: str, given: Mapping[str, Any], faults: Faults) -> Arm:
    values = {"method": name, **given}
    method = str(values.pop("method"))
    chosen_as = str(values.pop("as", method))
    faults.one_of(f"arms: {name}: method", method, tuple(methods()))
    return Arm(name, method, faults.settings(values, f"arms: {name}"), chosen_as)


def _contrast(
    given: Mapping[str, Any], arms: Mapping[str, Arm], margin: float, faults: Faults
) -> Contrast:
    name = str(given.get("name", ""))
    place = f"contrasts: {name}"
    faults.known(given, ("name", "weights", "measure", "expect", "margin", "low", "high"))
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


def _picture(given: Mapping[str, Any], arms: Mapping[str, Arm], faults: Faults) -> Picture:
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

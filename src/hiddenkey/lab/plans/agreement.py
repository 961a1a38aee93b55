"""What all runs of one folder must share: settings, baseline, search and versions.

A plan may grow: more tasks, models, methods, rates, ranks, weights and seeds add runs beside those
that are there, and leaving some out leaves theirs. What would make runs of one folder incomparable,
other settings for the same task and method, another baseline, another search or other versions, is
refused unless the user accepts it.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import optuna

from hiddenkey.errors import ConfigError
from hiddenkey.lab.plans.attached import DEFAULTS
from hiddenkey.lab.plans.command import READING, CommandOptions, files
from hiddenkey.lab.plans.identity import PATHS, VARIED, versions
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.run.options import TrainOptions

_ATTRIBUTE: Final = "plan"
_VARIED: Final = (*PATHS, "task", *VARIED)
_PATIENCE_SECONDS: Final = 5


def terms(plan: Plan) -> dict[str, Any]:
    """Return what the plan holds runs to, as plain JSON types."""
    chosen: Sequence[TrainOptions | CommandOptions] = (
        plan.settings() if plan.command is None else plan.command_settings()
    )
    left_out = (*_VARIED, *READING, *plan.arguments)
    found = {} if plan.command is None else files(plan.command)
    unchanged = {} if plan.command is None else DEFAULTS
    settings = {
        f"{options.method} on {options.task}": {
            name: value
            for name, value in {**unchanged, **options.recorded()}.items()
            if name not in left_out
        }
        | {f"file {name}": print_of for name, print_of in found.items()}
        for options in chosen
    }
    search = plan.searched
    return {
        "baseline": plan.baseline,
        "search": None if search is None else json.loads(json.dumps(search.terms())),
        "versions": versions(),
        "settings": settings,
    }


def agree(study: optuna.Study, plan: Plan, *, created: bool) -> None:
    """Compare the plan with those before it, and note what it adds.

    Args:
        study: the study of the compared runs.
        plan: the plan of this command.
        created: whether this command created the study; another one waits for its terms.

    Raises:
        ConfigError: with every difference, unless the plan accepts them.
    """
    new = terms(plan)
    old = _wait_for_terms(study, created)
    faults = [] if old is None else differences(old, new)
    if faults and not plan.accept_changes:
        raise ConfigError(faults)
    before = {} if old is None else old["settings"]
    merged = {**new, "settings": {**before, **new["settings"]}}
    if merged != old:
        study.set_user_attr(_ATTRIBUTE, merged)


def terms_of(study: optuna.Study | optuna.study.StudySummary) -> dict[str, Any] | None:
    """The terms that earlier plans left in a study."""
    found: dict[str, Any] | None = study.user_attrs.get(_ATTRIBUTE)
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say what two plans that share a folder disagree about."""
    advice = "take the old value, name another output, or give --accept-changes"
    faults = [
        f"{name} {_other(old[name], new[name])}; {advice}"
        for name in ("baseline", "search")
        if old[name] != new[name]
    ]
    faults += [
        f"{package} must stay the version that this folder was begun with, it was"
        f" {old['versions'].get(package)}, got {found}; install that one, name another output, or"
        " give --accept-changes: all runs are then run again"
        for package, found in new["versions"].items()
        if old["versions"].get(package) != found
    ]
    changed: dict[str, list[str]] = defaultdict(list)
    for place, values in new["settings"].items():
        before = old["settings"].get(place, {})
        for name in values:
            if name in before and before[name] != values[name]:
                changed[f"{name} {_other(before[name], values[name])}"].append(place)
    return faults + [f"{said} ({', '.join(places)}); {advice}" for said, places in changed.items()]


def _other(before: Any, now: Any) -> str:
    return f"must stay what it is in this folder, it was {before!r}, got {now!r}"


def _wait_for_terms(study: optuna.Study, created: bool) -> dict[str, Any] | None:
    until = time.monotonic() + (0 if created else _PATIENCE_SECONDS)
    while True:
        found = terms_of(study)
        # A study without terms was created a moment ago, or by a command that was killed then.
        if found is not None or time.monotonic() >= until:
            return found
        time.sleep(0.1)

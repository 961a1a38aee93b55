"""The searches of a plan as jobs, and what they have chosen; both outlines read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from hiddenkey.lab.compare.archive import WORST
from hiddenkey.lab.plans.identity import PATHS, short_hash, versions
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.search import AnyOptions
from hiddenkey.lab.plans.trials import SearchTrial
from hiddenkey.lab.queue.jobs import Job, State


def search_jobs(
    plan: Plan, contenders: Sequence[AnyOptions], fingerprint: str
) -> tuple[str, list[Job]]:
    """Return the name of a search's study, and its jobs.

    Args:
        plan: a plan with a search.
        contenders: settings of one method, or of several of which one is chosen, on the examples
            that the search judges by.
        fingerprint: hash of these examples.
    """
    search = plan.searched
    assert search is not None
    first, *others = contenders
    space = search.space_of_all(contenders, plan.baseline)
    trial = SearchTrial(
        first, fingerprint, 0, search.trials, search.seeds, space, tuple(others), search.by
    )
    what = {**trial.to_dict(), "index": None, "trials": None, "versions": versions()}
    what["options"] = _without_paths(what["options"])
    what |= {"others": [_without_paths(each) for each in what["others"]]} if others else {}
    what |= {"first": True} if search.together else {}
    key = short_hash(what)
    method = f"{len(contenders)} methods" if others else first.method
    name = f"{plan.name} search {first.task} {method} {key}"
    trials = (dataclasses.replace(trial, index=index) for index in range(search.trials))
    return name, [
        Job(
            f"{key}-{each.index}",
            "search",
            each.to_dict(),
            each.first if search.together else {},
            each.name,
        )
        for each in trials
    ]


def _without_paths(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in PATHS}


def _all_done(jobs: Sequence[Job], states: Mapping[str, State]) -> bool:
    return all(job.key in states and states[job.key].done for job in jobs)


def chosen_by(jobs: Sequence[Job], states: Mapping[str, State]) -> dict[str, Any] | None:
    """What a search has chosen; ``None`` while it is open, or if no trial succeeded."""
    return _best(states) if _all_done(jobs, states) else None


def why_nothing(jobs: Sequence[Job], states: Mapping[str, State]) -> str:
    """Say why a search that is done chose nothing; empty if it is open or did choose."""
    if not _all_done(jobs, states) or _best(states) is not None:
        return ""
    if not (worst := len(_ended(states))):
        return "no trial of its search succeeded"
    return (
        f"no trial of its search succeeded, {worst} of {len(states)} diverged or have no metric;"
        " lower search.space.learning_rate, and name another output or give --accept-changes"
    )


def _best(states: Mapping[str, State]) -> dict[str, Any] | None:
    """Settings of the best trial of a search; of equal ones the first."""
    trials = [trial for trial in _ended(states) if trial.value != WORST]
    if not trials:
        return None
    best = max(trials, key=lambda trial: (trial.value, -trial.number))
    return dict(best.params)


def _ended(states: Mapping[str, State]) -> list[FrozenTrial]:
    """The trials of a search that have a value."""
    return [s.trial for s in states.values() if s.status == "finished" and s.trial]

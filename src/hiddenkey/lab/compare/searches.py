"""The searches of a plan as jobs, and what they have chosen; both outlines read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hiddenkey.lab.compare.archive import WORST
from hiddenkey.lab.plans.identity import PATHS, short_hash, versions
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.search import AnyOptions
from hiddenkey.lab.plans.trials import SearchTrial
from hiddenkey.lab.queue.jobs import Job, State

States = Mapping[str, State]


class SearchOutline:
    """The jobs of one search: those of a round follow from what the round before has found.

    Args:
        plan: a plan with a search.
        contenders: settings of one method, or of several of which one is chosen, on the examples
            that the search judges by.
        fingerprint: hash of these examples.
    """

    def __init__(self, plan: Plan, contenders: Sequence[AnyOptions], fingerprint: str) -> None:
        search = plan.searched
        assert search is not None
        first, *others = contenders
        space = search.space_of_all(contenders, plan.baseline)
        self._trial = SearchTrial(
            first,
            fingerprint,
            0,
            search.trials,
            search.seeds,
            space,
            tuple(others),
            search.by,
            search.algorithm,
        )
        self._rounds = search.rounds
        self._together = search.together
        self._key = short_hash(self._identity())
        method = f"{len(contenders)} methods" if others else first.method
        self.name = f"{plan.name} search {first.task} {method} {self._key}"
        self._first = [self._job(0, index) for index in range(search.trials)]

    @property
    def total(self) -> int:
        """How many jobs there are, if enough settings of each round end well."""
        return sum(each.settings for each in self._rounds)

    def jobs(self, states: States) -> list[Job]:
        """Return the jobs that can be named by now, a round after the other."""
        later = [
            self._job(number, index, self._drawn(index, states))
            for number, settings in enumerate(self._settings(states))
            for index in settings
            if number
        ]
        return [*self._first, *later]

    def unnamed(self, states: States) -> list[Job]:
        """Return the jobs of later rounds, with the plan's settings instead of what is drawn."""
        named = len(self._rounds) if self._is_over(states) else len(self._settings(states))
        return [
            self._job(number, index)
            for number in range(named, len(self._rounds))
            for index in range(self._rounds[number].settings)
        ]

    def chosen(self, states: States) -> dict[str, Any] | None:
        """What the search has chosen; ``None`` while it is open, or if nothing succeeded."""
        settings = self._settings(states)
        if len(settings) < len(self._rounds) or not self._is_over(states):
            return None
        best = self._ranked(settings, states)[:1]
        return self._drawn(best[0], states) if best else None

    def why_nothing(self, states: States) -> str:
        """Say why a search that is done chose nothing; empty if it is open or did choose."""
        if not self._is_over(states) or self.chosen(states) is not None:
            return ""
        values = [s.trial.value for s in states.values() if s.status == "finished" and s.trial]
        if not (worst := values.count(WORST)):
            return "no trial of its search succeeded"
        return (
            f"no trial of its search succeeded, {worst} of {len(states)} diverged or have no"
            " metric; lower search.space.learning_rate, and name another output or give"
            " --accept-changes"
        )

    def _settings(self, states: States) -> list[list[int]]:
        """The settings of each round, by number, as far as they are known: at least the first's."""
        found = [list(range(self._trial.trials))]
        for each in self._rounds[1:]:
            if not self._is_done(found, states) or not (best := self._ranked(found, states)):
                break
            found.append(sorted(best[: each.settings]))
        return found

    def _is_over(self, states: States) -> bool:
        """Whether no round is open."""
        settings = self._settings(states)
        if not self._is_done(settings, states):
            return False
        return len(settings) == len(self._rounds) or not self._ranked(settings, states)

    def _is_done(self, settings: Sequence[Sequence[int]], states: States) -> bool:
        """Whether all jobs of the last of some rounds have ended."""
        keys = [self._key_of(len(settings) - 1, index) for index in settings[-1]]
        return all(key in states and states[key].done for key in keys)

    def _ranked(self, settings: Sequence[Sequence[int]], states: States) -> list[int]:
        """The settings of the last of some rounds that ended well, the best first."""
        values = {index: self._value(len(settings), index, states) for index in settings[-1]}
        known = {index: value for index, value in values.items() if value is not None}
        return sorted(known, key=lambda index: (-known[index], index))

    def _value(self, rounds: int, index: int, states: States) -> float | None:
        """Mean over the seeds of some rounds; ``None`` if a run failed or diverged."""
        total, seeds = 0.0, 0
        for number, each in enumerate(self._rounds[:rounds]):
            state = states[self._key_of(number, index)]
            value = state.trial.value if state.status == "finished" and state.trial else None
            if value is None or value == WORST:
                return None
            total += value * len(each.seeds)
            seeds += len(each.seeds)
        return total / seeds

    def _drawn(self, index: int, states: States) -> dict[str, Any]:
        """The settings that were drawn in the first round."""
        trial = states[self._key_of(0, index)].trial
        assert trial is not None
        return dict(trial.params)

    def _job(self, number: int, index: int, drawn: Mapping[str, Any] | None = None) -> Job:
        trial = dataclasses.replace(self._trial, index=index, seeds=self._rounds[number].seeds)
        shown = f", round {number + 1} of {len(self._rounds)}" if len(self._rounds) > 1 else ""
        given = trial.first if self._together else {}
        return Job(
            self._key_of(number, index),
            "search",
            trial.to_dict(),
            given if drawn is None else drawn,
            trial.name + shown,
        )

    def _key_of(self, number: int, index: int) -> str:
        return f"{self._key}-{index}" + (f"-{number}" if number else "")

    def _identity(self) -> dict[str, Any]:
        """What two searches must share to be one; more trials go on with those there are."""
        what = {**self._trial.to_dict(), "index": None, "trials": None, "versions": versions()}
        what["options"] = _without_paths(what["options"])
        if "others" in what:
            what["others"] = [_without_paths(each) for each in what["others"]]
        return what | ({"first": True} if self._together else {})


def _without_paths(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in PATHS}

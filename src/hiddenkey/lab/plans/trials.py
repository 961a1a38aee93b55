"""One trial of a search: what a worker needs for it, and the runs of what it draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hiddenkey.lab.plans.attached import given
from hiddenkey.lab.plans.command import STAGE, CommandOptions, CommandRun, command_label
from hiddenkey.lab.plans.identity import Run, changed, label, options_from
from hiddenkey.lab.plans.search import (
    METHOD,
    OF_METHOD,
    Algorithm,
    AnyOptions,
    Bounds,
    unused_by,
)
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Worth

Options = TypeVar("Options", bound=AnyOptions)


@dataclass(frozen=True)
class SearchTrial:
    """What a worker needs for one trial of a search.

    Attributes:
        options: settings of the method; what the space names is replaced.
        fingerprint: hash of the examples, with the validation part as evaluation examples.
        index: number of the trial, from 0.
        trials: trials of the whole search.
        seeds: training seeds.
        space: bounds by setting.
        others: settings of further methods, where the method is chosen too.
        by: what the trial is worth.
        algorithm: of the search.
    """

    options: AnyOptions
    fingerprint: str
    index: int
    trials: int
    seeds: tuple[int, ...]
    space: Mapping[str, Bounds]
    others: tuple[AnyOptions, ...] = ()
    by: Worth = "best"
    algorithm: Algorithm = "tpe"

    @property
    def name(self) -> str:
        """What a person calls it."""
        number = f"search {self.index + 1} of {self.trials}"
        if self.others:
            return f"{self.options.task}, {1 + len(self.others)} methods, {number}"
        if isinstance(self.options, CommandOptions):
            return f"{command_label(self.options.recorded(), seed=False)}, {number}"
        return f"{label(self.options, seed=False)}, {number}"

    @property
    def first(self) -> dict[str, float | str]:
        """The plan's own settings, within the space: where a search of several methods begins."""
        contenders = (self.options, *self.others)
        if self.index >= min(len(contenders), max(1, self.trials // 2)):
            return {}
        found = _own_settings(contenders[self.index])
        return {
            name: _within(found[name], self.space[name]) for name in self.space if name in found
        }

    def run(self, chosen: Mapping[str, Any], seed: int) -> Run | CommandRun:
        """The run of one seed with the chosen settings."""
        options = dataclasses.replace(with_chosen((self.options, *self.others), chosen), seed=seed)
        if isinstance(options, TrainOptions):
            return Run(options, self.fingerprint, stage="search")
        if STAGE in options.arguments:
            arguments = {**options.arguments, STAGE: "search"}
            options = dataclasses.replace(options, arguments=arguments)
        return CommandRun(options, self.fingerprint, stage="search")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        values: dict[str, Any] = {
            **vars(self),
            "options": _written(self.options),
            "seeds": list(self.seeds),
            "space": {name: list(bounds) for name, bounds in self.space.items()},
            "others": [_written(each) for each in self.others],
        }
        later = {"others": [], "by": "best", "algorithm": "tpe"}
        return {n: v for n, v in values.items() if n not in later or v != later[n]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchTrial:
        """Build a trial from :meth:`to_dict`'s form."""
        read = {
            "options": _read_options(values["options"]),
            "seeds": tuple(values["seeds"]),
            "space": {name: tuple(bounds) for name, bounds in values["space"].items()},
            "others": tuple(map(_read_options, values.get("others", ()))),
        }
        return cls(**{**values, **read})


def _written(options: AnyOptions) -> dict[str, Any]:
    if isinstance(options, CommandOptions):
        return options.to_dict()
    return changed(options)


def _read_options(values: Mapping[str, Any]) -> AnyOptions:
    return CommandOptions.from_dict(values) if "command" in values else options_from(values)


def _own_settings(options: AnyOptions) -> dict[str, Any]:
    """What a search may choose, as it is without one: a method's own rate and weight too."""
    from hiddenkey.framework.catalogue import methods

    own: dict[str, Any] = {METHOD: options.method}
    if options.method in methods():
        config = methods()[options.method].config
        own |= {"rate": config.drops[0].rate} if config.drops else {}
        scaled = {"consistency_weight": own_weight(options), "consistency_scale": 1.0}
        own |= scaled if config.consistency else {}
    given = options.recorded()
    return own | {name: value for name, value in given.items() if value is not None}


def _within(value: Any, bounds: Bounds) -> float | str:
    """A value, or the nearest that a space has."""
    first = bounds[0]
    if isinstance(first, str):
        return value if value in bounds else first
    number: float = min(max(value, first), float(bounds[1]))
    return number


def with_chosen(contenders: Sequence[AnyOptions], chosen: Mapping[str, Any]) -> AnyOptions:
    """The settings that a search chose, of one of the methods that it chose among."""
    if METHOD not in chosen:
        return searched_options(contenders[0], chosen)
    options = next(each for each in contenders if each.method == chosen[METHOD])
    unused = (METHOD, *unused_by(options))
    return searched_options(options, {n: v for n, v in chosen.items() if not n.startswith(unused)})


def searched_options(base: Options, chosen: Mapping[str, Any]) -> Options:
    """Put chosen settings into a run; a chosen rate replaces rates by position."""
    if "consistency_scale" in chosen:
        rest = {name: value for name, value in chosen.items() if name != "consistency_scale"}
        weight = chosen["consistency_scale"] * own_weight(base)
        return searched_options(base, {**rest, "consistency_weight": weight})
    if isinstance(base, CommandOptions):
        own = {name: value for name, value in chosen.items() if name in OF_METHOD}
        rest = {name: value for name, value in chosen.items() if name not in OF_METHOD}
        arguments = {n: v for n, v in rest.items() if n in base.arguments}
        attached = {n: v for n, v in rest.items() if n not in base.arguments}
        return dataclasses.replace(
            base,
            **own,
            arguments={**base.arguments, **arguments},
            attached=given({**base.attached, **attached}),
        )
    changes = {**chosen, "rates": {}} if "rate" in chosen else dict(chosen)
    return dataclasses.replace(base, **changes)


def own_weight(options: AnyOptions) -> float:
    """The weight of a method's consistency loss where no search chooses it."""
    from hiddenkey.framework.catalogue import methods

    if options.consistency_weight is not None:
        return options.consistency_weight
    entry = methods().get(options.method)
    return entry.config.consistency.weight if entry and entry.config.consistency else 1.0

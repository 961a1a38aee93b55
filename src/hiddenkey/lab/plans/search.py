"""Choosing settings by TPE, on a part of the training data that is held out for it.

Every method gets the same number of trials for each task, model and rank, in an Optuna study of its
own. A trial draws settings from the space, trains once for each search seed and is worth the mean
of the main metric's best value on the held-out part. The first third of the trials is random, with
the same draws for every method; the sampler's seed follows from the number of the trial, so that a
search that was interrupted does not draw the same settings again.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hiddenkey.errors import suggestion
from hiddenkey.lab.plans.identity import Run, changed, label, options_from
from hiddenkey.lab.run.options import TrainOptions

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.samplers import TPESampler

Bounds = tuple[float, float]
SEARCHABLE: Final = {
    "learning_rate": float,
    "rate": float,
    "consistency_weight": float,
    "consistency_fraction": float,
    "weight_decay": float,
    "neftune_alpha": float,
    "warmup_ratio": float,
    "lora_dropout": float,
    "epochs": float,
    "lora_alpha": int,
    "max_steps": int,
    "batch_size": int,
}
"""Settings that a search may choose."""


@dataclass(frozen=True)
class Search:
    """What a search may try."""

    trials: int = 12
    """Settings tried for each method."""
    seeds: tuple[int, ...] = (100,)
    """Training seeds of each trial."""
    validation: float = 0.25
    """Share of the training examples held out to judge a trial."""
    space: dict[str, Bounds] = field(
        default_factory=lambda: {"learning_rate": (1e-4, 1e-2), "rate": (0.0, 0.4)}
    )
    """Smallest and largest value by setting; ten times apart or more: on a logarithmic scale."""

    def space_of(self, method: str) -> dict[str, Bounds]:
        """The part of the space that means something to a method."""
        unused = unused_settings(method)
        return {name: own for name, own in self.space.items() if not name.startswith(unused)}


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
    """

    options: TrainOptions
    fingerprint: str
    index: int
    trials: int
    seeds: tuple[int, ...]
    space: Mapping[str, Bounds]

    @property
    def name(self) -> str:
        """What a person calls it."""
        return f"{label(self.options, seed=False)}, search {self.index + 1} of {self.trials}"

    def run(self, chosen: Mapping[str, Any], seed: int) -> Run:
        """The run of one seed with the chosen settings."""
        options = dataclasses.replace(searched_options(self.options, chosen), seed=seed)
        return Run(options, self.fingerprint, stage="search")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        space = {name: list(bounds) for name, bounds in self.space.items()}
        options = changed(self.options)
        return {**vars(self), "options": options, "seeds": list(self.seeds), "space": space}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchTrial:
        """Build a trial from :meth:`to_dict`'s form."""
        options, seeds = options_from(values["options"]), tuple(values["seeds"])
        space = {name: (low, high) for name, (low, high) in values["space"].items()}
        return cls(**{**values, "options": options, "seeds": seeds, "space": space})


def read_search(given: Mapping[str, Any] | bool | None) -> tuple[Search | None, list[str]]:
    """Return the search that a plan asks for, ``None`` for a grid, and every fault of it."""
    if given is None or given is False:
        return None, []
    if given is True:
        return Search(), []
    faults: list[str] = []
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name == "space":
            faults += _read_space(value, values)
        elif name not in _RULES:
            known = [*_RULES, "space"]
            near = suggestion(str(name), known) or f"; choose from {', '.join(known)}"
            faults.append(f"search: {name!r} is not a setting{near}")
        else:
            rule, holds, hint = _RULES[name]
            read = value if name != "seeds" else tuple(value) if _is_list(value) else (value,)
            if holds(read):
                values[name] = read
            else:
                faults.append(f"search.{name} must be {rule}, got {value!r}; {hint}")
    return Search(**values), faults


def unused_settings(method: str) -> tuple[str, ...]:
    """Beginnings of the settings that mean nothing to a method: plain LoRA has no rate and no loss.

    An unknown method, which is a fault of its own, has neither.
    """
    from hiddenkey.framework.catalogue import methods  # with torch, which --help has no use for

    config = methods()[method].config if method in methods() else None
    drops = config is not None and config.drops
    has_loss = config is not None and config.consistency is not None
    return ("rate",) * (not drops) + ("consistency_",) * (not has_loss)


def suggest(trial: Trial, space: Mapping[str, Bounds]) -> dict[str, Any]:
    """Let Optuna choose the settings of a trial."""
    chosen: dict[str, Any] = {}
    for name, (low, high) in space.items():
        log = low > 0 and high / low >= 10
        if SEARCHABLE[name] is int:
            chosen[name] = trial.suggest_int(name, int(low), int(high), log=log)
        else:
            chosen[name] = trial.suggest_float(name, low, high, log=log)
    return chosen


def sampler(index: int, trials: int) -> TPESampler:
    """Return the sampler of one trial.

    Args:
        index: number of the trial in its search, from 0.
        trials: all trials of the search; a third of them is random.
    """
    from optuna.samplers import TPESampler

    return TPESampler(
        n_startup_trials=max(1, trials // 3), seed=index, multivariate=True, constant_liar=True
    )


def searched_options(base: TrainOptions, chosen: Mapping[str, Any]) -> TrainOptions:
    """Put chosen settings into a run; a chosen rate replaces rates by position."""
    changes = {**chosen, "rates": {}} if "rate" in chosen else dict(chosen)
    return dataclasses.replace(base, **changes)


def held_out(options: TrainOptions, search: Search) -> TrainOptions:
    """Return a run that is judged on the search's part of the examples that it would train on."""
    if options.holdout is None:
        return dataclasses.replace(options, holdout=search.validation)
    return dataclasses.replace(options, validation=search.validation)


def _read_space(value: Any, values: dict[str, Any]) -> list[str]:
    if not isinstance(value, Mapping) or not value:
        return [f"search.space must be [low, high] by setting, got {value!r}; name a setting"]
    faults = []
    for name, bounds in value.items():
        if name not in SEARCHABLE:
            near = suggestion(str(name), SEARCHABLE) or f"; choose from {', '.join(SEARCHABLE)}"
            faults.append(f"search.space: {name!r} cannot be searched{near}")
        elif not (
            _is_list(bounds)
            and len(bounds) == 2
            and all(map(_is_number, bounds))
            and bounds[0] < bounds[1]
        ):
            faults.append(
                f"search.space.{name} must be [low, high] with low < high, got {bounds!r}; fix it"
            )
    if not faults:
        values["space"] = {name: (bounds[0], bounds[1]) for name, bounds in value.items()}
    return faults


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _are_seeds(values: tuple[Any, ...]) -> bool:
    good = all(_is_whole(seed) and 0 <= seed < 2**32 for seed in values)
    return good and bool(values) and len(set(values)) == len(values)


_RULES: Final[Mapping[str, tuple[str, Callable[[Any], bool], str]]] = {
    "trials": (
        "a whole number from 2 to 10000",
        lambda n: _is_whole(n) and 2 <= n <= 10_000,
        "12 is usual",
    ),
    "seeds": ("different seeds from 0 to 2**32 - 1", _are_seeds, "fix them"),
    "validation": ("in (0, 1)", lambda n: _is_number(n) and 0 < n < 1, "0.25 is usual"),
}

"""Choosing settings by search, on a part of the training data that is held out for it.

Every method gets the same number of trials for each task, model and rank, in an Optuna study of its
own. A trial draws settings from the space, trains once for each search seed and is worth the mean
of what ``by`` names on the held-out part. With TPE the first third of the trials is
random, with the same draws for every method; the sampler's seed follows from the number of the
trial, so that a search that was interrupted does not draw the same settings again. Successive
halving draws all of them at random and gives only the better ones further seeds.

With ``together`` there are two searches of the same number of trials: the baseline's, and that of
all other methods, which chooses the method as well. Both begin with the settings of the plan.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from hiddenkey.errors import is_number, suggestion
from hiddenkey.lab.plans.command import CommandOptions, placeholders
from hiddenkey.lab.plans.halving import Round, halving
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Worth

Bounds = tuple[float, float] | tuple[str, ...]
"""Smallest and largest value, or the texts to choose from."""

Algorithm = Literal["tpe", "halving"]
AnyOptions = TrainOptions | CommandOptions
METHOD: Final = "method"
OF_METHOD: Final = {"rate": "rate", "consistency_weight": "weight", "consistency_scale": "weight"}
"""Settings of a method that a command's runs have, and their placeholders."""

SEARCHABLE: Final = {
    "learning_rate": float,
    "rate": float,
    "consistency_weight": float,
    "consistency_scale": float,
    "consistency_fraction": float,
    "weight_decay": float,
    "neftune_alpha": float,
    "mixup_alpha": float,
    "sam_rho": float,
    "warmup_ratio": float,
    "lora_dropout": float,
    "epochs": float,
    "lora_alpha": int,
    "max_steps": int,
    "batch_size": int,
    "inference": str,
}
"""Settings that a search may choose; ``consistency_scale`` is a factor of a method's own weight."""


@dataclass(frozen=True)
class Search:
    """What a search may try."""

    trials: int = 12
    """Settings tried for each method."""
    algorithm: Algorithm = "tpe"
    """How: by TPE, each with all seeds; or by successive halving, each with one seed, then the
    better half with another, the better quarter with two more, and so on until all seeds are used.
    """
    seeds: tuple[int, ...] = (100,)
    """Training seeds of each trial; of halving those of the last ones, none: 100 to 103."""
    validation: float = 0.25
    """Share of the training examples held out to judge a trial."""
    space: dict[str, Bounds] = field(
        default_factory=lambda: {"learning_rate": (1e-4, 1e-2), "rate": (0.0, 0.4)}
    )
    """Smallest and largest value by setting; ten times apart or more: on a logarithmic scale."""
    together: bool = False
    """The methods beside the baseline share one search, which chooses the method too; only what it
    chose is compared."""
    by: Worth = "best"
    """What a trial is worth: the metric's best or last evaluation, or the loss of the last one."""

    @property
    def rounds(self) -> tuple[Round, ...]:
        """How many settings of each method are trained with which seeds, one after the other."""
        return rounds_of(self.algorithm, self.trials, self.seeds)

    def space_of(self, method: str) -> dict[str, Bounds]:
        """The part of the space that means something to a method."""
        unused = unused_settings(method)
        return {name: own for name, own in self.space.items() if not name.startswith(unused)}

    def space_of_all(self, contenders: Sequence[AnyOptions], baseline: str) -> dict[str, Bounds]:
        """The part of the space that means something to one of several methods, and the method."""
        unused = [unused_by(each, baseline) for each in contenders]
        space = {
            name: own
            for name, own in self.space.items()
            if not all(name.startswith(each) for each in unused)
        }
        if self.together and contenders[0].method == baseline:
            space = {name: own for name, own in space.items() if name not in _OF_OTHERS}
        methods = tuple(each.method for each in contenders)
        return {METHOD: methods, **space} if len(methods) > 1 else space

    def terms(self) -> dict[str, Any]:
        """What it holds runs to; settings that came later count where they are not the default."""
        later = ("algorithm", "together", "by")
        return {n: v for n, v in vars(self).items() if n not in later or v != getattr(Search, n)}

    def contenders(
        self, settings: Sequence[AnyOptions], baseline: str
    ) -> list[tuple[AnyOptions, ...]]:
        """Group settings of which the search chooses one."""
        if not self.together:
            return [(each,) for each in settings]
        groups: dict[tuple[Any, ...], list[AnyOptions]] = {}
        for each in settings:
            place = (each.task, each.model, each.rank, each.method == baseline)
            groups.setdefault(place, []).append(each)
        return [tuple(group) for group in groups.values()]


HALVING_SEEDS: Final = (100, 101, 102, 103)
"""Seeds of a halving where nobody names some: three rounds, and half the runs of all."""

TEXTS: Final = {"inference": ("last", "average", "ema", "chosen")}
"""What settings that are texts may be."""

_OF_OTHERS: Final = ("inference",)
"""What plain LoRA does not choose where all other methods choose together: it would not be plain.
"""


def read_search(
    given: Mapping[str, Any] | bool | None, names: Iterable[str] = SEARCHABLE
) -> tuple[Search | None, list[str]]:
    """Return the search that a plan asks for, ``None`` for a grid, and every fault of it.

    Args:
        given: as the plan has it.
        names: what may be searched.
    """
    if given is None or given is False:
        return None, []
    if given is True:
        return Search(), []
    faults: list[str] = []
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name == "space":
            faults += _read_space(value, values, list(names))
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
    if values.get("algorithm") == "halving":
        seeds = values.setdefault("seeds", HALVING_SEEDS)
        if len(seeds) < 2:
            faults.append(
                f"search.seeds must be two or more for halving, which gives the better half further"
                f" seeds, got {', '.join(map(str, seeds))}; leave them out, or take tpe"
            )
    return Search(**values), faults


def rounds_of(algorithm: Algorithm, trials: int, seeds: Sequence[int]) -> tuple[Round, ...]:
    """Return the rounds of a search; TPE has one."""
    if algorithm == "halving":
        return halving(trials, seeds)
    return (Round(trials, tuple(seeds)),)


def unused_settings(method: str) -> tuple[str, ...]:
    """Beginnings of the settings that mean nothing to a method: plain LoRA has no rate and no loss.

    An unknown method, which is a fault of its own, has neither.
    """
    from hiddenkey.framework.catalogue import methods  # with torch, which --help has no use for

    config = methods()[method].config if method in methods() else None
    drops = config is not None and config.drops
    has_loss = config is not None and config.consistency is not None
    return ("rate",) * (not drops) + ("consistency_",) * (not has_loss)


def unused_by(options: AnyOptions, baseline: str = "") -> tuple[str, ...]:
    """Beginnings of the settings that mean nothing to what is trained."""
    if isinstance(options, TrainOptions) or options.attaches:
        return unused_settings(options.method)
    if options.method == baseline:
        return tuple(OF_METHOD)
    names = placeholders(options.command)
    return tuple(name for name, place in OF_METHOD.items() if place not in names)


def held_out(options: TrainOptions, search: Search) -> TrainOptions:
    """Return a run that is judged on the search's part of the examples that it would train on."""
    share: dict[str, Any] = {held_out_by(options): search.validation}
    return dataclasses.replace(options, **share)


def held_out_by(options: TrainOptions) -> Literal["holdout", "validation"]:
    """The setting that holds a part of the training examples out."""
    return "holdout" if options.holdout is None else "validation"


def _read_space(value: Any, values: dict[str, Any], names: Sequence[str]) -> list[str]:
    if not isinstance(value, Mapping) or not value:
        return [f"search.space must be [low, high] by setting, got {value!r}; name a setting"]
    faults = []
    for name, bounds in value.items():
        if name not in names:
            near = suggestion(str(name), names) or f"; choose from {', '.join(names)}"
            faults.append(f"search.space: {name!r} cannot be searched{near}")
        elif name in TEXTS:
            if not (_are_texts(bounds) and {*bounds} <= {*TEXTS[name]}):
                known = ", ".join(TEXTS[name])
                faults.append(
                    f"search.space.{name} must be two or more of {known}, got {bounds!r}; fix it"
                )
        elif not (_are_bounds(bounds) or (name not in SEARCHABLE and _are_texts(bounds))):
            faults.append(
                f"search.space.{name} must be [low, high] with low < high, got {bounds!r}; fix it"
            )
    if not faults:
        values["space"] = {name: tuple(bounds) for name, bounds in value.items()}
    return faults


def _are_bounds(given: object) -> bool:
    """Whether these are a smaller and a larger number."""
    if not isinstance(given, list | tuple) or len(given) != 2:
        return False
    return all(map(_is_number, given)) and bool(given[0] < given[1])


def _are_texts(given: object) -> bool:
    """Whether these are different texts to choose from."""
    if not isinstance(given, list | tuple) or not all(isinstance(each, str) for each in given):
        return False
    return len({*given}) == len(given) > 1


def is_whole(value: object) -> bool:
    """Whether this is a whole number, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return is_number(value) and abs(value) <= sys.float_info.max


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _are_seeds(values: tuple[Any, ...]) -> bool:
    good = all(is_whole(seed) and 0 <= seed < 2**32 for seed in values)
    return good and bool(values) and len(set(values)) == len(values)


_RULES: Final[Mapping[str, tuple[str, Callable[[Any], bool], str]]] = {
    "trials": (
        "a whole number from 2 to 10000",
        lambda n: is_whole(n) and 2 <= n <= 10_000,
        "12 is usual",
    ),
    "seeds": ("different seeds from 0 to 2**32 - 1", _are_seeds, "fix them"),
    "validation": ("in (0, 1)", lambda n: _is_number(n) and 0 < n < 1, "0.25 is usual"),
    "algorithm": (
        "tpe or halving",
        lambda given: given in get_args(Algorithm),
        "tpe is usual",
    ),
    "together": ("true or false", lambda given: isinstance(given, bool), "false is usual"),
    "by": ("best, last or loss", lambda given: given in get_args(Worth), "best is usual"),
}

"""The plans of the automatic choice: a first look at plain LoRA, then search and confirmation.

Both are plans of ``hiddenkey compare``, and lie in their folders before their first run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.compare.first_plan import first_plan
from hiddenkey.lab.compare.prospects import SEEDS, usual_seeds
from hiddenkey.lab.evidence.inference import FEWEST
from hiddenkey.lab.plans.command import STAGE, is_unreadable, label_of, placeholders
from hiddenkey.lab.plans.data import Data, check
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.search import OF_METHOD, Bounds, held_out_by
from hiddenkey.lab.plans.validation import validate
from hiddenkey.lab.run.limits import limit_faults
from hiddenkey.lab.tasks import find_task
from hiddenkey.lab.tune.budget import LOOKS
from hiddenkey.lab.tune.options import TuneOptions

_EVALUATIONS: Final = 8
"""Evaluations of a first look, so that the minimum of the loss is seen."""

_LOOK_SEEDS: Final = 200


@dataclass(frozen=True)
class Around:
    """Bounds as shares of the plan's own value."""

    low: float
    high: float


CHOICES: Final[Mapping[str, Around | Bounds]] = {
    "learning_rate": Around(0.2, 5.0),
    "epochs": Around(0.3, 2.0),
    "rate": (0.02, 0.4),
    "consistency_scale": (0.25, 4.0),
    "inference": ("last", "average"),
}
"""What is chosen, by name; plain LoRA chooses of it what it has. A new setting is a line here."""


def whole_plan(options: TuneOptions) -> tuple[Plan, Data]:
    """Return the plan of search and confirmation before the budget is known, and its data.

    Raises:
        ConfigError: with every fault of the options, the file, the plan or its data.
    """
    methods = tuple(dict.fromkeys((options.baseline, *options.methods)))
    if faults := [*_faults(options, methods), *limit_faults(options)]:
        raise ConfigError(faults)
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Plan)}
    given |= {"methods": methods, "seeds": options.seeds or Plan.seeds, "report": False}
    if options.rates:  # one, as of a first plan: where the choice begins
        given |= {"rates": (), "common": {"rate": options.rates[0], **options.common}}
    plan = Plan(**{**given, "search": True})
    output = options.output or f"tune/{_name(plan)}"
    plan = dataclasses.replace(plan, output=output)
    plan = first_plan(plan) if plan.init else plan
    plan, space = _of_command(plan) if plan.command else (plan, _space(plan))
    own = options.search if isinstance(options.search, dict) else {}
    by = "loss" if options.by == "loss" else "last"
    search = {"space": space, **own, "together": True, "by": by}
    plan = dataclasses.replace(plan, init=None, search=search)
    if plan.command is None:
        return plan, check(plan)
    if faults := validate(plan):
        raise ConfigError(faults)
    return plan, Data()


def _faults(options: TuneOptions, methods: Sequence[str]) -> Iterator[str]:
    for name in ("tasks", "models", "ranks"):
        if len(values := getattr(options, name)) != 1:
            yield f"{name} must be one for a choice, got {len(values)}; tune each by itself"
    rates = options.rates if options.command or len(options.rates) > 1 else ()
    given = {"rates": rates, "consistency_weights": options.consistency_weights}
    for name, values in {**given, "equal_time": options.equal_time}.items():
        if values:
            yield f"{name} must be left out, since it is what is chosen; bound it by search.space"
    if options.runs is not None and options.minutes is not None:
        yield "runs and minutes exclude each other, got both; leave one out"
    if options.init is not None and options.command is not None:
        yield "a file and a command exclude each other, got both; leave one out"
    if len(methods) < 2:
        yield f"methods must name one beside {options.baseline}; see 'hiddenkey methods'"
    if options.seeds and len(options.seeds) < FEWEST:
        yield (
            f"seeds must be at least {FEWEST} to reach a verdict, got {len(options.seeds)}; name"
            f" {SEEDS[0]} or more, or none"
        )


def _name(plan: Plan) -> str:
    """What the data are called."""
    if plan.init is not None:
        return Path(plan.init).stem
    if plan.command is not None:
        return "command" if is_unreadable(plan.command) else label_of(plan.command)
    return Path(str(plan.common.get("train_file") or "")).stem or plan.tasks[0]


def _space(plan: Plan) -> dict[str, Bounds]:
    """The space around a plan's own settings."""
    own = plan.settings()[0].recorded()
    found: dict[str, Bounds] = {}
    for name, choice in CHOICES.items():
        if not isinstance(choice, Around):
            found[name] = choice
        elif name == "epochs" and (steps := own["max_steps"]) is not None:  # which replaces them
            low, high = int(choice.low * steps), int(choice.high * steps)
            found["max_steps"] = (max(1, low), max(2, high))
        else:
            found[name] = (choice.low * own[name], choice.high * own[name])
    return found


def _of_command(plan: Plan) -> tuple[Plan, dict[str, Bounds]]:
    """The plan with one value for each argument, and the space of those that had a range.

    Raises:
        ConfigError: if plain LoRA has nothing to choose.
    """
    assert plan.command is not None
    names = placeholders(plan.command)
    ranges = {
        name: tuple(value)
        for name, value in plan.arguments.items()
        if isinstance(value, list | tuple) and len(value) > 1
    }
    if not ranges:
        raise ConfigError(
            "arguments must give plain LoRA something to choose, got no range; put {lr} into the"
            " command and give --arguments.lr [0.0001,0.01], for example"
        )
    own = {**plan.arguments, **{name: _middle(bounds) for name, bounds in ranges.items()}}
    own |= {STAGE: "compare"} if STAGE in names else {}
    of_method = {
        name: choice
        for name, choice in CHOICES.items()
        if name in OF_METHOD and not isinstance(choice, Around)
    }
    return dataclasses.replace(plan, arguments=own), {**ranges, **of_method}


def _middle(bounds: Sequence[Any]) -> Any:
    """What is tried first of a range: the geometric middle of numbers, or the first text."""
    low, high = bounds[0], bounds[-1]
    if isinstance(low, str) or isinstance(high, str):
        return low
    middle = (low * high) ** 0.5 if low > 0 else (low + high) / 2
    return round(middle) if isinstance(low, int) and isinstance(high, int) else middle


def wanted_seeds(plan: Plan, options: TuneOptions, data: Data) -> tuple[int, ...]:
    """The seeds of the confirmation, if the budget allows them."""
    if options.seeds:
        return options.seeds
    search = plan.searched
    taken = search.seeds if search else ()
    amount = SEEDS[0]
    if plan.command is None:
        settings = plan.settings()[0]
        if find_task(settings.task, settings).kind == "classification":
            amount = usual_seeds(data.judged(settings), 1)
    return tuple(islice((seed for seed in range(2**32) if seed not in taken), amount))


def first_look(plan: Plan) -> Plan:
    """The plan that shows whether plain LoRA overfits, on the search's held-out examples."""
    search = plan.searched
    assert search is not None
    taken = {*plan.seeds, *search.seeds}
    free = (seed for seed in range(_LOOK_SEEDS, 2**32) if seed not in taken)
    changes: dict[str, Any] = {
        **_in_folder(plan, "first-look"),
        "methods": (plan.baseline,),
        "seeds": tuple(islice(free, LOOKS)),
        "per_method": {n: own for n, own in plan.per_method.items() if n == plan.baseline},
        "search": None,
        "timed_steps": 0,
    }
    if plan.command is not None:
        staged = {STAGE: "search"} if STAGE in plan.arguments else {}
        return dataclasses.replace(plan, **changes, arguments={**plan.arguments, **staged})
    own = plan.settings()[0]
    shown = {"evaluations": max(_EVALUATIONS, own.evaluations)}
    common = {**plan.common, **shown, held_out_by(own): search.validation}
    return dataclasses.replace(plan, **changes, common=common)


def confirmation(plan: Plan, trials: int, seeds: tuple[int, ...], *, plain: bool) -> Plan:
    """The plan that chooses and then confirms; or chooses for plain LoRA alone.

    Args:
        plan: of the whole.
        trials: of each side.
        seeds: of the confirmation.
        plain: without other methods: they would have nothing to do.
    """
    assert isinstance(plan.search, dict)
    alone: dict[str, Any] = {
        "methods": (plan.baseline,),
        "per_method": {n: own for n, own in plan.per_method.items() if n == plan.baseline},
    }
    return dataclasses.replace(
        plan,
        **_in_folder(plan, "comparison"),
        **(alone if plain else {}),
        seeds=seeds[:1] if plain else seeds,
        search={**plan.search, "trials": trials},
    )


def _in_folder(plan: Plan, name: str) -> dict[str, Any]:
    study = f"{plan.study or Path(plan.output).resolve().name} {name}"
    return {"output": str(Path(plan.output) / name), "study": study}

"""Every broken rule of a plan itself; its runs' own rules are checked apart."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from hiddenkey.errors import suggestion
from hiddenkey.lab.plans import command as commands
from hiddenkey.lab.plans.attached import DEFAULTS, VARIED
from hiddenkey.lab.plans.command import AS_IS
from hiddenkey.lab.plans.command_rules import command_faults, metric_file_faults
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.search import OF_METHOD, read_search, unused_settings
from hiddenkey.lab.plans.settings import TABLES, TYPES, read_settings
from hiddenkey.lab.run.limits import limit_faults
from hiddenkey.lab.run.meaning import evaluation_faults


def validate(plan: Plan) -> list[str]:
    """Return every broken rule of the plan itself; its runs' own rules are checked apart."""
    faults = [*_list_faults(plan), *limit_faults(plan)]
    if plan.grace <= plan.heartbeat:
        faults.append(
            f"grace must be longer than heartbeat, got {plan.grace} and {plan.heartbeat} seconds;"
            " several times as long is usual"
        )
    if plan.baseline not in plan.methods:
        near = suggestion(plan.baseline, plan.methods) or "; add it to methods or name another"
        faults.append(
            f"baseline must be one of the methods {', '.join(plan.methods)}, got"
            f" {plan.baseline!r}{near}"
        )
    if plan.command is not None:
        return faults + _command_faults(plan) + _output_faults(plan) + _search_faults(plan)
    faults += _needs_command(plan) + _unused(plan) + _settings_faults(plan) + _data_faults(plan)
    return faults + _output_faults(plan) + _search_faults(plan)


def _settings_faults(plan: Plan) -> list[str]:
    """Unknown names, values of other types, and tables of tasks or methods that are not there."""
    faults = read_settings(plan.common, "common")[1]
    known = {"per_task": plan.named_tasks, "per_method": plan.methods}
    for name, other in zip(known, reversed(known), strict=True):
        faults += _table_faults(name, getattr(plan, name), known[name], (other, known[other]))
    return faults


def _data_faults(plan: Plan) -> list[str]:
    """Examples of one method's own, with which it could not be compared."""
    given = {name for own in plan.per_method.values() for name in own}
    return [
        f"per_method: {name} must be the same for all methods, since they are compared on the same"
        " examples; move it to common or per_task"
        for name in _OF_DATA
        if name in given
    ]


def evaluation_faults_of(plan: Plan) -> list[str]:
    """Tasks for which the user names the evaluation examples in two ways."""
    tables = [{**plan.common, **plan.per_task.get(task, {})} for task in plan.tasks]
    return list(dict.fromkeys(fault for table in tables for fault in evaluation_faults(table)))


def _output_faults(plan: Plan) -> list[str]:
    if not plan.output:  # which would be the folder that the command is started in
        return ["output must name a folder, got none; leave it out for the usual one"]
    if os.path.isfile(plan.output):  # which, unlike Path's, is quiet about folders it may not read
        return [f"output must be a folder, got file {plan.output!r}; name another"]
    return []


_OF_COMMAND: Final = (
    "metric", "metric_file", "lower_is_better", "arguments", "time_limit", "resumes"
)  # fmt: skip
_OF_TRAIN: Final = ("equal_time", "data")
_OF_DATA: Final = (
    *("train_file", "eval_file", "text_columns", "label_column", "label_names", "regression"),
    *("eval_split", "holdout", "validation", "train_size", "eval_size", "data_seed", "resample"),
)
"""Settings of a run that choose its examples."""


def _given(plan: Plan, names: Iterable[str]) -> list[str]:
    """The names of the settings that are not at their defaults."""
    unset = Plan()
    return [name for name in names if getattr(plan, name) != getattr(unset, name)]


def _needs_command(plan: Plan) -> list[str]:
    return [
        f"{name} belongs to a command of your own, got it without one; give --command, or leave"
        " it out"
        for name in _given(plan, _OF_COMMAND)
    ]


def _command_faults(plan: Plan) -> list[str]:
    assert plan.command is not None
    faults = command_faults(plan.command, plan.arguments, plan.metric)
    if plan.metric_file is not None:
        faults += metric_file_faults(plan.metric_file, plan.arguments)
    if commands.is_unreadable(plan.command):
        return faults
    faults += [
        f"{name} belongs to runs of 'hiddenkey train', got it with a command; write it into the"
        " command, or leave it out"
        for name in _given(plan, _OF_TRAIN)
    ]
    names = commands.placeholders(plan.command)
    axes = {"models": "model", "ranks": "rank", "tasks": "task"}
    faults += [
        f"{axis} with several values must be used by the command as {{{name}}}, got it without;"
        " write it into the command"
        for axis, name in axes.items()
        if len(getattr(plan, axis)) > 1 and name not in names
    ]
    searched = [OF_METHOD.get(name) for name in (plan.searched.space if plan.searched else ())]
    if {*plan.methods} == {plan.baseline}:  # which has neither
        searched += OF_METHOD.values()
    faults += [
        f"{{{name}}} in the command needs values, got none; give --{axis.replace('_', '-')}"
        for name, axis in (
            ("rate", "rates"),
            ("weight", "consistency_weights"),
            ("model", "models"),
        )
        if name in names and name not in searched and axis not in _given(plan, (axis,))
    ]
    if "method" in names:
        return faults + [
            f"{name} holds settings of a method that is attached to a model, got it with a"
            " command that takes {method} by itself; write them into the command, or leave them"
            " out"
            for name in _given(plan, _OF_ATTACHED)
        ]
    faults += _unused(plan)
    wrong = list(_no_attached(plan)) + _settings_faults(plan)
    if wrong:
        return faults + wrong
    for options in plan.command_settings():
        faults += options.launch_settings().faults()
    return list(dict.fromkeys(faults))


_OF_ATTACHED: Final = ("common", "per_task", "per_method")

_HELD_OUT: Final = ("temperature", "choice_share")
"""Settings of a run that are fitted on training examples which it holds out."""

_WEIGHTS: Final = ", or name last, average or ema"


def _no_attached(plan: Plan) -> Iterator[str]:
    """Settings that are no attached method's: the command trains by itself."""
    tables = [("common", plan.common)]
    tables += [(f"per_task.{name}", own) for name, own in plan.per_task.items()]
    tables += [(f"per_method.{name}", own) for name, own in plan.per_method.items()]
    for where, own in tables:
        if where == f"per_method.{AS_IS}" and own:
            yield f"{where} must be empty, since it is the command unchanged; leave it out"
        for name, value in own.items():
            if name in _HELD_OUT or (name, value) == ("inference", "chosen"):
                yield (
                    f"{where}.{name} needs examples that are held out of the training, which only"
                    f" 'hiddenkey train' does, got {value!r} with a command; leave it out"
                    f"{_WEIGHTS if name == 'inference' else ''}"
                )
            elif name in TYPES and name not in (*VARIED, *DEFAULTS):
                yield (
                    f"{where}.{name} belongs to runs of 'hiddenkey train', got it with a command;"
                    " write it into the command, or leave it out"
                )
            elif name in plan.arguments:
                yield f"{where}.{name} is an argument of the command too; name that otherwise"


def _list_faults(plan: Plan) -> list[str]:
    faults = []
    for name in ("tasks", "models", "methods", "ranks", "seeds", "rates", "consistency_weights"):
        values = getattr(plan, name)
        if not values and name not in ("rates", "consistency_weights"):
            faults.append(f"{name} must name at least one, got none; add one")
        repeated = sorted({value for value in values if values.count(value) > 1})
        if repeated:
            shown = ", ".join(map(str, repeated))
            faults.append(
                f"{name} must not repeat a value, got {shown} more than once; name it once"
            )
    return faults


def _unused(plan: Plan) -> list[str]:
    """Axes that no method has would be dropped in silence."""
    return [
        f"{name} are for methods that {what}, got none among {', '.join(plan.methods)}; leave them"
        f" out, with '--{name} []' where a plan's file has them, or add such a method"
        for name, what, beginning in (
            ("rates", "drop", "rate"),
            ("consistency_weights", "have a consistency loss", "consistency_"),
        )
        if getattr(plan, name)
        and all(beginning in unused_settings(method) for method in plan.methods)
    ]


def _table_faults(
    where: str,
    table: Mapping[str, Mapping[str, Any]],
    known: tuple[str, ...],
    other: tuple[str, tuple[str, ...]],
) -> list[str]:
    faults = []
    for name, values in table.items():
        if name in other[1] and name not in known:
            faults.append(f"{where}: {name!r} is a {TABLES[other[0]]}; write it under {other[0]}")
        elif name not in known:
            near = suggestion(name, known) or f"; choose from {', '.join(known)}"
            faults.append(f"{where}: {name!r} is not in the plan{near}")
        faults += read_settings(values, f"{where}.{name}")[1]
    return faults


def _search_faults(plan: Plan) -> list[str]:
    search, faults = read_search(plan.search, plan.searchable)
    if search is None:
        return faults
    if not {*search.space} <= {*plan.searchable}:  # the default one, which is not of commands
        faults.append(
            "search.space must name what the command takes, got none; give --search.space with one"
            f" of {', '.join(plan.searchable)}"
        )
    if plan.command is not None and "chosen" in search.space.get("inference", ()):
        faults.append(
            "search.space.inference must be of last, average and ema for a command, got chosen,"
            " which holds out examples of 'hiddenkey train'; leave it out"
        )
    if search.together:
        faults += _together_faults(plan)
    for axis, name in (("rates", "rate"), ("consistency_weights", "consistency_weight")):
        if name in search.space and getattr(plan, axis):
            faults.append(
                f"{axis} and search.space.{name} exclude each other, got both; leave one out"
            )
    if shared := sorted(set(search.seeds) & set(plan.seeds)):
        faults.append(
            f"search.seeds must differ from seeds, got {', '.join(map(str, shared))} in both; a"
            " setting must not be judged by the run that chose it"
        )
    tables = [plan.common, *plan.per_task.values(), *plan.per_method.values()]
    if any("validation" in table for table in tables):
        faults.append("validation is set by search.validation, got both; leave validation out")
    return faults


def _together_faults(plan: Plan) -> list[str]:
    faults = [
        f"{name} and search.together exclude each other, got both; leave one out"
        for name in _given(plan, ("rates", "consistency_weights", "equal_time"))
    ]
    if plan.command is not None:
        faults += [
            f"arguments.{name} must be one value with search.together, got {value!r}; name one"
            for name, value in plan.arguments.items()
            if isinstance(value, list | tuple) and len(value) > 1
        ]
    return faults

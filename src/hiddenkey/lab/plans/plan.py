"""What to compare: tasks, models, methods, rates, ranks, weights and seeds, from YAML or flags.

The text under a field is its help on the command line.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from hiddenkey.errors import suggestion
from hiddenkey.lab.plans.identity import PATHS
from hiddenkey.lab.plans.search import Search, read_search, unused_settings
from hiddenkey.lab.plans.settings import TABLES, misplaced, read_settings
from hiddenkey.lab.queue.store import JobStore
from hiddenkey.lab.run.limits import ONE, WORKERS, ZERO, limit_faults
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.tasks import TASKS


@dataclass(frozen=True)
class Plan:
    """A comparison: every combination is one run."""

    tasks: tuple[str, ...] = ("headlines",)
    """Names of tasks; 'hiddenkey train --help' lists them."""
    models: tuple[str, ...] = ("minilm",)
    """Local folders, names on the Hugging Face hub, or the bundled 'minilm'."""
    methods: tuple[str, ...] = ("lora", "hiddenkey")
    """Dropout methods; 'hiddenkey methods' lists them."""
    rates: tuple[float, ...] = ()
    """Dropout rates, in [0, 1), for the methods that drop; none: each method's own."""
    ranks: tuple[int, ...] = (8,)
    """Ranks of the LoRA matrices."""
    consistency_weights: tuple[float, ...] = ()
    """Weights of the consistency loss, for the methods that have one; none: each method's own."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Training seeds; with the same seed all methods see the same weights and batches. --dry-run
    says what so many can show."""
    baseline: str = "lora"
    """The method that the others are compared with."""
    equal_time: bool = False
    """Also run each method with fewer steps, so that it takes as long as the baseline."""
    search: dict[str, Any] | bool | None = None
    """Choose settings by TPE on held-out training data, with an equal number of trials for each
    method: trials, seeds, validation (share held out) and space, for example
    --search.trials 12; true takes the defaults."""
    data: str | None = None
    """Folder of the tasks in GLUE's layout, for those tasks that need it."""
    common: dict[str, Any] = field(default_factory=dict)
    """Settings of all runs, as in 'hiddenkey train', for example --common.epochs 5."""
    per_task: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of one task's runs, for example --per-task.cola.max_length 64; win over common."""
    per_method: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of one method's runs; win over those of the task."""
    output: str = "runs/compare"
    """Folder of the comparison; the same plan goes on there, a larger one adds its runs."""
    storage: str | None = None
    """URL of the database that shares out the runs; none: the environment variable
    HIDDENKEY_STORAGE, or a file in the output folder. PostgreSQL's password may be in ~/.pgpass."""
    study: str | None = None
    """Name of the comparison in the database; none: the last part of the output folder."""
    workers: int = WORKERS.default(1)
    """Runs at the same time on this machine, each with its share of the processor's cores."""
    heartbeat: int = ONE.default(20)
    """Seconds between two signs of life of a run."""
    grace: int = 120
    """Seconds without a sign of life after which another worker takes a run over."""
    timed_steps: int = ZERO.default(10)
    """Steps of each method that take turns with the baseline's when all runs are done, to say what
    a step costs; 0: the report takes the times of the runs."""
    report: bool = True
    """Write the report into OUTPUT/report when all runs are done."""
    retry_failed: bool = False
    """Run again what failed before."""
    accept_changes: bool = False
    """Go on although settings, baseline, search or versions differ from those in the folder."""
    dry_run: bool = False
    """List the runs, estimate the time from a few timed steps and say what the seeds can show;
    nothing is written."""

    misplaced = staticmethod(misplaced)

    @property
    def name(self) -> str:
        """Name of the comparison in the database."""
        return self.study or Path(self.output).resolve().name

    @property
    def job_store(self) -> JobStore:
        """Where its jobs are kept."""
        return JobStore(Path(self.output), self.storage, self.heartbeat, self.grace)

    @property
    def searched(self) -> Search | None:
        """The search, or ``None`` for a grid."""
        return read_search(self.search)[0]

    @property
    def several(self) -> tuple[str, ...]:
        """What names a run beside task, method and seed, since the plan has several of it."""
        axes = ("rank", self.ranks), ("model", self.models)
        return tuple(name for name, axis in axes if len(axis) > 1)

    def local_settings(self) -> dict[str, dict[str, Any]]:
        """What may differ between machines, by task: where the data lies, and whom to trust."""
        found: dict[str, dict[str, Any]] = {}
        for options in self.settings():
            given = {name: getattr(options, name) for name in (*PATHS, "trust_remote_code")}
            found[options.task] = {name: own for name, own in given.items() if own is not None}
        return found

    def settings(self) -> list[TrainOptions]:
        """Return the options of every combination but for the seed.

        With a search, the searched settings are still open and hold their defaults.
        """
        return [
            dataclasses.replace(self._base(task, method), model=model, rank=rank, **varied)
            for task, model, rank, method in product(
                self.tasks, self.models, self.ranks, self.methods
            )
            for varied in self._varied(method)
        ]

    def _base(self, task: str, method: str) -> TrainOptions:
        given = read_settings(self.common, "common")[0]
        given |= read_settings(self.per_task.get(task, {}), "per_task")[0]
        if self.data is not None and task in TASKS and TASKS[task].needs == "folder":
            given["data"] = self.data
        unused = unused_settings(method)
        given = {name: value for name, value in given.items() if not name.startswith(unused)}
        given |= read_settings(self.per_method.get(method, {}), "per_method")[0]
        return TrainOptions(**{**given, "task": task, "method": method})

    def _varied(self, method: str) -> list[dict[str, Any]]:
        """Every combination of the rates and weights that mean something to a method."""
        axes = {"rate": self.rates, "consistency_weight": self.consistency_weights}
        varied = {
            name: values
            for name, values in axes.items()
            if values and not name.startswith(unused_settings(method))
        }
        return [dict(zip(varied, values, strict=True)) for values in product(*varied.values())]


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
    faults += _unused(plan)
    faults += read_settings(plan.common, "common")[1]
    known = {"per_task": plan.tasks, "per_method": plan.methods}
    for name, other in zip(known, reversed(known), strict=True):
        faults += _table_faults(name, getattr(plan, name), known[name], (other, known[other]))
    if os.path.isfile(plan.output):  # which, unlike Path's, is quiet about folders it may not read
        faults.append(f"output must be a folder, got file {plan.output!r}; name another")
    return faults + _search_faults(plan)


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
        " out or add such a method"
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
    search, faults = read_search(plan.search)
    if search is None:
        return faults
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

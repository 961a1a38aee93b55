"""What to compare: tasks, models, methods, rates, ranks, weights and seeds, from YAML or flags.

The text under a field is its help on the command line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Final

from hiddenkey.lab.plans import command as commands
from hiddenkey.lab.plans.attached import VARIED, given
from hiddenkey.lab.plans.command import STAGE, CommandOptions
from hiddenkey.lab.plans.identity import PATHS
from hiddenkey.lab.plans.search import (
    OF_METHOD,
    SEARCHABLE,
    AnyOptions,
    Search,
    read_search,
    unused_settings,
)
from hiddenkey.lab.plans.settings import misplaced, read_settings
from hiddenkey.lab.queue.store import JobStore
from hiddenkey.lab.run.limits import ABOVE_ZERO, ONE, WORKERS, ZERO
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.tasks import TASKS

_TASKS: Final = ("headlines",)
_MODELS: Final = ("minilm",)


_SECTIONS: Final[tuple[tuple[str, str], ...]] = (
    ("tasks", "what is compared"),
    ("data", "data"),
    ("command", "a training command of your own"),
    ("common", "settings of the runs"),
    ("output", "folder and workers"),
    ("timed_steps", "what is done"),
)
"""The first setting of each group of the help, and the group's title."""


@dataclass(frozen=True)
class Plan:
    """A comparison: every combination is one run."""

    sections = _SECTIONS

    tasks: tuple[str, ...] = _TASKS
    """Names of tasks; 'hiddenkey train --help' lists them."""
    models: tuple[str, ...] = _MODELS
    """Local folders, names on the Hugging Face hub, or bundled: 'minilm', 'mpnet',
    'smollm2', 'gemma3-270m'."""
    methods: tuple[str, ...] = ("lora", "hiddenkey")
    """Dropout methods; 'hiddenkey methods' lists them. With --command, as-is is the command
    unchanged, which keeps the model's own dropout."""
    rates: tuple[float, ...] = ()
    """Dropout rates, in [0, 1), for the methods that drop; none: each method's own."""
    ranks: tuple[int, ...] = (8,)
    """Ranks of the LoRA matrices."""
    consistency_weights: tuple[float, ...] = ()
    """Weights of the consistency loss, for the methods that have one; none: each method's own."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Training seeds, on the command line also as 0-9; with the same seed all methods see the same
    weights and batches. --dry-run says what so many can show."""
    baseline: str = "lora"
    """The method that the others are compared with."""
    margin: float | None = ABOVE_ZERO.default(None)
    """The smallest difference of the main metric that matters to you, on its scale: 0.005 is half a
    percentage point. Decide on it before you look at a verdict. None: 0.01, or 1 % of the
    baseline's mean where that is above 1."""
    equal_time: bool = False
    """Also run each method with fewer steps, so that it takes as long as the baseline."""
    search: dict[str, Any] | bool | None = None
    """Choose settings by TPE or successive halving on held-out training data, with an equal number
    of runs for each method: algorithm, trials, seeds, validation (share held out), space, together
    and by, for example --search.trials 12; true takes the defaults. A command holds data out by
    itself: its argument stage, if it has one, is 'search' in the trials."""
    data: str | None = None
    """Folder of the tasks in GLUE's layout, for those tasks that need it."""
    command: str | None = None
    """Your own training command instead of 'hiddenkey train', with {seed} and {output} where it
    takes its seed and its output folder, for example "python train.py --seed {seed} --lr {lr}
    --output_dir {output}"; the methods act on the model of its Trainer."""
    metric: str | None = None
    """What to compare of a command's runs, by the name that the command gives it, for example
    eval_accuracy."""
    metric_file: str | None = None
    """JSON, JSONL or CSV file with a command's metric, for example "{output}/scores.json"; none:
    what Trainer and Lightning leave, and printed lines 'hiddenkey: step=10 eval_accuracy=0.8'."""
    lower_is_better: bool = False
    """Smaller values of the command's metric are better; known of losses and error rates."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Values of a command's other placeholders, for example --arguments.lr 1e-3; several values are
    several configurations."""
    time_limit: int | None = ONE.default(None, "leave it out for no limit")
    """Seconds after which a run of a command is stopped and counts as failed; none: no limit."""
    resumes: bool = False
    """The command goes on from what it finds in {output}; else that is emptied before it starts."""
    common: dict[str, Any] = field(default_factory=dict)
    """Settings of all runs, as in 'hiddenkey train', for example --common.epochs 5; with --command
    those of 'hiddenkey run', for example --common.inference average."""
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
    init: str | None = None
    """Write a first plan for a file of your own (.csv, .tsv, .jsonl, .parquet) as
    NAME.compare.yaml, with a reason for each setting, and stop; settings given beside it are kept.
    """
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
        return read_search(self.search, self.searchable)[0]

    @property
    def searchable(self) -> tuple[str, ...]:
        """The settings that a search may choose."""
        if self.command is None:
            return tuple(SEARCHABLE)
        attached = () if "method" in commands.placeholders(self.command) else ("inference",)
        return (*OF_METHOD, *attached, *(name for name in self.arguments if name != STAGE))

    def contenders(self) -> list[tuple[AnyOptions, ...]]:
        """Return what is compared; of several settings, the search chooses one."""
        settings: Sequence[AnyOptions] = (
            self.settings() if self.command is None else self.command_settings()
        )
        search = self.searched
        if search is None:
            return [(each,) for each in settings]
        return search.contenders(settings, self.baseline)

    @property
    def several(self) -> tuple[str, ...]:
        """What names a run beside task, method and seed, since the plan has several of it."""
        axes = ("rank", self.ranks), ("model", self.models)
        if self.command is not None:
            return ()
        return tuple(name for name, axis in axes if len(axis) > 1)

    def local_settings(self) -> dict[str, dict[str, Any]]:
        """What may differ between machines, by task: where data lies, whom to trust, patience."""
        if self.command is not None:
            own = {"seconds": self.time_limit, "resumes": self.resumes}
            return {options.task: own for options in self.command_settings()}
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

    @property
    def named_tasks(self) -> tuple[str, ...]:
        """The tasks; a command that takes none, where none is named, is one of its own."""
        if self.command is None or self.tasks != _TASKS:
            return self.tasks
        if "task" in commands.placeholders(self.command):
            return self.tasks
        return (commands.label_of(self.command),)

    def command_settings(self) -> list[CommandOptions]:
        """Return every configuration of the command but for the seed."""
        assert self.command is not None
        names = commands.placeholders(self.command)
        return [
            CommandOptions(
                self.command,
                task,
                method,
                self.metric or "",
                self.metric_file,
                lower_is_better=self.lower_is_better,
                model=model,
                rank=rank,
                arguments=dict(zip(self.arguments, values, strict=True)),
                **{**self._attached(task, method), **varied},
            )
            for task, model, rank, method in product(
                self.named_tasks,
                self.models if "model" in names else ("",),
                self.ranks if "rank" in names else (0,),
                self.methods,
            )
            for values in product(*commands.choices(self.arguments).values())
            for varied in self._varied(method)
        ]

    def _base(self, task: str, method: str) -> TrainOptions:
        found = self._given(task, method)
        if self.data is not None and task in TASKS and TASKS[task].needs == "folder":
            found["data"] = self.data
        return TrainOptions(**{**found, "task": task, "method": method})

    def _given(self, task: str, method: str) -> dict[str, Any]:
        """The settings of a task's runs with a method, but for what the plan varies."""
        found = read_settings(self.common, "common")[0]
        found |= read_settings(self.per_task.get(task, {}), "per_task")[0]
        unused = unused_settings(method)
        found = {name: value for name, value in found.items() if not name.startswith(unused)}
        return found | read_settings(self.per_method.get(method, {}), "per_method")[0]

    def _attached(self, task: str, method: str) -> dict[str, Any]:
        """The same for a method that is attached inside of a command."""
        if method == commands.AS_IS:
            return {}
        found = self._given(task, method)
        varied = {name: found[name] for name in VARIED if name in found}
        return {**varied, "attached": given(found)}

    def _varied(self, method: str) -> list[dict[str, Any]]:
        """Every combination of the rates and weights that mean something to a method."""
        axes = {"rate": self.rates, "consistency_weight": self.consistency_weights}
        unused = self._unused(method)
        varied = {
            name: values for name, values in axes.items() if values and not name.startswith(unused)
        }
        return [dict(zip(varied, values, strict=True)) for values in product(*varied.values())]

    def _unused(self, method: str) -> tuple[str, ...]:
        """Beginnings of the settings that mean nothing to a method."""
        if self.command is None or "method" not in commands.placeholders(self.command):
            return unused_settings(method)
        return ("rate", "consistency_") if method == self.baseline else ()

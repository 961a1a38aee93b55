"""What a report says, as plain frozen values: made by ``tabulation``, read by everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from hiddenkey.lab.evidence.axes import Arm, Budget, Checkpoint, Task
from hiddenkey.lab.evidence.findings import Cell, Cost, Curve, Gap, Selection, Sweep, Verdict
from hiddenkey.lab.evidence.ranks import Ranking


@dataclass(frozen=True)
class TaskTable:
    """All of one task in one scope; see the parts."""

    task: Task
    verdict: Verdict
    cells: tuple[Cell, ...]
    gaps: tuple[Gap, ...]
    costs: tuple[Cost, ...]
    curves: tuple[Curve, ...]
    sweeps: tuple[Sweep, ...]
    selections: tuple[Selection, ...]
    notes: tuple[str, ...]

    def find(self, arm: Arm, checkpoint: Checkpoint, *, main: bool = True) -> Cell | None:
        """Return an arm's cell for the main metric (or the loss) at one checkpoint."""
        for cell in self.cells:
            measure = cell.measure
            if cell.arm == arm and measure.checkpoint == checkpoint and measure.main == main:
                return cell
        return None


@dataclass(frozen=True)
class Scope:
    """Runs that may be compared with each other.

    Attributes:
        budget: ``steps``: all took the same steps; ``time``: all took the baseline's time.
        arms: in the order of all tables, the baseline first.
        tasks: by name.
        ranking: average ranks of the arms over the tasks, or ``None``.
        unranked: why there is no ranking, or what it leaves out; may be empty.
    """

    budget: Budget
    arms: tuple[Arm, ...]
    tasks: tuple[TaskTable, ...]
    ranking: Ranking | None
    unranked: str


@dataclass(frozen=True)
class SearchTrial:
    """One configuration that the search tried, on a validation part of the training examples.

    Attributes:
        task: label of the task.
        method: the method.
        settings: what was varied, as (option, value).
        metric: name of the main metric.
        last: its mean over the seeds after the last step.
        best: its mean over the seeds at the best evaluation.
        seeds: finished runs.
        failed: runs that did not finish.
        leading: it has the largest ``best`` of its method, model, rank and task, which is what
            the search goes by.
    """

    task: str
    method: str
    settings: tuple[tuple[str, str], ...]
    metric: str
    last: float | None
    best: float | None
    seeds: int
    failed: int
    leading: bool


@dataclass(frozen=True)
class RunRow:
    """One stored run.

    Attributes:
        id: its identity.
        task: label of the task.
        configuration: its label.
        seed: its seed.
        stage: ``compare`` or ``search``.
        budget: ``steps`` or ``time``.
        status: ``finished`` or ``failed``.
        superseded: a newer run of the same configuration, task and seed replaces it.
        metric: name of the main metric; empty for failed runs.
        last: main metric after the last step.
        best: main metric at the best evaluation.
        best_step: step of that evaluation.
        loss_last: evaluation loss after the last step.
        loss_best: smallest evaluation loss.
        steps: optimiser steps.
        seconds_per_step: wall time.
        memory_mib: peak memory.
        attempts: how often it was begun.
        started: UTC time.
        ended: UTC time.
        options: those that differ between runs.
        environment: index into ``Tables.environments``.
        error: all of a failed run's error.
    """

    id: str
    task: str
    configuration: str
    seed: int
    stage: str
    budget: str
    status: str
    superseded: bool
    metric: str
    last: float | None
    best: float | None
    best_step: int | None
    loss_last: float | None
    loss_best: float | None
    steps: int | None
    seconds_per_step: float | None
    memory_mib: float | None
    attempts: int
    started: str
    ended: str
    options: Mapping[str, Any]
    environment: int
    error: str

    @property
    def summary(self) -> str:
        """The last line of the error."""
        return self.error.rpartition("\n")[2].strip() or "no error was stored"


FIELDS: Final = tuple(
    field.name for field in fields(RunRow) if field.name not in ("options", "environment", "error")
)
"""What the list of all runs says of each, in this order."""


@dataclass(frozen=True)
class Tables:
    """Everything that a report says.

    Attributes:
        baseline: method that others are compared with.
        scopes: step-matched first, then time-matched; either may be absent.
        search: the configurations that a search tried.
        runs: every record.
        shared: options that all runs have in common.
        environments: the distinct ones, with the number of runs.
        notes: what a reader must know about all of it.
    """

    baseline: str
    scopes: tuple[Scope, ...]
    search: tuple[SearchTrial, ...]
    runs: tuple[RunRow, ...]
    shared: Mapping[str, Any]
    environments: tuple[tuple[Mapping[str, Any], int], ...]
    notes: tuple[str, ...]

    @property
    def failures(self) -> tuple[RunRow, ...]:
        """Every failed run."""
        return tuple(row for row in self.runs if row.status == "failed")

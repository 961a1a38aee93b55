"""What a report says, as plain frozen values: made by ``tabulation``, read by everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hiddenkey.lab.evidence.axes import Budget, Checkpoint, RunConfiguration, Task
from hiddenkey.lab.evidence.cells import Cell
from hiddenkey.lab.evidence.costs import Cost
from hiddenkey.lab.evidence.curves import Curve, GeneralisationGap
from hiddenkey.lab.evidence.ranks import Ranking
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.evidence.sweeps import Selection, Sweep
from hiddenkey.lab.report.advice import Advice
from hiddenkey.lab.report.verdicts import Judgement


@dataclass(frozen=True)
class TaskTable:
    """All of one task in one scope; see the parts.

    Attributes:
        lead: effect, model, data and seeds in one line.
        matching: in what its runs are alike: ``step-matched``, ``time-matched``, or why neither.
    """

    task: Task
    lead: str
    verdict: Judgement
    advice: Advice
    cells: tuple[Cell, ...]
    gaps: tuple[GeneralisationGap, ...]
    costs: tuple[Cost, ...]
    curves: tuple[Curve, ...]
    sweeps: tuple[Sweep, ...]
    selections: tuple[Selection, ...]
    notes: tuple[str, ...]
    matching: str

    def find(
        self, configuration: RunConfiguration, checkpoint: Checkpoint, *, main: bool = True
    ) -> Cell | None:
        """Return a configuration's cell for the main metric (or the loss) at one checkpoint."""
        for cell in self.cells:
            measure = cell.measure
            if (
                cell.configuration == configuration
                and measure.checkpoint == checkpoint
                and measure.main == main
            ):
                return cell
        return None


@dataclass(frozen=True)
class Scope:
    """Runs that may be compared with each other.

    Attributes:
        budget: ``steps``: all took the same steps; ``time``: all took the baseline's time.
        configurations: in the order of all tables, the baseline first.
        tasks: by name.
        ranking: average ranks of the configurations over the tasks, or ``None``.
        unranked: why there is no ranking, or what it leaves out; may be empty.
    """

    budget: Budget
    configurations: tuple[RunConfiguration, ...]
    tasks: tuple[TaskTable, ...]
    ranking: Ranking | None
    unranked: str


@dataclass(frozen=True)
class SearchRow:
    """One configuration that the search tried, on a validation part of the training examples.

    Attributes:
        settings: task, method, model and rank, and what was varied, by name.
        metric: name of the main metric.
        last: its mean over the seeds after the last step.
        best: its mean over the seeds at the best evaluation; ``None`` if a run diverged.
        seeds: finished runs.
        failed: runs that did not finish, because they diverged or otherwise.
        leading: it is the best of its method, model, rank and task by what the search goes by.
    """

    settings: Mapping[str, str]
    metric: str
    last: float | None
    best: float | None
    seeds: int
    failed: int
    leading: bool = False


@dataclass(frozen=True)
class RunRow:
    """One stored run, as the list of all runs has it.

    Attributes:
        record: what it left behind.
        values: what the list says of it, by the columns' names; its metrics are finite or ``None``.
        options: those that differ between runs.
        environment: index into ``Tables.environments``.
    """

    record: Record
    values: Mapping[str, Any]
    options: Mapping[str, Any]
    environment: int


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
    search: tuple[SearchRow, ...]
    runs: tuple[RunRow, ...]
    shared: Mapping[str, Any]
    environments: tuple[tuple[Mapping[str, Any], int], ...]
    notes: tuple[str, ...]

    @property
    def failures(self) -> tuple[RunRow, ...]:
        """Every failed run that no later one of the same configuration and seed replaces.

        That a run of a search diverged is what the search found, and no failure.
        """
        failed = (row for row in self.runs if row.record.status == "failed")
        failed = (row for row in failed if not row.record.counts_as_worst)
        return tuple(row for row in failed if not row.values["superseded"])

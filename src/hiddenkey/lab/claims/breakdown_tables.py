"""Tables of the runs that broke down; the page and Markdown print the same."""

from __future__ import annotations

from typing import Final

from hiddenkey.lab.claims.breakdowns import broken_runs, without_broken
from hiddenkey.lab.claims.findings import Evidence
from hiddenkey.lab.claims.wording import difference, value
from hiddenkey.lab.evidence.breakdowns import LEAST_FALL
from hiddenkey.lab.present.entries import Grid, grid_of, numeric
from hiddenkey.lab.present.words import count

RUNS: Final = "Runs that broke down"


def breakdown_cautions(evidence: Evidence) -> tuple[str, ...]:
    """Tell the reader of runs that broke down; nothing if none did."""
    runs = broken_runs(evidence.values)
    if not runs:
        return ()
    counts = "It counts" if len(runs) == 1 else "They count"
    return (
        f"{count(len(runs), 'run')} broke down: after the last step the main metric on the run's"
        f" own training examples was at least {100 * LEAST_FALL:g} percentage points below the"
        f" median of its configuration on that task. {counts} like any other. “{RUNS}” has"
        " what the effects are without.",
    )


def broken_grid(evidence: Evidence) -> Grid:
    """The runs that broke down."""
    rows = [
        {
            "task": run.task,
            "configuration": run.configuration,
            "seed": run.breakdown.seed,
            "on its training examples, points": numeric(
                run.breakdown.value, value(run.breakdown.value, "metric")
            ),
            "median of the seeds": numeric(
                run.breakdown.median, value(run.breakdown.median, "metric")
            ),
        }
        for run in broken_runs(evidence.values)
    ]
    return grid_of("broken", RUNS, rows)


def remainders_grid(evidence: Evidence) -> Grid:
    """The effects that rest on runs that broke down, with and without their pairs."""
    rows, runs = [], broken_runs(evidence.values)
    for finding in evidence.findings:
        for found in finding.effects:
            rest = without_broken(found, evidence.values, runs)
            if rest is not None and finding.counts(found):
                measure = found.contrast.measure
                rows.append(
                    {
                        "claim": finding.claim.name,
                        "question": found.contrast.name,
                        "on": found.task or "mean over tasks",
                        "effect": numeric(found.mean, difference(found.mean, measure)),
                        "without these pairs": numeric(rest.mean, difference(rest.mean, measure)),
                        "pairs left out": rest.left_out,
                    }
                )
    notes = (
        "A look at single runs, not a question of the plan: no verdict and no interval rests on it."
        " Means over tasks are here of each task's own mean.",
    )
    return grid_of("remainders", "Effects without them", rows, notes if rows else ())

"""The tables of what was planned: tasks, power, and the settings that were chosen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from hiddenkey.lab.claims.effects import level
from hiddenkey.lab.claims.findings import Chosen, Evidence, Finding
from hiddenkey.lab.claims.plan import BASELINE
from hiddenkey.lab.claims.wording import margin, setting, value
from hiddenkey.lab.present.entries import Grid, make_grid, numeric
from hiddenkey.lab.present.words import MISSING, count


def tasks_grid(findings: Sequence[Finding], evidence: Evidence) -> Grid:
    """The task setups of claims: what they are, and whether they count."""
    scale = evidence.scale
    left_out = {task: why for finding in findings for task, why in finding.left_out.items()}
    rows = []
    for name in dict.fromkeys(task for finding in findings for task in finding.claim.tasks):
        setup = scale.tasks[name]
        options = {**scale.common, **setup.options}
        plain = level(evidence.values, [name], BASELINE, "metric")
        rows.append(
            [
                name,
                ", ".join(f"{key} {shown}" for key, shown in options.items()),
                numeric(setup.floor, f"{setup.floor:g}"),
                numeric(plain.mean, value(plain.mean, "metric")),
                left_out.get(name, "yes"),
            ]
        )
    columns = ("task", "its runs", "floor, points", "plain LoRA, points", "counts")
    claims = (finding.claim.name for finding in findings)
    return make_grid("-".join(("tasks", *claims)), "Tasks", columns, rows)


def power_grid(evidence: Evidence) -> Grid:
    """What the plan could show of each contrast, estimated before the runs."""
    rows = [
        [
            finding.claim.name,
            power.contrast.name,
            power.design.pairs,
            power.design.tasks,
            margin(power.contrast),
            numeric(power.half_width, _half_width(power.half_width, power.contrast.measure)),
            numeric(power.detects, f"{100 * power.detects:.0f} %"),
            numeric(power.excludes, f"{100 * power.excludes:.0f} %"),
            numeric(power.needed, "over 1000" if power.needed is None else f"{power.needed}"),
        ]
        for finding in evidence.findings
        for power in finding.power
    ]
    columns = (
        "claim", "question", "seeds", "tasks", "margin", "expected 95 % interval",
        "sees an effect of the margin", "rules the margin out if there is no effect",
        "seeds to see it in 80 %",
    )  # fmt: skip
    return make_grid("power", "What the plan could show", columns, rows)


def chosen_grid(evidence: Evidence) -> Grid:
    """The chosen settings."""
    rows = [
        [
            found.task,
            found.choice,
            numeric(found.learning_rate, setting(found.learning_rate)),
            numeric(found.rate, setting(found.rate)),
            found.scores.get(found.setting),
            found.runs,
        ]
        for found in _ordered(evidence)
    ]
    columns = ("task", "choice", "learning rate", "dropout rate", "held-out metric", "runs")
    return make_grid("chosen", "Chosen settings", columns, rows)


def scores_grid(evidence: Evidence) -> Grid:
    """The held-out metric of every setting that was tried."""
    tried = {rate for found in evidence.chosen for _, rate in found.scores}
    rates = sorted(tried, key=lambda rate: -1.0 if rate is None else rate)
    rows = []
    for found in _ordered(evidence):
        for learning_rate in sorted({rate for rate, _ in found.scores}):
            scores = {rate: found.scores.get((learning_rate, rate)) for rate in rates}
            cells = [
                dataclasses.replace(numeric(score), strong=(learning_rate, rate) == found.setting)
                for rate, score in scores.items()
            ]
            shown = numeric(learning_rate, setting(learning_rate))
            rows.append([found.task, found.choice, shown, *cells])
    heads = ("without a rate" if rate is None else f"rate {setting(rate)}" for rate in rates)
    notes = (
        "Mean main metric on held-out training examples; the chosen setting is bold. Learning rate"
        " and dropout rate are chosen by their means over the table's other axis, so it need not"
        " have the largest number.",
    )
    columns = ("task", "choice", "learning rate", *heads)
    return make_grid("scores", "All settings that were tried", columns, rows, notes)


def environment_grids(evidence: Evidence) -> tuple[Grid, ...]:
    """Versions and machines, a table for each distinct set."""
    return tuple(
        make_grid(
            f"environment-{index}",
            f"Versions and machine of {count(runs, 'run')}",
            ("what", "value"),
            [[name, str(found)] for name, found in environment.items()],
        )
        for index, (environment, runs) in enumerate(evidence.environments, 1)
    )


def _ordered(evidence: Evidence) -> list[Chosen]:
    """What was chosen, in the scale's order of tasks and choices."""
    tasks, choices = list(evidence.scale.tasks), list(evidence.scale.choices)
    return sorted(evidence.chosen, key=lambda c: (tasks.index(c.task), choices.index(c.choice)))


def _half_width(width: float, measure: str) -> str:
    return f"± {value(width, measure)}" if math.isfinite(width) else MISSING

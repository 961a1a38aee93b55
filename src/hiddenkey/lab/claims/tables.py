"""The tables of what was planned and what came out; the page and Markdown print the same."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

from hiddenkey.lab.claims.effects import Effect, gain, level
from hiddenkey.lab.claims.findings import Chosen, Evidence, Power, Ruling, Setting
from hiddenkey.lab.claims.plan import BASELINE, COST, MEASURES, Drawing, Quantity
from hiddenkey.lab.claims.sentences import run_text
from hiddenkey.lab.claims.wording import (
    bounds,
    difference,
    effect_text,
    expectation,
    margin,
    setting,
    value,
)
from hiddenkey.lab.evidence.comparisons import describe
from hiddenkey.lab.present.entries import Entry, Grid, entry, grid_of, make_grid, numeric
from hiddenkey.lab.present.words import MISSING, count, listing, probability

_SCORE: Final = (
    "Scores are means on held-out training examples: of the main metric, or of choices by loss the"
    " loss with its sign turned."
)
_SHOWN: Final = 6
"""Most lines of effects of a claim in the summary; its section has all of them."""


def summary_grid(evidence: Evidence) -> Grid:
    """The table on top: claim with a link to its section, verdict, effect, what was run."""
    rows = [
        {
            "claim": Entry(f.claim.name, f.claim.name, strong=True, link=f"claim-{index}"),
            "in one line": f.claim.title,
            "verdict": Entry(f.verdict, f.verdict, strong=True),
            "effect [95 % interval]": _headline(f),
            "what was run": run_text(f, evidence.scale),
        }
        for index, f in enumerate(evidence.findings, 1)
    ]
    return grid_of("summary", "Claims and verdicts", rows)


def effects_grid(finding: Ruling) -> Grid:
    """Every contrast of a claim, over the tasks and on each."""
    has_tasks = any(effect.between_tasks is not None for effect in finding.effects)
    rows = [
        {
            "question": Entry(asked.name, asked.name, strong=effect.task is None),
            "on": effect.task or "mean over tasks",
            "effect": numeric(effect.mean, difference(effect.mean, asked.measure)),
            "95 % interval": bounds(effect.interval, asked.measure),
            **(
                {"over tasks as well": bounds(effect.interval_over_tasks, asked.measure)}
                if has_tasks
                else {}
            ),
            "verdict": (
                effect.verdict if finding.counts(effect) or effect.mean is None else "left out"
            ),
            "seeds": len(effect.values),
            "the claim expects": expectation(asked),
            "margin": MISSING if asked.expect == "between" else margin(asked),
            "p if not as claimed": _p_value(effect.p_holds),
            "p if as claimed": _p_value(effect.p_fails),
        }
        for effect in finding.effects
        for asked in [effect.contrast]
    ]
    return grid_of(f"effects-{finding.claim.name}", "Effects", rows)


def drawing_grid(finding: Ruling, drawing: Drawing, evidence: Evidence) -> Grid:
    """A table of configurations by two axes, each with its difference to plain LoRA."""
    measure, tasks = drawing.measure, finding.tasks(drawing.measure)
    columns = list(dict.fromkeys(name for cells in drawing.cells.values() for name in cells))
    rows = [
        [row, *(_cell(evidence, tasks, cells.get(name), measure) for name in columns)]
        for row, cells in drawing.cells.items()
    ]
    plain = level(evidence.values, tasks, BASELINE, measure)
    counted = listing(tasks, 9) or "no task counts"
    notes = (
        f"{MEASURES[measure].capitalize()}; {'mean of ' if len(tasks) > 1 else ''}{counted};"
        " mean ± standard deviation over the seeds. Below it the difference to plain LoRA, which"
        f" has {_spread(plain).text}, seed by seed, with its 95 % interval.",
    )
    name = f"grid-{finding.claim.name}-{finding.claim.pictures.index(drawing) + 1}"
    return make_grid(name, drawing.title, ("", *columns), rows, notes)


def values_grid(finding: Ruling, evidence: Evidence, measure: Quantity) -> Grid:
    """Mean ± standard deviation of every configuration of a claim on every task."""
    rows = []
    for name in dict.fromkeys((BASELINE, *finding.claim.configurations)):
        found = [level(evidence.values, [task], name, measure) for task in finding.claim.tasks]
        if any(effect.values for effect in found):
            rows.append([name, *(_spread(effect, seeds=True) for effect in found)])
    repeated = "repeats" if measure == COST else "seeds"
    return make_grid(
        f"values-{finding.claim.name}-{measure.replace(' ', '-')}",
        MEASURES[measure].capitalize(),
        ("configuration", *finding.claim.tasks),
        rows,
        (f"Mean ± standard deviation (number of {repeated}).",),
    )


def measures_grid(evidence: Evidence) -> Grid:
    """Every measure of each configuration that ran on all tasks that count, judged or not."""
    findings = evidence.findings
    left_out = {task for f in findings for task in f.left_out}
    planned = dict.fromkeys(task for f in findings for task in f.claim.tasks)
    tasks = [task for task in planned if task not in left_out]
    known = {measure for _, _, measure in evidence.values} - {COST}
    measures: list[Quantity] = [measure for measure in MEASURES if measure in known]
    names = dict.fromkeys((BASELINE, *(n for f in findings for n in f.claim.configurations)))
    rows = [
        [name, *(_cell(evidence, tasks, name, measure) for measure in measures)]
        for name in names
        if level(evidence.values, tasks, name, "metric").values
    ]
    notes = (
        f"{'Means' if len(tasks) > 1 else 'Values'} of {listing(tasks, 9) or 'no task'} ± standard"
        " deviation over the seeds. Below them the difference to plain LoRA, seed by seed, with its"
        " 95 % interval. No verdict rests on this table, and it corrects for no number of looks.",
    )
    columns = ("configuration", *(measure.replace("_", " ") for measure in measures))
    return make_grid("measures", "All measures", columns, rows, notes)


def _p_value(p: float) -> Entry:
    return numeric(p, probability(p).removeprefix("= "))


def _headline(finding: Ruling) -> Entry:
    """A claim's effect; of several questions how many hold, and their effects."""
    asked = finding.questions
    if all(effect.mean is None for effect in asked):
        return entry("no value yet")
    shown = [f"{effect.label}: {effect_text(effect)}" for effect in asked]
    if len(asked) == 1:
        return entry(shown[0])
    verdicts = [effect.verdict for effect in asked]
    tally = (
        f"{verdicts.count('holds')} of {len(asked)} questions hold (needed: {finding.needed});"
        f" shown not to: {verdicts.count('does not hold')}, open: {verdicts.count('cannot tell')}"
    )
    if len(shown) > _SHOWN:
        shown = [*shown[: _SHOWN - 1], f"and {len(shown) - _SHOWN + 1} more below"]
    return Entry(tally, tally, details=tuple(shown))


def _cell(evidence: Evidence, tasks: Sequence[str], name: str | None, measure: Quantity) -> Entry:
    """A cell of a table of configurations."""
    if name is None:
        return Entry(MISSING, None)
    entry = _spread(level(evidence.values, tasks, name, measure))
    found = gain(evidence.values, tasks, name, measure)
    if name == BASELINE or found.mean is None:
        return entry
    interval = "" if found.interval is None else f" {bounds(found.interval, measure)}"
    return Entry(entry.text, entry.value, details=(difference(found.mean, measure) + interval,))


def _spread(found: Effect, *, seeds: bool = False) -> Entry:
    if found.mean is None:
        return Entry(MISSING, None)
    measure, varies = found.contrast.measure, describe(found.values).deviation
    shown = value(found.mean, measure)
    if varies is not None:
        shown += f" ± {value(varies, measure)}"
    return Entry(f"{shown} ({len(found.values)})" if seeds else shown, found.mean)


def tasks_grid(findings: Sequence[Ruling], evidence: Evidence) -> Grid:
    """The task setups of claims: what they are, and whether they count."""
    scale = evidence.scale
    left_out = {task: why for finding in findings for task, why in finding.left_out.items()}
    rows = []
    for name in dict.fromkeys(task for finding in findings for task in finding.claim.tasks):
        setup = scale.tasks[name]
        options = {**scale.common, **setup.options}
        plain = level(evidence.values, [name], BASELINE, "metric")
        rows.append(
            {
                "task": name,
                "its runs": ", ".join(f"{key} {shown}" for key, shown in options.items()),
                "floor, points": numeric(setup.floor, f"{setup.floor:g}"),
                "plain LoRA, points": numeric(plain.mean, value(plain.mean, "metric")),
                "counts": left_out.get(name, "yes"),
            }
        )
    claims = (finding.claim.name for finding in findings)
    return grid_of("-".join(("tasks", *claims)), "Tasks", rows)


def power_grid(evidence: Evidence) -> Grid:
    """What the plan could show of each contrast, estimated before the runs."""
    rows = [
        {
            "claim": finding.claim.name,
            "question": power.contrast.name,
            "seeds": power.design.pairs,
            "tasks": power.design.tasks,
            "margin": margin(power.contrast),
            "expected 95 % interval": _half_width(power),
            "sees an effect of the margin": _chance(power.detects),
            "rules the margin out if there is no effect": _chance(power.excludes),
            "seeds to see it in 80 %": numeric(power.needed, f"{power.needed or 'over 1000'}"),
        }
        for finding in evidence.findings
        for power in finding.power
    ]
    return grid_of("power", "What the plan could show", rows)


def chosen_grid(evidence: Evidence) -> Grid:
    """The chosen settings."""
    rows = [
        {
            "task": found.task,
            "choice": found.choice,
            "learning rate": numeric(
                found.setting.learning_rate, setting(found.setting.learning_rate)
            ),
            "dropout rate": numeric(found.setting.rate, setting(found.setting.rate)),
            **_length(evidence, found.setting),
            "held-out score": found.scores.get(found.setting),
            "runs": found.runs,
        }
        for found in _ordered(evidence)
    ]
    return grid_of("chosen", "Chosen settings", rows, (_SCORE,))


def _length(evidence: Evidence, chosen: Setting) -> dict[str, Entry]:
    """The column of the epochs, where they were chosen at all."""
    if not _chooses_epochs(evidence):
        return {}
    return {"epochs": numeric(chosen.epochs, setting(chosen.epochs))}


def _chooses_epochs(evidence: Evidence) -> bool:
    return any(found.setting.epochs is not None for found in evidence.chosen)


def scores_grid(evidence: Evidence) -> Grid:
    """What every setting that was tried is worth on the held-out examples."""
    has_epochs = _chooses_epochs(evidence)
    tried = {tried.rate for found in evidence.chosen for tried in found.scores}
    rates = sorted(tried, key=lambda rate: -1.0 if rate is None else rate)
    rows = []
    for found in _ordered(evidence):
        for learning_rate, epochs in sorted(
            {(own.learning_rate, own.epochs) for own in found.scores}
        ):
            cells = [
                dataclasses.replace(numeric(found.scores.get(own)), strong=own == found.setting)
                for own in (Setting(learning_rate, rate, epochs) for rate in rates)
            ]
            numbers = (learning_rate, epochs) if has_epochs else (learning_rate,)
            shown = [numeric(each, setting(each)) for each in numbers]
            rows.append([found.task, found.choice, *shown, *cells])
    heads = ("without a rate" if rate is None else f"rate {setting(rate)}" for rate in rates)
    notes = (
        f"{_SCORE} The chosen setting is bold. Learning rate, dropout rate and length are chosen by"
        " their means over the table's other axes, so it need not have the largest number.",
    )
    axes = ("learning rate", "epochs") if has_epochs else ("learning rate",)
    columns = ("task", "choice", *axes, *heads)
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
    """What was chosen, in the scale's order of tasks and choices; once, if it is for all tasks."""
    tasks, choices = list(evidence.scale.tasks), list(evidence.scale.choices)
    found = sorted(evidence.chosen, key=lambda c: (tasks.index(c.task), choices.index(c.choice)))
    shared = {name for name, own in evidence.scale.choices.items() if own.scope == "all tasks"}
    first = {
        each.choice: dataclasses.replace(each, task="all tasks")
        for each in reversed(found)
        if each.choice in shared
    }
    together = sorted(first.values(), key=lambda c: choices.index(c.choice))
    return [*together, *(each for each in found if each.choice not in shared)]


def _half_width(power: Power) -> Entry:
    width = power.half_width
    known = math.isfinite(width)
    return numeric(width, f"± {value(width, power.contrast.measure)}" if known else MISSING)


def _chance(share: float) -> Entry:
    return numeric(share, f"{100 * share:.0f} %")

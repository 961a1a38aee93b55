"""From the jobs of some claims, as far as they are done, to all that a page is made of."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Final

from hiddenkey.lab.claims.breakdowns import TRAINING
from hiddenkey.lab.claims.effects import Values, effect
from hiddenkey.lab.claims.findings import Evidence, Ruling, expected_power
from hiddenkey.lab.claims.outline import EvidenceOutline
from hiddenkey.lab.claims.plan import BASELINE, COST, Claim, Scale
from hiddenkey.lab.claims.sentences import sentences
from hiddenkey.lab.evidence.cells import finite
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.present.words import count, number
from hiddenkey.lab.queue.jobs import State
from hiddenkey.lab.run.result import Result

_POINTS: Final = 100
_ENVIRONMENT: Final = (
    "device", "cpus", "threads", "python", "hiddenkey", "torch", "transformers", "peft",
)  # fmt: skip


def measured(result: Result) -> dict[str, float]:
    """Return the measures of a run that are numbers, in the units of ``plan.MEASURES``.

    The metric on its own training examples is one more, by which broken runs are found.
    """
    name = result.main_metric
    metric, gap = result.metrics[name], result.gap[name]
    in_points = {"metric": finite(metric.last), "best": finite(metric.best), "gap": finite(gap)}
    in_points[TRAINING] = finite(result.train_sample.get(name))
    found = {measure: _POINTS * value for measure, value in in_points.items() if value is not None}
    others = {"loss": result.eval_loss.last, **result.calibration}
    numbers = {name: finite(value) for name, value in others.items()}
    return found | {name: value for name, value in numbers.items() if value is not None}


def gather(
    claims: Sequence[Claim],
    scale: Scale,
    outline: EvidenceOutline,
    states: Mapping[str, State],
    command: str,
) -> Evidence:
    """Return what is known by now, with a verdict on each claim.

    Args:
        claims: the claims.
        scale: their scale.
        outline: their jobs.
        states: where the jobs stand.
        command: the command that makes the page again.
    """
    values: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
    there: Counter[tuple[str, str]] = Counter()
    records: dict[str, Record] = {}
    for place, record in outline.records(states):
        records[record.id] = record
        if place is not None and record.result is not None:
            there[place] += 1
            for measure, value in measured(record.result).items():
                values[(*place, measure)][record.options["seed"]] = value
    for place, ratios in outline.step_times(states).items():
        if ratios:
            values[(*place, COST)] = ratios
    return Evidence(
        scale=scale,
        findings=tuple(
            judge(claim, scale, values, _missing(claim, scale, there, values)) for claim in claims
        ),
        values=values,
        chosen=tuple(outline.chosen(states).values()),
        command=command,
        environments=_environments(records.values()),
        started=min((record.started for record in records.values()), default=""),
        ended=max((record.ended for record in records.values()), default=""),
        runs=len(records),
    )


def _missing(
    claim: Claim, scale: Scale, there: Mapping[tuple[str, str], int], values: Values
) -> int:
    """How many runs and measurements of a claim are not there."""
    runs = (len(scale.seeds) - there[task, name] for task in claim.tasks for name in claim.trained)
    times = (
        scale.repeats - len(values.get((task, name, COST), ()))
        for task in claim.tasks
        for name in claim.timed
    )
    return sum((*runs, *times))


def _environments(records: Iterable[Record]) -> tuple[tuple[Mapping[str, str], int], ...]:
    counted = Counter(
        json.dumps({name: str(r.environment.get(name, "")) for name in _ENVIRONMENT})
        for r in records
    )
    return tuple((json.loads(text), count) for text, count in counted.most_common())


def judge(claim: Claim, scale: Scale, values: Values, missing: int = 0) -> Ruling:
    """Judge a claim by the rule (:data:`~hiddenkey.lab.claims.sentences.RULE`).

    A task counts if plain LoRA's mean metric on it is above the task's floor. What a step costs
    does not depend on what is learnt, so for step times all tasks count.

    Args:
        claim: the claim.
        scale: how large its evidence is to be.
        values: value by seed, by task setup, configuration and measure; plain LoRA's among them.
        missing: runs of the plan that have no value (yet).
    """
    left_out = _left_out(claim, scale, values)
    by_task = [
        effect(c, values, claim.tasks, task) for c in claim.contrasts for task in claim.tasks
    ]
    finding = Ruling(claim, (), tuple(by_task), left_out, missing, expected_power(claim, scale))
    asked = [(contrast, finding.tasks(contrast.measure)) for contrast in claim.contrasts]
    if claim.scope == "pooled":
        questions = [effect(contrast, values, tasks) for contrast, tasks in asked]
    else:
        questions = [effect(c, values, tasks, task) for c, tasks in asked for task in tasks]
    finding = dataclasses.replace(finding, questions=tuple(questions))
    return dataclasses.replace(finding, sentences=sentences(finding))


def _left_out(claim: Claim, scale: Scale, values: Values) -> dict[str, str]:
    """Return the tasks on which there is nothing to learn from, with the reason."""
    if all(contrast.measure == COST for contrast in claim.contrasts):
        return {}
    found = {}
    for task in claim.tasks:
        known = values.get((task, BASELINE, "metric"), {})
        floor = scale.tasks[task].floor
        if not known:
            found[task] = "no run of plain LoRA has a metric on it yet"
        elif (mean := fmean(known.values())) <= floor:
            found[task] = (
                f"plain LoRA reaches {number(mean, 1)} points in the mean of"
                f" {count(len(known), 'seed')}, not more than {floor:g}, so it learns too little"
                " for dropout to change"
            )
    return found

"""From a claim's values to its finding."""

from __future__ import annotations

import dataclasses
from statistics import fmean

from hiddenkey.lab.claims.effects import Values, effect
from hiddenkey.lab.claims.findings import Finding
from hiddenkey.lab.claims.plan import BASELINE, COST, Claim, Scale
from hiddenkey.lab.claims.power import expected_power
from hiddenkey.lab.claims.sentences import sentences
from hiddenkey.lab.present.words import count, number


def judge(claim: Claim, scale: Scale, values: Values, missing: int = 0) -> Finding:
    """Judge a claim by the rule (:data:`~hiddenkey.lab.claims.rule.RULE`).

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
    finding = Finding(claim, (), tuple(by_task), left_out, missing, expected_power(claim, scale))
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

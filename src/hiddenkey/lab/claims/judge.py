"""From a claim's values to its finding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean

from hiddenkey.lab.claims.effects import effect
from hiddenkey.lab.claims.findings import Effect, Finding, Values
from hiddenkey.lab.claims.plan import BASELINE, COST, Claim, Scale
from hiddenkey.lab.claims.power import expected_power
from hiddenkey.lab.claims.rule import combine, decide, how_many
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
    setups = claim.tasks
    left_out = _left_out(claim, scale, values)
    by_task = tuple(
        effect(contrast, values, setups, task) for contrast in claim.contrasts for task in setups
    )
    questions = _questions(claim, values, setups, left_out)
    needed = how_many(claim.need, len(questions))
    p_holds, p_fails = combine(
        [question.p_holds for question in questions],
        [question.p_fails for question in questions],
        needed,
    )
    finding = Finding(
        claim=claim,
        questions=questions,
        by_task=by_task,
        needed=needed,
        verdict=decide(p_holds, p_fails),
        p_holds=p_holds,
        p_fails=p_fails,
        sentences=(),
        left_out=left_out,
        missing=missing,
        power=expected_power(claim, scale),
    )
    return dataclasses.replace(finding, sentences=sentences(finding))


def _questions(
    claim: Claim, values: Values, setups: Sequence[str], left_out: Mapping[str, str]
) -> tuple[Effect, ...]:
    """Return the effects that the verdict rests on."""
    asked = [
        (contrast, [t for t in setups if contrast.measure == COST or t not in left_out])
        for contrast in claim.contrasts
    ]
    if claim.scope == "pooled":
        return tuple(effect(contrast, values, tasks) for contrast, tasks in asked)
    return tuple(
        effect(contrast, values, tasks, task) for contrast, tasks in asked for task in tasks
    )


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

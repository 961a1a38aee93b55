"""From the jobs of some claims, as far as they are done, to all that a page is made of."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from hiddenkey.lab.claims.findings import Evidence, Values
from hiddenkey.lab.claims.judge import judge
from hiddenkey.lab.claims.outline import EvidenceOutline, Place, ratio_of, record_of, trained
from hiddenkey.lab.claims.plan import COST, Claim, Scale
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.queue.jobs import State
from hiddenkey.lab.run.result import Result

_POINTS: Final = 100
_ENVIRONMENT: Final = (
    "device", "cpus", "threads", "python", "hiddenkey", "torch", "transformers", "peft",
)  # fmt: skip


def measured(result: Result) -> dict[str, float]:
    """Return the measures of a run that are numbers, in the units of ``plan.MEASURES``."""
    name = result.main_metric
    found = {
        "metric": _times(result.metrics[name].last, _POINTS),
        "best": _times(result.metrics[name].best, _POINTS),
        "gap": _times(result.gap[name], _POINTS),
        "loss": result.eval_loss.last,
    }
    return {
        measure: value
        for measure, value in found.items()
        if value is not None and math.isfinite(value)
    }


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
    for place, seed, job in outline.arm_jobs(states):
        record = record_of(states, job)
        if record is None or record.result is None:
            continue
        records[record.id] = record
        there[_key(place)] += 1
        for measure, value in measured(record.result).items():
            values[(*_key(place), measure)][seed] = value
    for place, repeat, job in outline.timing_jobs(states):
        ratio = ratio_of(states, job)
        if ratio is not None:
            values[(*_key(place), COST)][repeat] = ratio
    chosen = tuple(outline.chosen(states).values())
    for record in outline.choice_records(states):
        records[record.id] = record
    found = tuple(
        judge(claim, scale, values, _missing(claim, scale, there, values)) for claim in claims
    )
    return Evidence(
        scale=scale,
        findings=found,
        values=values,
        chosen=chosen,
        command=command,
        environments=_environments(records.values()),
        started=min((record.started for record in records.values()), default=""),
        ended=max((record.ended for record in records.values()), default=""),
        runs=len(records),
    )


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _key(place: Place) -> tuple[str, str]:
    return place.setup.name, place.arm.name


def _missing(
    claim: Claim,
    scale: Scale,
    there: Mapping[tuple[str, str], int],
    values: Values,
) -> int:
    """How many runs and measurements of a claim are not there."""
    tasks = claim.tasks.get(scale.name, ())
    runs = sum(len(scale.seeds) - there[task, arm] for task in tasks for arm in trained(claim))
    timed = {arm for c in claim.contrasts if c.measure == COST for arm in c.weights}
    return runs + sum(
        scale.repeats - len(values.get((task, arm, COST), {})) for task in tasks for arm in timed
    )


def _environments(records: Iterable[Record]) -> tuple[tuple[Mapping[str, str], int], ...]:
    counted = Counter(
        json.dumps({name: str(r.environment.get(name, "")) for name in _ENVIRONMENT})
        for r in records
    )
    return tuple((json.loads(text), count) for text, count in counted.most_common())

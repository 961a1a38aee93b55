"""What is said of all claims together: what is missing, margins, power, where it comes from."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from hiddenkey.lab.claims.findings import Evidence, Power
from hiddenkey.lab.claims.wording import margin, moment
from hiddenkey.lab.present.entries import Grid, make_grid, text
from hiddenkey.lab.present.words import count, number

READING: Final = (
    "In the tables of effects the verdict on a claim rests on the bold lines, and where there are"
    " none on each task that counts. Of the two p-values the first speaks for the claim if it is"
    " small (so clear an effect would be rare if it were not as claimed), the second against it."
)
"""How to read the tables of effects."""


def cautions(evidence: Evidence) -> tuple[str, ...]:
    """Return what a reader must know before the verdicts; nothing if all is there."""
    if not evidence.runs:
        return ("No run has finished yet, so nothing can be told of any claim.",)
    missing = [f"{f.claim.name} {f.missing}" for f in evidence.findings if f.missing]
    if not missing:
        return ()
    return (
        "Provisional: runs or measurements of the plan are not there yet, or failed:"
        f" {', '.join(missing)} (claims share runs). Effects and verdicts may change.",
    )


def when(evidence: Evidence) -> str:
    """Say how many runs there are, and from when."""
    if not evidence.runs:
        return "No run yet."
    started, ended = moment(evidence.started), moment(evidence.ended)
    end = ended.removeprefix(f"{started[:10]} ")  # the day once, if it is the same
    return f"{count(evidence.runs, 'run')}, from {started} to {end} UTC."


def plan_words(evidence: Evidence) -> tuple[str, ...]:
    """Say how large the plan is, its margins, what it could show, and how to read the tables."""
    scale = evidence.scale
    return (
        f"Here every way to train has {count(len(scale.seeds), 'seed')}.{_margins(evidence)}",
        *_power(evidence),
        READING,
    )


def environment_grids(evidence: Evidence) -> tuple[Grid, ...]:
    """Return versions and machines, a table for each distinct set."""
    return tuple(
        make_grid(
            f"environment-{index}",
            f"Versions and machine of {count(runs, 'run')}",
            ("what", "value"),
            [[text(name), text(str(value))] for name, value in environment.items()],
        )
        for index, (environment, runs) in enumerate(evidence.environments, 1)
    )


def _margins(evidence: Evidence) -> str:
    claims: dict[str, dict[str, None]] = defaultdict(dict)
    for finding in evidence.findings:
        for contrast in finding.claim.contrasts:
            if contrast.expect != "between":
                claims[margin(contrast)][finding.claim.name] = None
    if not claims:
        return ""
    parts = (f"{size} ({', '.join(names)})" for size, names in claims.items())
    return f" Margins, the smallest effects that would matter: {'; '.join(parts)}."


def _power(evidence: Evidence) -> tuple[str, ...]:
    known = [power for finding in evidence.findings for power in finding.power]
    if not known:
        return ()
    scale = evidence.scale
    widths = _range([power.half_width for power in known], 2)
    return (
        f"Before the runs: the difference of two ways to train, on one task and with the same seed,"
        f" was taken to vary by {number(scale.scatter.deviation, 2)} points (standard deviation;"
        f" {scale.scatter.source}). A question's 95 % interval was then expected to reach {widths}"
        f" points to each side. {_chances(known)}",
    )


def _chances(known: Sequence[Power]) -> str:
    detects = _range([100 * power.detects for power in known], 0)
    excludes = _range([100 * power.excludes for power in known], 0)
    return (
        f"An effect as large as its margin had a chance of {detects} % to be told from nothing, and"
        f" a method without any effect one of {excludes} % to be told from the margin."
    )


def _range(values: Sequence[float], digits: int) -> str:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "any number of"
    low, high = number(min(finite), digits), number(max(finite), digits)
    return low if low == high else f"{low} to {high}"

"""The table on top: a line for each claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hiddenkey.lab.claims.findings import Effect, Evidence, Finding, Verdict
from hiddenkey.lab.claims.plan import Scale
from hiddenkey.lab.claims.wording import effect_text
from hiddenkey.lab.present.entries import Entry, Grid, make_grid, text
from hiddenkey.lab.present.words import count

_SHOWN: Final = 6
"""Most lines of effects of a claim in the summary; its section has all of them."""


@dataclass(frozen=True)
class SummaryRow:
    """A claim in the table on top.

    Attributes:
        name: of the claim.
        title: of the claim.
        verdict: its verdict.
        headline: its effect, or how many of several questions hold.
        details: the effects of several questions.
        run: what was run, in one line.
    """

    name: str
    title: str
    verdict: Verdict
    headline: str
    details: tuple[str, ...]
    run: str


def summary_rows(evidence: Evidence) -> tuple[SummaryRow, ...]:
    """Return a row for each claim."""
    return tuple(_summary_row(finding, evidence.scale) for finding in evidence.findings)


def summary_grid(evidence: Evidence) -> Grid:
    """The table on top: claim, verdict, effect, what was run."""
    rows = [
        [
            Entry(row.name, row.name, strong=True),
            text(row.title),
            Entry(row.verdict, row.verdict, strong=True),
            Entry(row.headline, row.headline, details=row.details),
            text(row.run),
        ]
        for row in summary_rows(evidence)
    ]  # fmt: skip
    columns = ("claim", "in one line", "verdict", "effect [95 % interval]", "what was run")
    return make_grid("summary", "Summary", columns, rows)


def run_text(finding: Finding, scale: Scale) -> str:
    """Say in one line what a claim's plan runs, and how much of it is missing."""
    claim = finding.claim
    planned = claim.tasks
    if not planned:
        return f"nothing at scale {scale.name}"
    trained = claim.trained
    parts = []
    if trained:
        parts.append(
            f"{count(len(trained), 'configuration')} × {count(len(planned), 'task')} ×"
            f" {count(len(scale.seeds), 'seed')}"
        )
    if claim.timed:
        parts.append(f"step time of {len(claim.timed)} × {count(scale.repeats, 'repeat')}")
    if finding.left_out and any(effect.mean is not None for effect in finding.by_task):
        parts.append(f"{count(len(finding.left_out), 'task')} left out")
    if finding.missing:
        parts.append(f"{finding.missing} missing")
    return ", ".join(parts)


def _summary_row(finding: Finding, scale: Scale) -> SummaryRow:
    headline, details = _headline(finding)
    return SummaryRow(
        name=finding.claim.name,
        title=finding.claim.title,
        verdict=finding.verdict,
        headline=headline,
        details=details,
        run=run_text(finding, scale),
    )


def _headline(finding: Finding) -> tuple[str, tuple[str, ...]]:
    asked = finding.questions
    if all(effect.mean is None for effect in asked):
        return "no value yet", ()
    shown = [f"{_label(effect)}: {effect_text(effect)}" for effect in asked]
    if len(asked) == 1:
        return shown[0], ()
    verdicts = [effect.verdict for effect in asked]
    tally = (
        f"{verdicts.count('holds')} of {len(asked)} questions hold (needed: {finding.needed}),"
        f" {verdicts.count('does not hold')} do not, {verdicts.count('cannot tell')} are open"
    )
    if len(shown) > _SHOWN:
        shown = [*shown[: _SHOWN - 1], f"and {len(shown) - _SHOWN + 1} more below"]
    return tally, tuple(shown)


def _label(effect: Effect) -> str:
    return effect.contrast.name + (f", {effect.task}" if effect.task else "")

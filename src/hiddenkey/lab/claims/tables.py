"""The tables of what came out; the page and Markdown print the same."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Final

from hiddenkey.lab.claims.effects import gain, level
from hiddenkey.lab.claims.findings import Effect, Evidence, Finding, Values
from hiddenkey.lab.claims.plan import BASELINE, COST, MEASURES, Claim, Drawing
from hiddenkey.lab.claims.wording import (
    bounds,
    difference,
    expectation,
    margin,
    p_value,
    value,
)
from hiddenkey.lab.evidence.comparisons import describe
from hiddenkey.lab.present.entries import Entry, Grid, make_grid, numeric, text
from hiddenkey.lab.present.words import MISSING, listing

_MEAN: Final = "mean over tasks"


def effects_grid(finding: Finding) -> Grid:
    """Every contrast of a claim, over the tasks and on each."""
    rows = [
        _effect_row(effect, () if effect.contrast.measure == COST else finding.left_out)
        for effect in finding.effects
    ]
    columns = (
        "question", "on", "effect", "95 % interval", "verdict", "seeds", "the claim expects",
        "margin", "p if not as claimed", "p if as claimed",
    )  # fmt: skip
    return make_grid(f"effects-{finding.claim.name}", "Effects", columns, rows)


def picture_grid(finding: Finding, drawing: Drawing, evidence: Evidence) -> Grid:
    """A table of arms by two axes, each with its difference to plain LoRA."""
    values, measure = evidence.values, drawing.measure
    tasks = finding.tasks(measure)
    columns = list(dict.fromkeys(name for cells in drawing.cells.values() for name in cells))
    rows = [
        [
            text(row),
            *(_placed(values, tasks, cells.get(column), measure) for column in columns),
        ]
        for row, cells in drawing.cells.items()
    ]
    plain = level(values, tasks, BASELINE, measure)
    notes = (
        f"{_capital(MEASURES[measure])}; {_mean_of(tasks)}; mean ± standard deviation over the"
        f" seeds. Below it the difference to plain LoRA, which has {_spread(plain).text}, seed by"
        " seed, with its 95 % interval.",
    )
    name = f"grid-{finding.claim.name}-{finding.claim.drawings.index(drawing) + 1}"
    return make_grid(name, drawing.title, ("", *columns), rows, notes)


def measures_of(claim: Claim) -> tuple[str, ...]:
    """Return the measures that a claim compares or shows."""
    used = {contrast.measure for contrast in claim.contrasts}
    used |= {drawing.measure for drawing in claim.drawings if drawing.kind != "effects"}
    return tuple(measure for measure in MEASURES if measure in used)


def values_grid(finding: Finding, evidence: Evidence, measure: str) -> Grid:
    """Mean ± standard deviation of every name of a claim on every task."""
    tasks = finding.claim.tasks
    rows = []
    for name in dict.fromkeys((BASELINE, *finding.claim.configurations)):
        found = [level(evidence.values, [task], name, measure) for task in tasks]
        if any(effect.values for effect in found):
            rows.append([text(name), *(_spread(effect, seeds=True) for effect in found)])
    name = f"values-{finding.claim.name}-{measure.replace(' ', '-')}"
    title = _capital(MEASURES[measure])
    repeated = "repeats" if measure == COST else "seeds"
    notes = (f"Mean ± standard deviation (number of {repeated}).",)
    return make_grid(name, title, ("configuration", *tasks), rows, notes)


def _effect_row(effect: Effect, left_out: Container[str | None]) -> list[Entry]:
    contrast, measure = effect.contrast, effect.contrast.measure
    out = effect.task in left_out and effect.mean is not None
    return [
        Entry(contrast.name, contrast.name, strong=effect.task is None),
        text(effect.task or _MEAN),
        numeric(effect.mean, difference(effect.mean, measure)),
        text(bounds(effect.interval, measure)),
        text("left out" if out else effect.verdict),
        numeric(len(effect.values), f"{len(effect.values)}"),
        text(expectation(contrast)),
        text(MISSING if contrast.expect == "between" else margin(contrast)),
        numeric(effect.p_holds, p_value(effect.p_holds)),
        numeric(effect.p_fails, p_value(effect.p_fails)),
    ]


def _placed(values: Values, tasks: Sequence[str], name: str | None, measure: str) -> Entry:
    """A cell of a table of arms."""
    if name is None:
        return Entry(MISSING, None)
    entry = _spread(level(values, tasks, name, measure))
    found = gain(values, tasks, name, measure)
    if name == BASELINE or found.mean is None:
        return entry
    parts = [difference(found.mean, measure)]
    parts += [] if found.interval is None else [bounds(found.interval, measure)]
    return Entry(entry.text, entry.value, details=(" ".join(parts),))


def _spread(found: Effect, *, seeds: bool = False) -> Entry:
    if found.mean is None:
        return Entry(MISSING, None)
    measure, varies = found.contrast.measure, describe(found.values).deviation
    shown = value(found.mean, measure)
    if varies is not None:
        shown += f" ± {value(varies, measure)}"
    return Entry(f"{shown} ({len(found.values)})" if seeds else shown, found.mean)


def _mean_of(tasks: Sequence[str]) -> str:
    return f"mean of {listing(tasks, 9)}" if len(tasks) > 1 else listing(tasks) or "no task counts"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]

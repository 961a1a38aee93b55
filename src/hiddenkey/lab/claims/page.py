"""The page of the claims: one HTML file with its style and figures inside, without a script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from hiddenkey.lab.claims.findings import Evidence, Finding, Verdict
from hiddenkey.lab.claims.plan import COST, Claim
from hiddenkey.lab.claims.plan_tables import (
    chosen_grid,
    environment_grids,
    power_grid,
    scores_grid,
    tasks_grid,
)
from hiddenkey.lab.claims.rule import RULE
from hiddenkey.lab.claims.sentences import cautions, plan_words, when
from hiddenkey.lab.claims.summary import SummaryRow, summary_rows
from hiddenkey.lab.claims.tables import effects_grid, measures_of, picture_grid, values_grid
from hiddenkey.lab.present.entries import Grid
from hiddenkey.lab.present.markup import Picture, read_asset
from hiddenkey.lab.present.markup import render_page as render

_PACKAGE: Final = "hiddenkey.lab.claims"
_VERDICTS: Final[tuple[str, ...]] = get_args(Verdict)


@dataclass(frozen=True)
class Section:
    """A claim on the page.

    Attributes:
        id: of the section.
        claim: the claim.
        summary: its line in the summary.
        sentences: what the verdict rests on.
        grids: tables that stand open.
        folded: tables that open on a press.
        pictures: its figures.
    """

    id: str
    claim: Claim
    summary: SummaryRow
    sentences: tuple[str, ...]
    grids: tuple[Grid, ...]
    folded: tuple[Grid, ...]
    pictures: tuple[Picture, ...]


def render_page(evidence: Evidence, pictures: Iterable[Picture]) -> str:
    """Return the page as HTML text.

    Args:
        evidence: what to say.
        pictures: the figures of :func:`~hiddenkey.lab.claims.figures.list_plots`, drawn.
    """
    drawn = list(pictures)
    rows = zip(evidence.findings, summary_rows(evidence), strict=True)
    return render(
        "claims.html",
        _PACKAGE,
        scale=evidence.scale,
        when=when(evidence),
        cautions=cautions(evidence),
        sections=[
            _section(index, finding, row, evidence, drawn)
            for index, (finding, row) in enumerate(rows, 1)
        ],
        rule=RULE.split("\n\n"),
        plan=plan_words(evidence),
        power=power_grid(evidence),
        chosen=chosen_grid(evidence),
        scores=scores_grid(evidence),
        command=evidence.command,
        environments=environment_grids(evidence),
        style=read_asset("claims.css", _PACKAGE),
        verdicts=_VERDICTS,
    )


def _section(
    index: int, finding: Finding, row: SummaryRow, evidence: Evidence, pictures: Sequence[Picture]
) -> Section:
    claim = finding.claim
    tables = [picture for picture in claim.drawings if picture.kind == "grid"]
    values = {measure: values_grid(finding, evidence, measure) for measure in measures_of(claim)}
    cost = (values.pop(COST),) if COST in values else ()
    return Section(
        id=f"claim-{index}",
        claim=claim,
        summary=row,
        sentences=finding.sentences,
        grids=_with_rows(
            effects_grid(finding),
            *(picture_grid(finding, picture, evidence) for picture in tables),
            *cost,
        ),
        folded=_with_rows(tasks_grid([finding], evidence), *values.values()),
        pictures=tuple(picture for picture in pictures if picture.plot.kind == claim.name),
    )


def _with_rows(*grids: Grid) -> tuple[Grid, ...]:
    return tuple(grid for grid in grids if grid.rows)

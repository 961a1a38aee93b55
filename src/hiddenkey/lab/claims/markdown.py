"""The claims as a section of a results page, in GitHub's Markdown."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from hiddenkey.lab.claims.figures import list_plots
from hiddenkey.lab.claims.findings import Evidence, Finding
from hiddenkey.lab.claims.plan_tables import chosen_grid, tasks_grid
from hiddenkey.lab.claims.rule import RULE
from hiddenkey.lab.claims.sentences import cautions, plan_words, when
from hiddenkey.lab.claims.summary import run_text, summary_grid
from hiddenkey.lab.claims.tables import effects_grid, picture_grid
from hiddenkey.lab.present.canvas import Plot
from hiddenkey.lab.present.entries import Grid
from hiddenkey.lab.present.formats import escape_markdown, markdown_table

_WIDTH: Final = 100
_MARK: Final = re.compile(r" (?=(?:\d+[.)]|[-+]) )")
"""The space before what would begin a list at the start of a line."""


def markdown(evidence: Evidence) -> str:
    """Return the section, headed by its date; pictures are expected in the same folder."""
    return "\n\n".join(part.rstrip() for part in _parts(evidence)) + "\n"


def _parts(evidence: Evidence) -> Iterator[str]:
    plots = list_plots(evidence)
    date = evidence.ended[:10]
    title = f"The paper's claims, scale {evidence.scale.name}"
    yield f"## {f'{date} · ' if date else ''}{escape_markdown(title)}"
    yield f"    {evidence.command}"
    yield _prose(f"{evidence.scale.summary.rstrip('.')}. {when(evidence)}")
    for environment, runs in evidence.environments:
        listed = ", ".join(f"{name} {value}" for name, value in environment.items())
        yield _prose(f"{runs} of the runs: {listed}.")
    yield from (_prose(words, "> ") for words in cautions(evidence))
    yield _table(summary_grid(evidence))
    yield from map(_prose, (*RULE.split("\n\n"), *plan_words(evidence)))
    for finding in evidence.findings:
        yield from _claim(finding, evidence, plots)
    tasks = tasks_grid(evidence.findings, evidence)
    for title, grid in (("Tasks", tasks), ("Chosen settings", chosen_grid(evidence))):
        if grid.rows:
            yield f"### {title}"
            yield _table(grid)


def _claim(finding: Finding, evidence: Evidence, plots: Sequence[Plot]) -> Iterator[str]:
    claim = finding.claim
    yield f"### {escape_markdown(f'{claim.name}: {claim.title}: {finding.verdict}')}"
    yield _prose(f"The paper: {claim.paper}")
    yield _prose(f"The test: {claim.how}")
    yield _prose(f"What was run: {run_text(finding, evidence.scale)}.")
    yield "\n".join(_prose(words, "- ") for words in finding.sentences)
    yield _table(effects_grid(finding))
    for picture in claim.drawings:
        if picture.kind == "grid":
            yield f"{escape_markdown(picture.title)}:"
            yield _table(picture_grid(finding, picture, evidence))
    for plot in plots:
        if plot.kind == claim.name:
            yield f"![{escape_markdown(f'{plot.title}. {plot.alt}')}]({plot.name}.png)"
            yield _prose(f"{plot.title}. {plot.caption}")


def _table(grid: Grid) -> str:
    table = markdown_table(dataclasses.replace(grid, notes=()))
    return "\n".join((table, *map(_prose, grid.notes)))


def _prose(words: str, mark: str = "") -> str:
    """Return words in lines as long as those of the other documents."""
    kept = _MARK.sub("\u00a0", escape_markdown(words))
    lines = textwrap.fill(
        kept, _WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return lines.replace("\u00a0", " ")

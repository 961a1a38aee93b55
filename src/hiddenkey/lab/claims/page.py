"""The folder of the claims: page in HTML, section in Markdown, pictures and values."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from hiddenkey.lab.claims.breakdown_tables import (
    RUNS,
    breakdown_cautions,
    broken_grid,
    remainders_grid,
)
from hiddenkey.lab.claims.effects import Effect, Verdict
from hiddenkey.lab.claims.figures import list_plots
from hiddenkey.lab.claims.findings import Evidence, Ruling
from hiddenkey.lab.claims.plan import COST, MEASURES
from hiddenkey.lab.claims.sentences import RULE, cautions, plan_words, run_text, when
from hiddenkey.lab.claims.tables import (
    chosen_grid,
    drawing_grid,
    effects_grid,
    environment_grids,
    measures_grid,
    power_grid,
    scores_grid,
    summary_grid,
    tasks_grid,
    values_grid,
)
from hiddenkey.lab.present.entries import Grid
from hiddenkey.lab.present.files import page_folder
from hiddenkey.lab.present.formats import escape_markdown, markdown_table
from hiddenkey.lab.present.markup import Picture, Section, read_asset
from hiddenkey.lab.present.markup import render_page as render

PAGE: Final = "index.html"
TEXT: Final = "claims.md"
VALUES: Final = "evidence.json"
_PICTURE: Final = re.compile(r"claims_[a-z0-9_]+\.(png|svg)")

_PACKAGE: Final = "hiddenkey.lab.claims"
_WIDTH: Final = 100
_MARK: Final = re.compile(r" (?=(?:\d+[.)]|[-+]) )")
"""The space before what would begin a list at the start of a line."""


def write(evidence: Evidence, folder: Path) -> Path:
    """Write ``index.html``, ``claims.md``, ``evidence.json`` and the pictures.

    Each file appears whole, the page last. Pictures of an earlier page that this one does not have
    are removed.

    Args:
        evidence: what to say.
        folder: where to; made if it is not there.

    Returns:
        The page's path.

    Raises:
        ConfigError: if the folder cannot be written.
    """
    with page_folder(folder) as out:
        pictures = out.draw(list_plots(evidence))
        out.write_values(VALUES, to_plain(evidence))
        out.write(TEXT, markdown(evidence, pictures))
        page = out.write(PAGE, render_page(evidence, pictures))
        names = {picture.plot.name for picture in pictures}
        for path in list(folder.iterdir()):
            if _PICTURE.fullmatch(path.name) and path.stem not in names:
                path.unlink(missing_ok=True)
    return page


def render_page(evidence: Evidence, pictures: Sequence[Picture]) -> str:
    """Return the page as HTML text.

    Args:
        evidence: what to say.
        pictures: the figures of :func:`~hiddenkey.lab.claims.figures.list_plots`, drawn.
    """
    return render(
        "claims.html",
        _PACKAGE,
        evidence=evidence,
        when=when(evidence),
        cautions=(*cautions(evidence), *breakdown_cautions(evidence)),
        summary=summary_grid(evidence),
        parts=[
            (finding, _section(finding, evidence, pictures, f"claim-{index}"))
            for index, finding in enumerate(evidence.findings, 1)
        ],
        rule=(*RULE.split("\n\n"), *plan_words(evidence)),
        measures=_with_rows(measures_grid(evidence)),
        breakdowns=_with_rows(broken_grid(evidence), remainders_grid(evidence)),
        broken_title=RUNS,
        power=power_grid(evidence),
        chosen=_with_rows(chosen_grid(evidence), scores_grid(evidence)),
        environments=environment_grids(evidence),
        style=read_asset("claims.css", _PACKAGE),
        verdicts=get_args(Verdict),
    )


def markdown(evidence: Evidence, pictures: Sequence[Picture]) -> str:
    """Return the section, headed by its date; pictures are expected in the same folder."""
    blocks = _blocks(evidence, pictures)
    return "\n\n".join(block.rstrip() for block in blocks) + "\n"


def _section(
    finding: Ruling, evidence: Evidence, pictures: Iterable[Picture], anchor: str = ""
) -> Section:
    """A claim: what was run, its tables and figures; values by task are folded."""
    claim = finding.claim
    used = {contrast.measure for contrast in claim.contrasts}
    used |= {drawing.measure for drawing in claim.pictures if drawing.kind != "effects"}
    values = {name: values_grid(finding, evidence, name) for name in MEASURES if name in used}
    cost = [values.pop(COST)] if COST in values else []
    drawn = [drawing_grid(finding, d, evidence) for d in claim.pictures if d.kind == "grid"]
    return Section(
        id=anchor,
        title=f"{claim.name} {claim.title}",
        words=(run_text(finding, evidence.scale),),
        grids=_with_rows(effects_grid(finding), *drawn, *cost),
        folded=_with_rows(tasks_grid([finding], evidence), *values.values()),
        pictures=tuple(picture for picture in pictures if picture.plot.kind == claim.name),
    )


def _blocks(evidence: Evidence, pictures: Sequence[Picture]) -> Iterator[str]:
    title = escape_markdown(f"Claims, scale {evidence.scale.name}")
    yield f"## {f'{evidence.ended[:10]} · ' if evidence.ended else ''}{title}"
    yield f"    {evidence.command}"
    yield _prose(f"{evidence.scale.summary.rstrip('.')}. {when(evidence)}")
    for environment, runs in evidence.environments:
        listed = ", ".join(f"{name} {value}" for name, value in environment.items())
        yield _prose(f"{runs} of the runs: {listed}.")
    told = (*cautions(evidence), *breakdown_cautions(evidence))
    yield from (_prose(words, "> ") for words in told)
    yield _table(summary_grid(evidence))
    yield from map(_prose, (*RULE.split("\n\n"), *plan_words(evidence)))
    for finding in evidence.findings:
        yield from _claim(finding, _section(finding, evidence, pictures))
    tables = (
        broken_grid(evidence),
        remainders_grid(evidence),
        measures_grid(evidence),
        tasks_grid(evidence.findings, evidence),
        chosen_grid(evidence),
    )
    for grid in _with_rows(*tables):
        yield f"### {grid.title}"
        yield _table(grid)


def _claim(finding: Ruling, section: Section) -> Iterator[str]:
    claim = finding.claim
    yield f"### {escape_markdown(f'{claim.name}: {claim.title}: {finding.verdict}')}"
    yield _prose(f"The paper: {claim.paper}")
    yield _prose(f"The test: {claim.how}")
    yield from (_prose(f"What was run: {words}.") for words in section.words)
    yield "\n".join(_prose(words, "- ") for words in finding.sentences)
    for index, grid in enumerate(section.grids):
        if index:
            yield f"{escape_markdown(grid.title)}:"
        yield _table(grid)
    for picture in section.pictures:
        plot = picture.plot
        yield f"![{escape_markdown(f'{plot.title}. {plot.alt}')}]({plot.name}.png)"
        yield _prose(f"{plot.title}. {plot.caption}")


def _with_rows(*grids: Grid) -> tuple[Grid, ...]:
    return tuple(grid for grid in grids if grid.rows)


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


def to_plain(evidence: Evidence) -> dict[str, Any]:
    """Return all values, effects and verdicts by name."""
    return {
        "scale": evidence.scale.name,
        "summary": evidence.scale.summary,
        "seeds": evidence.scale.seeds,
        **_fields(evidence, "command", "runs", "started", "ended"),
        "environments": [{"runs": runs, **found} for found, runs in evidence.environments],
        "claims": [_finding(finding) for finding in evidence.findings],
        "chosen": [
            {
                **_fields(found, "task", "choice", "runs"),
                **found.setting._asdict(),
                "scores": [
                    {**tried._asdict(), "held_out": score} for tried, score in found.scores.items()
                ],
            }
            for found in evidence.chosen
        ],
        "values": [
            {
                "task": task,
                "configuration": name,
                "measure": measure,
                "by_seed": dict(sorted(found.items())),
            }
            for (task, name, measure), found in evidence.values.items()
        ],
    }


def _finding(finding: Ruling) -> dict[str, Any]:
    return {
        "claim": finding.claim.name,
        "title": finding.claim.title,
        **_fields(finding, "verdict", "p_holds", "p_fails", "needed", "sentences", "missing"),
        "left_out": finding.left_out,
        "questions": [_effect(effect) for effect in finding.questions],
        "by_task": [_effect(effect) for effect in finding.by_task],
        "power": [
            {
                "contrast": power.contrast.name,
                "seeds": power.design.pairs,
                "tasks": power.design.tasks,
                **_fields(power, "half_width", "detects", "excludes", "needed"),
            }
            for power in finding.power
        ],
    }


def _effect(effect: Effect) -> dict[str, Any]:
    contrast, (low, high) = effect.contrast, effect.interval or (None, None)
    over_tasks = effect.interval_over_tasks or (None, None)
    return {
        "question": contrast.name,
        **_fields(contrast, "measure", "expect", "margin"),
        "weights": contrast.weights,
        "expected_low": contrast.low,
        "expected_high": contrast.high,
        **_fields(effect, "task", "values", "mean", "p_holds", "p_fails", "verdict"),
        "low": low,
        "high": high,
        "low_over_tasks": over_tasks[0],
        "high_over_tasks": over_tasks[1],
    }


def _fields(found: object, *names: str) -> dict[str, Any]:
    return {name: getattr(found, name) for name in names}

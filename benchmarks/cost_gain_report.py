"""What ``cost_gain.py`` shows: stored results → rows → tables and picture."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import markdown
from hiddenkey.lab.evidence.comparisons import PairedComparison, compare_paired
from hiddenkey.lab.present.canvas import COLOURS, INK, Plot, render, standalone
from hiddenkey.lab.run.result import Result

EQUAL_STEPS, EQUAL_TIME = COMPARISONS = ("equal steps", "equal time")
LORA, EXACT = "lora", "every1-fraction1"
"""The settings that all others are compared with: no noise, and the exact loss on one branch."""

Key = tuple[str, str, int]
"""Comparison, name of the setting, seed."""


@dataclass(frozen=True)
class Setting:
    """One point of the curve.

    Attributes:
        name: as in the names of folders.
        label: for readers.
        method: dropout method.
        every: the consistency loss is in every n-th step; ``None`` without the loss.
        fraction: of a batch in it; ``None`` without the loss.
        changes: further options of its runs.
    """

    name: str
    label: str
    method: str
    every: int | None = None
    fraction: float | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_on_grid(self) -> bool:
        return self.every is not None and not self.changes


@dataclass(frozen=True)
class Measure:
    """One value of a setting after the last step, over its seeds.

    Attributes:
        values: by seed, in ascending order of the seeds.
        mean: over the seeds.
        deviation: standard deviation over the seeds.
        to_lora: minus LoRA, paired by seed; ``None`` for LoRA itself.
        to_exact: minus HiddenKey with the exact loss; ``None`` for that setting itself.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float
    to_lora: PairedComparison | None
    to_exact: PairedComparison | None


@dataclass(frozen=True)
class Row:
    """One setting in one comparison.

    Attributes:
        comparison: equal steps or equal time.
        setting: what was trained.
        cost: seconds per step relative to LoRA, steps taking turns in one process.
        steps: that it trained.
        ms_in_runs: milliseconds per step in the runs, median over seeds, beside other runs.
        accuracy: on the evaluation examples.
        loss: evaluation loss.
    """

    comparison: str
    setting: Setting
    cost: float
    steps: int
    ms_in_runs: float
    accuracy: Measure
    loss: Measure


def tabulate(
    settings: Sequence[Setting], costs: Mapping[str, float], results: Mapping[Key, Result]
) -> list[Row]:
    """Return a row for each comparison and setting, over the seeds of ``results``."""
    seeds = sorted({seed for _, _, seed in results})

    def row(comparison: str, setting: Setting) -> Row:
        names = {setting.name, LORA, EXACT}
        of = {name: [results[comparison, name, seed] for seed in seeds] for name in names}
        own, lora, exact = of[setting.name], of[LORA], of[EXACT]
        return Row(
            comparison,
            setting,
            costs[setting.name],
            own[0].steps,
            1000 * statistics.median(result.seconds_per_step for result in own),
            _measure(lambda result: result.metrics["accuracy"].last, own, lora, exact, True),
            _measure(lambda result: result.eval_loss.last, own, lora, exact, False),
        )

    return [row(comparison, setting) for comparison in COMPARISONS for setting in settings]


def _measure(
    value: Callable[[Result], float | None],
    own: Sequence[Result],
    lora: Sequence[Result],
    exact: Sequence[Result],
    larger_is_better: bool,
) -> Measure:
    def minus(other: Sequence[Result]) -> PairedComparison | None:
        if other is own:
            return None
        theirs = [value(result) for result in other]
        return compare_paired(values, theirs, larger_is_better=larger_is_better)

    values = [value(result) for result in own]
    return Measure(
        tuple(values), statistics.mean(values), statistics.stdev(values), minus(lora), minus(exact)
    )


def table(rows: Sequence[Row], comparison: str) -> str:
    """Return one comparison as a Markdown table."""
    columns = ["setting", "s/step", "steps"]
    for measure in ("accuracy", "evaluation loss"):
        columns += [measure, "− LoRA", "− exact loss"]
    lines = [
        [row.setting.label, f"{row.cost:.2f}", row.steps, *_cells(row.accuracy), *_cells(row.loss)]
        for row in rows
        if row.comparison == comparison
    ]
    return markdown(columns, lines)


def note(rows: Sequence[Row]) -> str:
    """Say how the tables are to be read, and what their number of seeds can show."""
    found = next(row.accuracy.to_lora for row in rows if row.accuracy.to_lora is not None)
    return (
        f"s/step: relative to LoRA. Mean ± standard deviation over {found.count} seeds after the"
        " last step; differences are paired by seed, with Student's 95 % interval, not corrected"
        " for their number. Exact loss: every 1, fraction 1, one branch."
    )


def _cells(measure: Measure) -> list[str]:
    spread = f"{measure.mean:.3f} ± {measure.deviation:.3f}"
    return [spread, _difference(measure.to_lora), _difference(measure.to_exact)]


def _difference(found: PairedComparison | None) -> str:
    if found is None:
        return ""
    numbers = (round(value, 3) + 0.0 for value in (found.difference, found.low, found.high))
    difference, low, high = (f"{value:+.3f}".replace("-", "−") for value in numbers)
    return f"{difference} ({low} to {high})"


_FRACTION_COLOURS = {1.0: COLOURS[0], 0.5: COLOURS[2], 0.25: COLOURS[1]}
_EVERY_MARKERS = {1: "o", 2: "^", 4: "D"}
_OTHER_MARKERS = {"lora": "s", "minus": "v", "both": "P", "top-half": "*", "bfloat16": "X"}
_LABELS = {LORA: "LoRA", EXACT: "exact loss", "both": "both branches"}
_SIZES = {"*": 11, "X": 8, "P": 8.5, "^": 7.5, "v": 7.5, "D": 6, "o": 7, "s": 7}
_TICKS = (1, 1.1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3)
_SIZE = (9.0, 7.6)
"""Inches; at 900 pixels the text is about as large as a page's."""


def draw(rows: Sequence[Row], picture: Path) -> None:
    """Write the curve as SVG, with its text as text, and as PNG beside it."""
    plot = Plot(
        name="cost_gain",
        kind="cost-gain",
        budget="steps",
        task="",
        title="Cost and gain of the consistency loss",
        caption="",
        alt="",
        height=_SIZE[1],
        draw=lambda figure: _draw(figure, rows),
    )
    svg, png = render(plot)
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.with_suffix(".svg").write_text(standalone(svg), encoding="utf-8")
    picture.with_suffix(".png").write_bytes(png)


def _draw(figure: Any, rows: Sequence[Row]) -> None:
    figure.set_size_inches(_SIZE)  # wider than the figures of a report, since it has two columns
    panels = figure.subplots(2, 2, sharex=True, sharey="col")
    titles = {
        EQUAL_STEPS: f"{EQUAL_STEPS} ({rows[0].steps} each)",
        EQUAL_TIME: f"{EQUAL_TIME} (as long as {rows[0].steps} steps of LoRA)",
    }
    for line, comparison in zip(panels, COMPARISONS, strict=True):
        own = [row for row in rows if row.comparison == comparison]
        for axes, measure in zip(line, ("accuracy", "loss"), strict=True):
            _panel(axes, own, measure)
            axes.set_title(titles[comparison], fontweight="bold")
    for line in panels:
        line[0].set_ylabel("accuracy minus LoRA's (higher is better)")
        line[1].set_ylabel("evaluation loss minus LoRA's (lower is better)")
    for axes in panels[1]:
        axes.set_xlabel("seconds per step relative to LoRA (logarithmic)")
    seeds = len(rows[0].accuracy.values)
    figure.suptitle(
        f"After the last step: mean difference to LoRA over {seeds} seeds and its 95 % interval"
        " (Student's t, paired by seed)", fontsize=9.5,
    )  # fmt: skip
    figure.legend(handles=_legend(rows), loc="outside lower center", ncols=4, handlelength=1.8)


def _panel(axes: Any, rows: Sequence[Row], measure: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:g}"))
    axes.axhline(0, color=INK, linewidth=1.0, zorder=1)
    for fraction, colour in _FRACTION_COLOURS.items():
        grid = [r for r in rows if r.setting.is_on_grid and r.setting.fraction == fraction]
        points = sorted((row.cost, _height(row, measure)) for row in grid)
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, alpha=0.6, zorder=2)
    for row in rows:
        _point(axes, row, measure)
        if row.setting.name in _LABELS:
            _label(axes, row, measure)
    axes.margins(x=0.11, y=0.09)
    axes.set_xlim(left=0.9)  # room for LoRA's name


def _point(axes: Any, row: Row, measure: str) -> None:
    colour, marker, face = _look(row.setting)
    found = getattr(row, measure).to_lora
    if found is not None:
        axes.vlines(row.cost, found.low, found.high, color=colour, linewidth=1.1, alpha=0.75)
    axes.plot(
        row.cost, _height(row, measure), marker, color=colour, markerfacecolor=face,
        markersize=_SIZES[marker], markeredgecolor=colour if face == "white" else "white",
        markeredgewidth=1.4 if face == "white" else 0.6, zorder=4,
    )  # fmt: skip


def _label(axes: Any, row: Row, measure: str) -> None:
    """Name a point that stands alone: above its interval, or LoRA's at the left of all others."""
    found = getattr(row, measure).to_lora
    height, shift, side = (
        (0.0, (-5, 2), "right") if found is None else (found.high, (0, 2), "center")
    )
    axes.annotate(
        _LABELS[row.setting.name], (row.cost, height), shift, textcoords="offset points",
        ha=side, va="bottom", fontsize=8, color=_look(row.setting)[0],
    )  # fmt: skip


def _height(row: Row, measure: str) -> float:
    found = getattr(row, measure).to_lora
    return 0.0 if found is None else found.difference


def _look(setting: Setting) -> tuple[str, str, str]:
    """Return colour, marker and fill: colour tells the fraction, a filled marker the cycle."""
    colour = INK if setting.fraction is None else _FRACTION_COLOURS[setting.fraction]
    if setting.is_on_grid:
        return colour, _EVERY_MARKERS[setting.every or 1], colour
    return colour, _OTHER_MARKERS[setting.name], colour if setting.name == LORA else "white"


def _legend(rows: Sequence[Row]) -> list[Any]:
    from matplotlib.lines import Line2D

    def key(label: str, colour: str, marker: str = "", face: str | None = None) -> Line2D:
        return Line2D(
            [], [], color=colour, marker=marker, linestyle="none" if marker else "-",
            markersize=_SIZES.get(marker), markerfacecolor=face or colour, label=label,
        )  # fmt: skip

    words = {1: "every step", 2: "every 2nd step", 4: "every 4th step"}
    shares = {1.0: "whole batch", 0.5: "half of a batch", 0.25: "a quarter of a batch"}
    others = [r.setting for r in rows if r.comparison == EQUAL_STEPS and not r.setting.is_on_grid]
    return [
        *(key(shares[share], colour) for share, colour in _FRACTION_COLOURS.items()),
        *(key(words[every], "#777777", marker) for every, marker in _EVERY_MARKERS.items()),
        *(key(setting.label, *_look(setting)) for setting in others),
    ]

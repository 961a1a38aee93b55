"""Points of every seed, of cost against gain, and of average ranks over the tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from hiddenkey.lab.evidence.axes import RunConfiguration
from hiddenkey.lab.evidence.cells import Cell
from hiddenkey.lab.evidence.comparisons import PairedComparison
from hiddenkey.lab.present.canvas import (
    COLOURS,
    INK,
    ROW,
    Figure,
    Palette,
    Plot,
    place,
)
from hiddenkey.lab.present.drawing import (
    IntervalRow,
    add_legend,
    draw_intervals,
    labelled_rows,
    legend_height,
)
from hiddenkey.lab.present.words import interval, number, signed
from hiddenkey.lab.report.tables import Scope, TaskTable


def seed_plots(scope: Scope, table: TaskTable, palette: Palette) -> Iterator[Plot]:
    """Yield the figures of single seeds: values, and differences to the baseline."""
    cells = [
        cell
        for configuration in scope.configurations
        if (cell := table.find(configuration, "last")) and cell.values
    ]
    metric, baseline = table.task.metric, palette.baseline
    larger = all(cell.measure.larger_is_better for cell in cells)
    values, differences = _rows(cells, palette)
    if values:
        yield Plot(
            kind="seeds",
            title=f"{metric} of every seed",
            caption=(
                "After the last step. Small points: one run each; large point and line: mean and"
                " its 95 % interval (Student's t)."
            ),
            alt=_values_alt(metric, values),
            height=ROW * len(values) + 0.8,
            draw=lambda figure: _draw_rows(figure, values, metric),
        )
    if differences:
        label = f"difference in {metric}"
        yield Plot(
            kind="differences",
            title=f"difference to {baseline}, seed by seed",
            caption=(
                f"{metric} after the last step minus {baseline}'s of the same seed. Small points:"
                " one pair each; large point and line: mean and its interval (Student's t, after"
                f" Holm's correction). {'Right' if larger else 'Left'} of the zero line is better."
            ),
            alt=_differences_alt(metric, baseline, differences),
            height=ROW * len(differences) + 0.8,
            draw=lambda figure: _draw_rows(figure, differences, label, zero=True),
        )


def _rows(cells: Sequence[Cell], palette: Palette) -> tuple[list[IntervalRow], list[IntervalRow]]:
    """Values, and differences to the baseline, of each configuration."""
    by_label = {cell.configuration.label: dict(cell.values) for cell in cells}
    values, differences = [], []
    for cell in cells:
        label, look, own = (
            cell.configuration.label,
            palette.style(cell.configuration.method),
            by_label[cell.configuration.label],
        )
        if (found := cell.description) is not None:
            shown = tuple(own.values())
            values.append(IntervalRow(label, look, found.mean, found.interval(), shown))
        if (compared := cell.comparison) is not None:
            base = by_label[cell.against or ""]
            shown = tuple(value - base[seed] for seed, value in own.items() if seed in base)
            mean, bounds = compared.difference, compared.interval
            differences.append(IntervalRow(label, look, mean, bounds, shown))
    return values, differences


def _draw_rows(
    figure: Figure, rows: Sequence[IntervalRow], xlabel: str, *, zero: bool = False
) -> None:
    axes = labelled_rows(figure, [row.label for row in rows])
    if zero:
        axes.axvline(0, color=INK, linewidth=1)
    draw_intervals(axes, rows, below=0.27)
    axes.set_xlabel(xlabel)


def _values_alt(metric: str, rows: Sequence[IntervalRow]) -> str:
    parts = [
        f"{row.label}: mean {number(row.mean)}, from {number(min(row.values))} to"
        f" {number(max(row.values))}"
        for row in rows
    ]
    return f"Points of {metric} by configuration. {'; '.join(parts)}."


def _differences_alt(metric: str, baseline: str, rows: Sequence[IntervalRow]) -> str:
    parts = [
        f"{row.label}: {signed(row.mean)} {interval(*(row.interval or (None, None)), sign=True)}"
        for row in rows
    ]
    return f"Differences in {metric} to {baseline}. {'; '.join(parts)}."


def cost_plots(scope: Scope, table: TaskTable, palette: Palette) -> Iterator[Plot]:
    """Yield the figure of gain over relative time; time-matched runs cost the same."""
    better = "Up"
    by_method: dict[str, list[tuple[RunConfiguration, float, PairedComparison]]] = defaultdict(list)
    for cost in table.costs:
        if cost.gain is not None and cost.time is not None:
            by_method[cost.configuration.method].append(
                (cost.configuration, cost.time.value, cost.gain)
            )
            better = "Up" if cost.gain.larger_is_better else "Down"
    if not by_method or scope.budget == "time":
        return
    baseline, metric = palette.baseline, table.task.metric
    look = palette.styles((method, method) for method in by_method)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(0, color=INK, linewidth=1)
        axes.plot([1], [0], color=INK, marker="s", linestyle="none", label=baseline)
        for method, points in by_method.items():
            style = look[method]
            for _, time, gain in points:
                if gain.interval is not None:
                    axes.plot([time] * 2, gain.interval, color=style.colour, alpha=0.4)
            times, gains = zip(*((time, gain.difference) for _, time, gain in points), strict=True)
            axes.plot(
                times, gains, label=method, color=style.colour, alpha=0.85, marker=style.marker,
                markersize=6, linestyle="none",
            )  # fmt: skip
        axes.set_xlabel(f"seconds per step relative to {baseline}")
        axes.set_ylabel(f"difference in {metric}")
        add_legend(figure, axes)

    parts = [
        f"{configuration.label}: {signed(gain.difference)} at {number(time, 2)} times the time"
        for points in by_method.values()
        for configuration, time, gain in points
    ]
    yield Plot(
        kind="cost",
        title="difference over cost",
        caption=(
            "One point for each configuration: mean difference after the last step with its"
            f" interval, over the ratio of seconds per step. {better} is better, right is more"
            " expensive."
        ),
        alt=(
            f"Difference in {metric} over seconds per step relative to {baseline}."
            f" {'; '.join(parts)}."
        ),
        height=2.7 + legend_height([baseline, *by_method]),
        draw=draw,
    )


def rank_plots(scope: Scope) -> Iterator[Plot]:
    """Yield the critical-difference picture: rows by rank, bars join what is not distinguished."""
    ranking = scope.ranking
    if ranking is None:
        return
    labels, ranks = list(ranking.ranks), list(ranking.ranks.values())

    def draw(figure: Figure) -> None:
        axes = labelled_rows(figure, labels)
        width = len(labels) - 1
        places = [row + 0.14 for row in range(len(labels))]
        axes.hlines(places, 1, ranks, color=INK, linewidth=0.8, alpha=0.5)
        axes.plot(ranks, places, linestyle="none", marker="o", markersize=6, color=COLOURS[0])
        for column, clique in enumerate(ranking.cliques, 1):
            x = len(labels) + 0.06 * width * column
            ends = [labels.index(clique[0]) - 0.05, labels.index(clique[-1]) + 0.33]
            axes.plot([x, x], ends, color=COLOURS[1], linewidth=4, solid_capstyle="butt")
        axes.set_xticks(range(1, len(labels) + 1, 1 + len(labels) // 12))
        axes.set_xlabel("average rank (1 is best)")

    groups = "; ".join(", ".join(clique) for clique in ranking.cliques)
    yield Plot(
        kind="ranks",
        budget=scope.budget,
        title=f"{place(scope.budget, 'Average ranks')} over {ranking.tasks} tasks",
        caption=(
            "Configurations joined by a bar at the right cannot be distinguished. Their ranks are"
            f" less than the critical difference {number(ranking.critical_difference, 2)} apart"
            " (Nemenyi, 5 % level), or Friedman's test finds no difference at all."
        ),
        alt=(
            f"Average ranks: {', '.join(f'{n} {number(r, 2)}' for n, r in ranking.ranks.items())}."
            f" Not distinguished: {groups or 'none'}."
        ),
        height=ROW * len(labels) + 0.8,
        draw=draw,
    )

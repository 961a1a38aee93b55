"""Lines of training and evaluation over the steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hiddenkey.lab.evidence.axes import Arm
from hiddenkey.lab.evidence.cells import LOSS
from hiddenkey.lab.present.canvas import LINES, Palette, Plot, place
from hiddenkey.lab.present.curves import CurveFigure, Panel
from hiddenkey.lab.present.drawing import numbered_parts
from hiddenkey.lab.report.tables import Scope, TaskTable


def curve_plots(scope: Scope, table: TaskTable, palette: Palette) -> Iterator[Plot]:
    """Yield figures of metric, gap and loss over the steps, one arm for each method."""
    metric = table.task.metric
    panels = (
        Panel(metric, metric, "evaluation", (metric, "training"), inches=1.75),
        Panel("generalisation\ngap", metric, "gap", zero=True, inches=1.15),
        Panel("loss", LOSS, "evaluation", (LOSS, "training"), inches=1.75),
    )
    for arms, part, several_ranks in _curve_groups(scope, table, palette.baseline):
        shown = CurveFigure(
            arms,
            panels,
            [curve for curve in table.curves if curve.arm in arms],
            palette.styles((arm.label, arm.method) for arm in arms),
            "training examples",
        )
        if shown.curves:
            yield Plot(
                kind="curves",
                budget=scope.budget,
                task=table.task.label,
                title=(
                    f"{place(scope.budget, table.task.label)}: {metric}, generalisation gap and"
                    f" loss{part}"
                ),
                caption=_caption(table, arms[0], several_ranks=several_ranks),
                alt=shown.alt,
                height=shown.height,
                draw=shown.draw,
            )


def _curve_groups(
    scope: Scope, table: TaskTable, baseline: str
) -> Iterator[tuple[list[Arm], str, bool]]:
    """For each model the rank with most curves; then up to six arms, the baseline always first."""
    known = {curve.arm for curve in table.curves}
    chosen = {selection.chosen for selection in table.selections} or known
    for model in dict.fromkeys(arm.model for arm in scope.arms):
        arms = [arm for arm in scope.arms if arm in known & chosen and arm.model == model]
        if not arms:
            continue
        counts = Counter(arm.rank for arm in arms)
        rank = max(counts, key=lambda rank: (counts[rank], rank))
        of_rank = [arm for arm in arms if arm.rank == rank]
        base = [arm for arm in of_rank if arm.method == baseline]
        others = [arm for arm in of_rank if arm not in base]
        for chunk, part in numbered_parts(others, LINES - 1):
            yield [*base, *chunk], part, len(counts) > 1


def _caption(table: TaskTable, arm: Arm, *, several_ranks: bool) -> str:
    caption = (
        f"{arm.model}, rank {arm.rank}. Means over seeds, without dropout. Full lines with bands of"
        " ± one standard deviation: evaluation examples. Pale dotted lines: training examples. The"
        " generalisation gap is training minus evaluation."
    )
    if table.selections:
        caption += (
            " Of each method, the configuration with the best mean after the last step, which is a"
            " choice made on the evaluation examples."
        )
    return caption + " The other ranks are in tables/curves.csv." * several_ranks

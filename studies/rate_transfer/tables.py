"""Rate transfer in words: what is lost, and which rate to take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hiddenkey.lab.evidence.inference import Estimate, excludes
from hiddenkey.lab.present.entries import Entry, Grid, difference, grid_of, make_grid
from hiddenkey.lab.present.words import count, interval, listing, number, signed
from rate_transfer.transfer import (
    RULES,
    Judged,
    RatePoint,
    TaskTransfer,
    Transfer,
)

DIGITS: Final = 2
"""Decimals of points."""

READING: Final = (
    "Values are percentage points of each task's main metric after the last step; all tasks count"
    " alike, so one whose metric moves more has more say in the common rate. A rate is chosen on"
    " all seeds but one and judged on that one, each seed in turn, so that nothing is judged on the"
    " seeds that chose it. Losses are against the best rate of each task, chosen in the same way; a"
    " negative loss means that choosing for each task by itself was worse, since few seeds show a"
    " task's best rate less well than all tasks together. Intervals are 95 % (Student's t); over"
    " seeds they speak of these tasks, and are widened because the seeds share the runs that chose"
    " (Nadeau and Bengio 2003); over tasks they speak of others like these."
)


def rules_grid(found: Transfer) -> Grid:
    """One row for each rule of choosing a rate, as means over the tasks."""
    rows = [
        {
            "rule": RULES[seeds.rule],
            "loss over seeds": _estimate(seeds.loss),
            "loss over tasks": _estimate(tasks.loss),
            f"gain over {found.baseline}": _estimate(seeds.gain),
            "gain over tasks": _estimate(tasks.gain),
        }
        for seeds, tasks in zip(found.judged, found.across, strict=True)
    ]
    title = f"{found.method}: one rate or several, means over {len(found.tasks)} tasks"
    return grid_of("rules", title, rows)


def tasks_grid(found: Transfer) -> Grid:
    """One row for each task."""
    rows = [
        {
            "task": task.task,
            "metric": task.metric,
            "best rate": Entry(f"{task.best:g}", task.best, details=(_counts(task.chosen),)),
            "others' best": Entry(f"{task.elsewhere:g}", task.elsewhere),
            "loss, common rate": _estimate(_of(task, "common").loss),
            "loss, others' rate": _estimate(_of(task, "elsewhere").loss),
            "apparent loss": Entry(signed(task.apparent, DIGITS), task.apparent),
        }
        for task in found.tasks
    ]
    notes = (
        f"Below each best rate: how often it and others are chosen when one seed is left out. The"
        f" common rate is {found.common:g} ({_agreement(found.chosen)}). The apparent loss is that"
        " of the common rate if choice and judgement share all seeds; it cannot be negative, and is"
        " here for comparison alone.",
        *found.notes,
    )
    return grid_of("tasks", f"{found.method}: rates by task", rows, notes)


def rates_grid(found: Transfer) -> Grid:
    """One row for each rate: the difference to the baseline on each task."""
    told = all(point.gain is not None for task in found.tasks for point in task.points)
    what = f"points above {found.baseline}" if told else "percentage points"
    columns = ("rate", *(task.task for task in found.tasks), "mean")
    series = [*(task.points for task in found.tasks), found.points]
    rows = [
        [Entry(f"{rate:g}", rate), *(_point(points[i], told) for points in series)]
        for i, rate in enumerate(found.rates)
    ]
    note = f"{count(len(found.seeds), 'seed')}; the intervals are not corrected for their number."
    return make_grid("rates", f"{found.method}: {what}, by rate and task", columns, rows, [note])


def recommendation(found: Transfer) -> list[str]:
    """The answer in plain sentences."""
    judged = {one.rule: one for one in found.judged}
    gain = judged["common"].gain
    sentences = [
        f"Recommended rate for {found.method}: {found.common:g}, the best mean over"
        f" {listing([task.task for task in found.tasks], limit=9)}"
        f" ({_agreement(found.chosen)}){_at_the_edge(found)}."
    ]
    if gain is None:
        sentences.append(
            f"Without {found.baseline}'s runs with the same seeds on every task, its gain is"
            " unknown."
        )
    else:
        sentences.append(
            f"A rate chosen so gains {_shown(gain)} percentage points over {found.baseline} on"
            f" seeds that had no say in it{_doubt(gain)}."
        )
    own = judged["own"].gain
    if found.flattered is not None and own is not None:
        sentences.append(
            f"Each task's best rate, read off all seeds as tables of best rates are, seems to gain"
            f" {number(found.flattered, DIGITS)} points; on seeds that had no say in it it gains"
            f" {_shown(own)}."
        )
    losses = {
        "One rate for all tasks": judged["common"].loss,
        "A rate chosen on the other tasks": judged["elsewhere"].loss,
    }
    return sentences + [
        f"{what} loses {_shown(loss)} points against each task's best{_meaning(loss)}."
        for what, loss in losses.items()
        if loss is not None
    ]


def _at_the_edge(found: Transfer) -> str:
    edge = {found.rates[-1]: "largest", found.rates[0]: "smallest"}.get(found.common)
    return f"; it is the {edge} that was tried, so the best may lie beyond" if edge else ""


def _estimate(found: Estimate | None) -> Entry | None:
    return None if found is None else difference(found.mean, found.interval(), DIGITS)


def _point(point: RatePoint, told: bool) -> Entry:
    if not told or point.gain is None:
        return Entry(number(point.mean, DIGITS), point.mean)
    return difference(point.gain.difference, point.gain.interval, DIGITS)


def _of(task: TaskTransfer, rule: str) -> Judged:
    return next(one for one in task.judged if one.rule == rule)


def _agreement(chosen: Sequence[tuple[float, int]]) -> str:
    total = sum(amount for _, amount in chosen)
    return f"chosen without one seed: {_counts(chosen)} of {total}"


def _counts(chosen: Sequence[tuple[float, int]]) -> str:
    return listing([f"{rate:g} in {amount}" for rate, amount in chosen], limit=9)


def _shown(found: Estimate) -> str:
    """The mean, and its interval where there is one."""
    mean, bounds = number(found.mean, DIGITS), found.interval()
    return mean if bounds is None else f"{mean} {interval(*bounds, digits=DIGITS)}"


def _doubt(gain: Estimate) -> str:
    if not excludes(gain.interval()):
        return "; the interval includes 0, so this is no evidence of a gain"
    return "; it is worse" if gain.mean < 0 else ""


def _meaning(loss: Estimate) -> str:
    bounds = loss.interval()
    if loss.mean == loss.error == 0:
        return ": the same rates were chosen, whichever seed was left out"
    if bounds is None:
        return f": {loss.count} seeds are too few to say more"
    if excludes(bounds) and loss.mean > 0:
        return ": on these tasks the rate does not transfer without loss"
    if excludes(bounds):
        return ": choosing for each task by itself was worse"
    return f": no loss is seen, and one of more than {number(bounds[1], DIGITS)} is unlikely"

"""What to do after a verdict: train with a method, stay with the baseline, or add seeds.

The verdict decides which (:mod:`hiddenkey.lab.report.verdicts`), and
:mod:`hiddenkey.lab.report.choice` which of several better configurations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal

from hiddenkey.framework.catalogue import methods
from hiddenkey.lab.evidence.axes import RunConfiguration
from hiddenkey.lab.evidence.cells import Cell
from hiddenkey.lab.evidence.configurations import ConfiguredRun
from hiddenkey.lab.evidence.costs import Cost
from hiddenkey.lab.evidence.inference import FEWEST
from hiddenkey.lab.evidence.planning import MOST
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.plans.stored import StoredPlan
from hiddenkey.lab.present.words import count, duration, listing
from hiddenkey.lab.report.choice import comparison_of, gain_of, recommended
from hiddenkey.lab.report.commands import (
    compare_command,
    is_command,
    is_ours,
    run_command,
    script_lines,
    train_command,
)
from hiddenkey.lab.report.verdicts import Judgement

Action = Literal["train", "stay", "add seeds", "give up", "repair"]
_USUAL: Final = len(Plan.seeds)
"""Seeds of a plan that does not say."""

_TOO_FEW: Final = f"{FEWEST} pairs are the fewest that can show anything, and {_USUAL} are usual."


@dataclass(frozen=True)
class Code:
    """Lines to copy.

    Attributes:
        place: where they belong, in a few words.
        text: the lines.
    """

    place: str
    text: str


@dataclass(frozen=True)
class Advice:
    """What to do on one task.

    Attributes:
        action: ``train`` with a method that is better; ``stay`` with the baseline; ``add seeds``
            that decide; ``give up``: no number of seeds that anybody runs would; ``repair``: there
            is nothing to compare.
        words: what to do, and why.
        code: how to do it.
    """

    action: Action
    words: str
    code: tuple[Code, ...] = ()


@dataclass(frozen=True)
class Background:
    """What else a verdict and its advice rest on.

    Attributes:
        plan: of the comparison; ``None`` if its folder has none.
        seeds: of all compared runs.
        seed_seconds: what one seed of all configurations took; ``None`` if it is not known.
        margin: smallest difference of the main metric that matters; ``None`` for the usual one.
    """

    plan: StoredPlan | None = None
    seeds: tuple[int, ...] = ()
    seed_seconds: float | None = None
    margin: float | None = None


def advise(
    verdict: Judgement,
    cells: Sequence[Cell],
    costs: Sequence[Cost],
    runs: Sequence[ConfiguredRun],
    baseline: str,
    background: Background,
) -> Advice:
    """Say what to do on one task.

    Args:
        verdict: on the task.
        cells: its cells.
        costs: what its configurations cost.
        runs: its runs.
        baseline: the method that the others are compared with.
        background: of the whole comparison.
    """
    last = [cell for cell in cells if cell.is_main("last") and cell.comparison is not None]
    options = {run.configuration: run.record.options for run in reversed(runs)}
    if verdict.answer in ("better", "mixed"):
        cell, reason = recommended(last, costs)
        return Advice(
            "train",
            f"Train with {cell.configuration.label}. {reason}",
            _use(options[cell.configuration]),
        )
    if verdict.answer == "nothing to compare":
        return _repair(cells, runs, baseline, background)
    plain = _baseline_configuration(last, runs, baseline)
    use = () if plain is None else _use(options[plain])
    if verdict.answer == "no clear difference":
        margin = max(each.margin for each in map(comparison_of, last))
        words = f"Train with {baseline}: there is no difference as large as {margin:.3g}."
        return Advice("stay", words, use)
    if verdict.answer == "worse":
        return Advice("stay", f"Train with {baseline}: {_none_better(last)}", use)
    return _decide(last, baseline, background, use, runs)


def _decide(
    compared: Sequence[Cell],
    baseline: str,
    background: Background,
    use: tuple[Code, ...],
    runs: Sequence[ConfiguredRun],
) -> Advice:
    """Say how many seeds would decide, or that none that anybody runs would."""
    still_open = [c for c in compared if comparison_of(c).verdict == "inconclusive"]
    cell = max(still_open, key=gain_of)
    found = comparison_of(cell)
    if found.count < FEWEST:
        return _add_seeds(_USUAL - found.count, _TOO_FEW, background, runs)
    if found.is_coarse:
        words = f"Train with {baseline}, or judge on more evaluation examples: {found.note}"
        return Advice("give up", words, use)
    if found.pairs_to_decide is None:
        return Advice(
            "give up",
            f"Train with {baseline}. To decide would take over {MOST} seeds: an effect of"
            f" {found.margin:.3g}, if there is one, is smaller than is worth that.",
            use,
        )
    on = f" on {cell.configuration.label}, the most favourable one" if len(still_open) > 1 else ""
    why = f"about {found.pairs_to_decide} in all would decide{on}."
    if found.estimate.is_constant:
        why = (
            f"all {found.count} differences are equal{on}, so nothing shows how far they vary;"
            f" {found.pairs_to_decide} in all decide if they stay equal."
        )
    return _add_seeds(found.pairs_to_decide - found.count, why, background, runs)


def _add_seeds(
    more: int, why: str, background: Background, runs: Sequence[ConfiguredRun]
) -> Advice:
    stored = _covering(background.plan, runs)
    seeds = _enlarged(background.seeds, more, stored)
    words = f"Add {count(more, 'seed')}: {why} {_time(more, background)}".strip()
    if _is_table(runs):
        return Advice("add seeds", f"{words} Add their rows to the file.")
    path = stored.path if stored else None
    return Advice("add seeds", words, (Code("a shell", compare_command(path, seeds=seeds)),))


def _is_table(runs: Sequence[ConfiguredRun]) -> bool:
    """Whether the runs are rows of somebody's table, which no command of ours can enlarge."""
    return any("source" in run.record.options for run in runs)


def _enlarged(seeds: Sequence[int], more: int, stored: StoredPlan | None) -> list[int]:
    """The seeds so far and so many after the largest, none of which chose the settings."""
    search = stored.plan.searched if stored else None
    taken = search.seeds if search else ()
    after = (each for each in range(max(seeds, default=-1) + 1, 2**32) if each not in taken)
    return [*seeds, *islice(after, more)]


def _time(more: int, background: Background) -> str:
    if background.seed_seconds is None:
        return ""
    workers = background.plan.plan.workers if background.plan else 1
    shared = f" with {count(workers, 'worker')}" if workers > 1 else ", one run after the other"
    return f"That takes about {duration(more * background.seed_seconds / workers)}{shared}."


def _covering(stored: StoredPlan | None, runs: Sequence[ConfiguredRun]) -> StoredPlan | None:
    """The folder's plan, if it is of these runs and not of a part of them."""
    if stored is None:
        return None
    plan = stored.plan
    settings = plan.settings() if plan.command is None else plan.command_settings()
    planned = {(each.task, each.method) for each in settings}
    found = {(run.task.name, run.configuration.method) for run in runs}
    return stored if found <= planned else None


def _repair(
    cells: Sequence[Cell], runs: Sequence[ConfiguredRun], baseline: str, background: Background
) -> Advice:
    """Say how there comes to be something to compare."""
    stored = _covering(background.plan, runs)
    path = stored.path if stored else None
    configurations = {cell.configuration.method for cell in cells}
    if _is_table(runs) and any(cell.failed for cell in cells):
        return Advice("repair", "Train the runs again that failed, and give their rows new values.")
    if not cells or any(cell.failed for cell in cells):
        code = Code("a shell", compare_command(path, retry_failed=()))
        return Advice("repair", "Fix what the failed runs say, and run them again.", (code,))
    if baseline not in configurations:
        words = f"Run the baseline {baseline} too, or name a method of these runs with --baseline."
        return Advice("repair", words)
    if configurations == {baseline}:
        if stored is not None and {*stored.plan.methods} == {baseline}:
            words = f"Train with {baseline}: no other method was planned beside it."
            is_one = len({run.configuration for run in runs}) == 1
            return Advice("stay", words, _use(runs[0].record.options) if is_one else ())
        return Advice("repair", f"Run a method beside {baseline}; 'hiddenkey methods' lists them.")
    more = _USUAL - len(background.seeds)
    if _is_table(runs) and _unequal(cells):
        words = f"Train all configurations with the same seeds: {_TOO_FEW} Add their rows to the"
        return Advice("add seeds", f"{words} file.")
    return _add_seeds(max(1, more), _TOO_FEW, background, runs)


def _unequal(cells: Sequence[Cell]) -> bool:
    """Whether configurations have other seeds than each other, so that more would not be paired."""
    return len({tuple(seed for seed, _ in cell.values) for cell in cells}) > 1


def _none_better(compared: Sequence[Cell]) -> str:
    still_open = [
        c.configuration.label for c in compared if comparison_of(c).verdict == "inconclusive"
    ]
    if not still_open:
        return "no configuration is better."
    noun = "is" if len(still_open) == 1 else "are"
    return f"no configuration is shown to be better; {listing(still_open)} {noun} inconclusive."


def _baseline_configuration(
    compared: Sequence[Cell], runs: Sequence[ConfiguredRun], baseline: str
) -> RunConfiguration | None:
    """The baseline's configuration that the most favourable comparison is with."""
    nearest = max(compared, key=gain_of)
    configurations = {
        run.configuration.label: run.configuration
        for run in runs
        if run.configuration.method == baseline
    }
    return configurations.get(nearest.against or "")


def _use(options: Mapping[str, Any]) -> tuple[Code, ...]:
    """How to train with a configuration, in a shell and in a script of one's own."""
    if is_command(options):
        return (Code("a shell, with your own SEED and OUTPUT", run_command(options)),)
    if not is_ours(options):
        return ()
    found = [Code("a shell", train_command(options))]
    if methods()[str(options["method"])].config.drops:
        found.append(Code("your own script with a Trainer", script_lines(options)))
    return tuple(found)

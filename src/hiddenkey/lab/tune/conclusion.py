"""What came out of an automatic choice: the verdict of its confirmation, and what to use."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hiddenkey.lab.evidence.cells import LOSS
from hiddenkey.lab.evidence.configurations import explicit
from hiddenkey.lab.evidence.overfitting import Overfitting
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.plans.command import CommandOptions, CommandRun
from hiddenkey.lab.present.words import count, interval, number, signed
from hiddenkey.lab.report.advice import Code
from hiddenkey.lab.report.commands import is_command, run_command, train_command
from hiddenkey.lab.report.tables import TaskTable
from hiddenkey.lab.report.verdicts import effect_of
from hiddenkey.lab.run.result import Summary
from hiddenkey.lab.tune.budget import Effort

ADAPTER: Final = "adapter"


@dataclass(frozen=True)
class Conclusion:
    """What to use, and why.

    Attributes:
        words: what came out, a sentence for each line.
        code: what to do next.
        record: the run whose adapter is handed over.
    """

    words: tuple[str, ...]
    code: tuple[Code, ...]
    record: Record


def judged_by_loss(records: Sequence[Record]) -> list[Record]:
    """The same records with the evaluation loss as their main metric."""
    return [_by_loss(record) for record in records]


def _by_loss(record: Record) -> Record:
    result = record.result
    if result is None or result.eval_loss.last is None:
        return record
    metrics: Mapping[str, Summary] = {**result.metrics, LOSS: result.eval_loss}
    return dataclasses.replace(
        record, result=dataclasses.replace(result, main_metric=LOSS, metrics=metrics)
    )


def looked(found: Overfitting | None, baseline: str, *, always: bool) -> str:
    """Say whether plain LoRA overfits, and what follows from it."""
    if found is None:
        return (
            f"Whether {baseline} overfits is not known: its runs left fewer than two evaluation"
            " losses each, or fewer than three runs ended. All methods are tried."
        )
    bounds = interval(found.rise.low, found.rise.high, sign=True)
    amount = f"{signed(found.rise.mean)} {bounds}".strip()
    rise = f"its evaluation loss rises by {amount} from step {found.step} to {found.steps}"
    if found.step == found.steps:
        rise = f"its evaluation loss is lowest at the last step, {found.steps}"
    where = f"({count(found.rise.count, 'seed')}, held-out training examples)"
    if found.shown:
        return f"{baseline} overfits: {rise} {where}."
    follows = "the other methods are tried all the same, since you gave --always"
    if not always:
        follows = (
            "the other methods are made to remove that, so only its own settings are chosen;"
            " --always tries them all the same"
        )
    return f"{baseline} is not shown to overfit: {rise} {where}; {follows}."


def equal_effort(effort: Effort, methods: Sequence[str], baseline: str, *, plain: bool) -> str:
    """Say what was tried for each side."""
    each = count(effort.trials, "trial")
    if effort.algorithm == "halving":
        most = sum(len(round_.seeds) for round_ in effort.rounds)
        each += f" in {effort.choosing} runs, the better ones with up to {most} seeds,"
    elif effort.per_trial > 1:
        each += f" of {count(effort.per_trial, 'seed')}"
    if plain:
        return f"Choice: {each} for {baseline}, on held-out training examples."
    others = " and ".join(name for name in methods if name != baseline)
    return (
        f"Equal effort: {each} for {baseline}, and as many for {others} together, which choose the"
        " method too; each side starts with its own settings."
    )


def conclude(
    table: TaskTable, records: Sequence[Record], baseline: str, metric: str, names: Sequence[str]
) -> Conclusion | None:
    """Read the verdict of a confirmation.

    Args:
        table: of its task.
        records: of its runs, by seed.
        baseline: the baseline's method.
        metric: what else is told beside what was judged.
        names: of the settings that were chosen.

    Returns:
        The method that is shown to be better, or else the baseline; ``None`` if no run of it ended.
    """
    wins = table.advice.action == "train"
    ended = [r for r in records if r.result and (r.options["method"] != baseline) == wins]
    if not ended:
        return None
    words = [table.verdict.headline, table.lead]
    words += [_beside(table, name) for name in dict.fromkeys((metric, LOSS))]
    words += [_settings(r.options, names) for r in _first_of_each(records)]
    words.append(table.advice.words)
    code = table.advice.code
    if table.advice.action not in ("train", "stay", "give up"):
        words.append(f"Until then use {baseline}, with the settings chosen for it.")
        code = (*code, use(ended[0]))
    return Conclusion(tuple(filter(None, words)), code, ended[0])


def conclude_plain(records: Sequence[Record], names: Sequence[str]) -> Conclusion | None:
    """The baseline with its own choice, where no other method was tried."""
    ended = [record for record in records if record.result]
    if not ended:
        return None
    result = ended[0].result
    assert result is not None
    last, loss = result.metrics[result.main_metric].last, result.eval_loss
    risen = (loss.last or 0.0) - (loss.best or 0.0)
    words: tuple[str, ...] = (
        f"Use {ended[0].options['method']}: no other method was tried.",
        _settings(ended[0].options, names),
        f"On the evaluation examples: {result.main_metric} {number(last)}, loss"
        f" {number(loss.last)}.",
    )
    if round(risen, 3) > 0:
        words += (
            f"With these settings the loss ended {signed(risen)} above its lowest, in one run;"
            " --always shows whether a method helps.",
        )
    return Conclusion(words, (use(ended[0]),), ended[0])


def use(record: Record) -> Code:
    """The command that trains once more as a run did."""
    if is_command(record.options):
        return Code("a shell, with your own SEED and OUTPUT", run_command(record.options))
    return Code("a shell", train_command(record.options))


def hand_over(run: Path, folder: Path) -> Path | None:
    """Copy a run's adapter into a folder; ``None`` if it has none that is known.

    Args:
        run: the run's folder.
        folder: of the choice.
    """
    source, half, target = run / ADAPTER, folder / f".{ADAPTER}", folder / ADAPTER
    if not source.is_dir():
        return None
    for old in (half, target):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(source, half)
    return half.rename(target)


def folder_of(record: Record) -> str:
    """Name of a run's folder: its identity, but for a command that of what was trained."""
    if not record.is_command or record.result is None:
        return record.id
    options = CommandOptions.from_recorded(record.options)
    return CommandRun(options, record.result.data_fingerprint).training


def _beside(table: TaskTable, name: str) -> str:
    """The effect on what the verdict does not rest on."""
    found = (
        cell.comparison
        for cell in table.cells
        if (cell.measure.name, cell.measure.checkpoint) == (name, "last")
        if not cell.measure.main
    )
    comparison = next(filter(None, found), None)
    return f"Beside it, {name}: {effect_of(comparison)}." if comparison else ""


def _first_of_each(records: Sequence[Record]) -> list[Record]:
    firsts: dict[str, Record] = {}
    for record in records:
        firsts.setdefault(str(record.options["method"]), record)
    return list(firsts.values())


def _settings(options: Mapping[str, Any], names: Sequence[str]) -> str:
    """Name what was chosen for a method, of what it has."""
    own = explicit(options)
    names = ["consistency_weight" if name == "consistency_scale" else name for name in names]
    shown = [
        f"{name.replace('_', ' ')} {own[name]:.3g}"
        if isinstance(own[name], float)
        else f"{name.replace('_', ' ')} {own[name]}"
        for name in names
        if own.get(name) is not None
    ]
    return f"Chosen for {options['method']}: {', '.join(shown)}."

"""A table of somebody else's results as the study table that reports read.

A row is one measured number. Columns: ``task``, ``configuration``, ``seed``, ``metric``, ``value``;
optional: ``step`` (of the evaluation; the last one counts as the result) and ``seconds`` (of the
training until then). Other columns are passed over. Configurations of equal seed are paired.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import DIVERGED, ConfigError, suggestion
from hiddenkey.files import plain
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.plans.identity import short_hash
from hiddenkey.lab.results.command_result import measure_of
from hiddenkey.lab.results.elsewhere import result_of_lines
from hiddenkey.lab.run.result import Result
from hiddenkey.lab.scores import lower_is_better
from hiddenkey.lab.tasks.files import FileFaults, refuse
from hiddenkey.lab.tasks.tables import Row, column_names, read_rows

NEEDED: Final = ("task", "configuration", "seed", "metric", "value")
OPTIONAL: Final = ("step", "seconds")
RESULT_ENDINGS: Final = (".csv", ".tsv", ".jsonl")

_SHOWN: Final = 5
_LARGEST: Final = 2**53
_SHARES: Final = frozenset(("accuracy", "acc", "f1", "auc", "precision", "recall"))
"""Words in the names of metrics that are shares, which people write in percent too."""
_RATES: Final = frozenset(("rate", "wer", "cer", "ter", "eer", "fpr", "fnr"))
"""Words in the names of shares of errors."""
_UNITS: Final = (30, 300)
"""How many times larger one configuration's median is if it is in percent and another's is not."""
_ROOM: Final = 0.5
"""A value up to 1 is a fraction if, in percent, it has this part of the smallest percentage."""


@dataclass(frozen=True)
class Number:
    """One row.

    Attributes:
        run: task, configuration and seed.
        metric: what was measured, without ``eval_``.
        value: NaN where the training diverged.
        step: of the evaluation, 0 if the table has none.
        seconds: of the training until then; ``None`` if the table has none.
        line: of the file.
    """

    run: tuple[str, str, int]
    metric: str
    value: float
    step: int
    seconds: float | None
    line: int


def read_results(
    path: Path, metric: str | None = None, *, lower: bool | None = None
) -> list[Record]:
    """Read a table of results, one record for each task, configuration and seed.

    Args:
        path: .csv, .tsv or .jsonl file.
        metric: the metric by which runs are compared; ``None``: each task's first one.
        lower: smaller values of it are better; ``None``: as its name tells.

    Raises:
        ConfigError: with every row that is none, is there twice, or lacks the metric.
    """
    if path.suffix.lower() not in RESULT_ENDINGS:
        raise ConfigError(
            f"results must be a folder of 'hiddenkey compare' or a {', '.join(RESULT_ENDINGS)}"
            f" file, got {str(path)!r}; convert it"
        )
    numbers = _read(path)
    runs: dict[tuple[str, str, int], list[Number]] = defaultdict(list)
    for number in numbers:
        runs[number.run].append(number)
    mains = _main_metrics(numbers, metric)
    refuse(_mixed_units(numbers, path))
    return [_record(run, found, mains[run[0]], path, lower=lower) for run, found in runs.items()]


def _read(path: Path) -> list[Number]:
    faults = FileFaults(path)
    refuse(_wide(path))
    numbers: list[Number] = []
    seen: dict[tuple[object, ...], int] = {}
    for row in read_rows(path, NEEDED, faults):
        number = _number(row, faults)
        if number is None:
            continue
        key = (number.run, number.metric, number.step)
        if key in seen:
            task, configuration, seed = number.run
            faults.add(
                f"must be the only value of {number.metric!r} of {task}, {configuration}, seed"
                f" {seed}, step {number.step}; line {seen[key]} has one too: delete one, or tell"
                " them apart by the column 'step' or the configuration",
                row.line,
            )
        seen[key] = row.line
        numbers.append(number)
    refuse(faults)
    return numbers


def _wide(path: Path) -> FileFaults:
    """Find that a table has a column for each metric, where it should have a row."""
    faults, names = FileFaults(path), column_names(path)
    others = [name for name in names if name not in (*NEEDED, *OPTIONAL)]
    if others and {*NEEDED} - {*names} == {"metric", "value"}:
        faults.add(
            "must have a row for each number, with the columns metric and value, got a column for"
            f" each metric ({', '.join(others[:_SHOWN])}); with pandas: table.melt([name for name"
            f" in {[*NEEDED[:3], *OPTIONAL]} if name in table], var_name='metric')"
        )
    return faults


def _number(row: Row, faults: FileFaults) -> Number | None:
    """Read one row, or record what is wrong with it."""
    values, wrong = row.values, len(faults.found)
    texts = {name: str(values[name]).strip() for name in ("task", "configuration", "metric")}
    for name, text in texts.items():
        if not text or values[name] is None:
            faults.add(f"column {name!r} must hold a name, got nothing; fill it in", row.line)
    seed = _whole(values, "seed", row.line, faults)
    step = _whole(values, "step", row.line, faults) if _has(values, "step") else 0
    value = _float(values["value"])
    if value is None:
        faults.add(f"value must be a number, got {values['value']!r}; correct it", row.line)
    seconds = _float(values["seconds"]) if _has(values, "seconds") else None
    if _has(values, "seconds") and not (seconds is not None and 0 <= seconds < math.inf):
        faults.add(f"seconds must be a time, got {values['seconds']!r}; correct it", row.line)
    if len(faults.found) > wrong or value is None or seed is None:
        return None
    run = (texts["task"], texts["configuration"], seed)
    return Number(run, measure_of(texts["metric"]), value, step or 0, seconds, row.line)


def _has(values: Mapping[str, object], name: str) -> bool:
    return values.get(name) not in (None, "")


def _whole(values: Mapping[str, object], name: str, line: int, faults: FileFaults) -> int | None:
    number = _float(values[name])
    if number is None or not number.is_integer() or not 0 <= number < _LARGEST:
        got = repr(values[name]) if values[name] not in (None, "") else "nothing"
        faults.add(f"{name} must be a whole number from 0 on, got {got}; correct it", line)
        return None
    return int(number)


def _float(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str) or "_" in str(value):
        return None
    with suppress(ValueError, OverflowError):
        return float(value)
    return None


def _main_metrics(numbers: Sequence[Number], wanted: str | None) -> dict[str, str]:
    """The metric by which each task's runs are compared.

    Raises:
        ConfigError: if a run has no value of it.
    """
    by_task: dict[str, dict[str, None]] = defaultdict(dict)
    measured: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    for number in numbers:
        by_task[number.run[0]][number.metric] = None
        measured[number.run].add(number.metric)
    known = list(dict.fromkeys(name for names in by_task.values() for name in names))
    name = None if wanted is None else measure_of(wanted)
    if name is not None and name not in known:
        hint = suggestion(name, known) or "; name one of them"
        raise ConfigError(f"metric must be one of {', '.join(known)}, got {wanted!r}{hint}")
    mains = {task: name or next(iter(names)) for task, names in by_task.items()}
    lacking = [run for run, names in measured.items() if mains[run[0]] not in names]
    if lacking:
        task, configuration, seed = lacking[0]
        more = f", and {len(lacking) - 1} more runs" if len(lacking) > 1 else ""
        raise ConfigError(
            f"every run must have a value of {mains[task]!r}, which its task is compared by;"
            f" {task}, {configuration}, seed {seed} has none{more}; add it, or name another by"
            " --metric"
        )
    return mains


def _mixed_units(numbers: Sequence[Number], path: Path) -> FileFaults:
    """Find runs of one task whose shares are fractions beside others' percentages.

    A percentage may be below 1 too, so a fraction is a run that would fit among the percentages. Of
    a metric whose name does not say that it is a share, all values of a configuration tell.
    """
    best: dict[tuple[str, str], dict[tuple[str, str, int], Number]] = defaultdict(dict)
    for number in sorted(numbers, key=lambda each: each.value):
        if _SHARES & {*re.split(r"[^a-z0-9]+", number.metric.lower())}:
            best[number.run[0], number.metric][number.run] = number
    mixed: dict[int, tuple[Number, float]] = _mixed_configurations(numbers)
    for runs in best.values():
        percentages = [each.value for each in runs.values() if 1 < each.value <= 100]
        for number in runs.values() if percentages else ():
            if number.value <= 1 and 100 * number.value >= _ROOM * min(percentages):
                mixed[number.line] = number, max(percentages)
    faults = FileFaults(path)
    for line, (number, beside) in sorted(mixed.items(), key=lambda each: each[0]):
        faults.add(
            f"{number.metric} of {number.run[0]} must have one unit, got {number.value:g} beside"
            f" {beside:g}; write all as fractions, or all in percent",
            line,
        )
    return faults


def _mixed_configurations(numbers: Sequence[Number]) -> dict[int, tuple[Number, float]]:
    """By line, values of configurations in [0, 1] beside others that are about 100 times larger.

    A loss has no unit, so that of what is better when smaller only rates are looked at.
    """
    groups: dict[tuple[str, str], dict[str, list[Number]]] = defaultdict(lambda: defaultdict(list))
    for number in numbers:
        words = {*re.split(r"[^a-z0-9]+", number.metric.lower())}
        may_be_share = bool(words & _RATES) or not lower_is_better(number.metric)
        if math.isfinite(number.value) and may_be_share:
            groups[number.run[0], number.metric][number.run[1]].append(number)
    mixed: dict[int, tuple[Number, float]] = {}
    for configurations in groups.values():
        values = [[each.value for each in found] for found in configurations.values()]
        percentages = [found for found in values if min(found) > 1]
        for fractions in configurations.values():
            found = [each.value for each in fractions]
            if min(found) < 0 or max(found) > 1:
                continue
            least, most = (times * statistics.median(found) for times in _UNITS)
            beside = [each for each in percentages if least <= statistics.median(each) <= most]
            if beside:
                mixed |= {each.line: (each, max(map(max, beside))) for each in fractions}
    return mixed


def _record(
    run: tuple[str, str, int],
    numbers: Sequence[Number],
    main: str,
    path: Path,
    *,
    lower: bool | None,
) -> Record:
    task, configuration, seed = run
    lines: dict[int, dict[str, float]] = defaultdict(dict)
    for number in numbers:
        lines[number.step]["step"] = number.step
        lines[number.step][f"eval_{number.metric}"] = number.value
    ordered = [lines[step] for step in sorted(lines)]
    last = next(line for line in reversed(ordered) if f"eval_{main}" in line)
    diverged = not math.isfinite(last[f"eval_{main}"])
    error = f"{DIVERGED}: {main} is {last[f'eval_{main}']}" if diverged else None
    finite = plain(ordered)
    options = {
        "task": task, "model": "", "method": configuration, "rank": 0, "seed": seed,
        "source": path.name, "lower_is_better": lower,
    }  # fmt: skip
    return Record(
        id=short_hash([path.name, *run]),
        options=options,
        stage="compare",
        budget="steps",
        status="failed" if diverged else "finished",
        result=None if diverged else _result(run, numbers, finite, main, lower=lower),
        metrics=tuple(finite),
        environment={},
        error=error,
        attempts=1,
        started="",
        ended="",
    )


def _result(
    run: tuple[str, str, int],
    numbers: Sequence[Number],
    lines: Sequence[Mapping[str, Any]],
    main: str,
    *,
    lower: bool | None,
) -> Result:
    names = dict.fromkeys((main, *(number.metric for number in numbers if number.metric != "loss")))
    steps = max(number.step for number in numbers)
    seconds = max((number.seconds or 0.0 for number in numbers), default=0.0)
    return result_of_lines(
        lines,
        names,
        lower=lower,
        task=run[0],
        model="",
        method=run[1],
        seed=run[2],
        main_metric=main,
        steps=steps,
        seconds_per_step=seconds / steps if steps else 0.0,
        seconds=seconds,
        data_fingerprint="",
    )

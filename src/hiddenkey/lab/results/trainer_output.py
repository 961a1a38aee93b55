"""Finds a metric in what a training command left: its files, and what it printed.

Every source becomes lines, each a step with some numbers. The first source that has the metric
counts:

1. the file that the user named;
2. printed lines ``hiddenkey: step=10 eval_accuracy=0.83``;
3. what ``hiddenkey run`` logged inside of the command, ``log.jsonl``;
4. Trainer's ``trainer_state.json``, in the output folder or its newest checkpoint;
5. Trainer's ``all_results.json`` and ``eval_results.json``;
6. Lightning's ``metrics.csv``.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import ConfigError, suggestion

Line = Mapping[str, float]
"""Numbers by name; ``step`` is among them where it is known."""

_PRINTED: Final = re.compile(r"^\s*hiddenkey:((?:\s+[\w./-]+=[^\s=]+)+)\s*$")
_CHECKPOINT: Final = re.compile(r"checkpoint-(\d+)$")
_MOST_SHOWN: Final = 20
_MOST_BYTES: Final = 2**28
_UNREADABLE: Final = (OSError, ValueError, TypeError, KeyError, RecursionError, csv.Error)


@dataclass(frozen=True)
class Source:
    """One place in which numbers were found.

    Attributes:
        name: the place, for messages.
        lines: what it holds, in order.
    """

    name: str
    lines: tuple[Line, ...]

    @property
    def names(self) -> list[str]:
        """Names of its numbers, but for the step."""
        found = dict.fromkeys(name for line in self.lines for name in line)
        return [name for name in found if name not in ("step", "epoch")]


def find_metric(
    metric: str, output: Path, *, printed: Path, record: Path, named: Path | None = None
) -> Source:
    """Return the source that holds a metric.

    Args:
        metric: its name, as the command writes it.
        output: the command's output folder.
        printed: file of what it printed.
        record: folder of what ``hiddenkey run`` saw.
        named: the file that the user says it is in.

    Raises:
        ConfigError: if it is nowhere, with the names that are there; or if the named file cannot be
            read.
    """
    found = list(_sources(output, printed, record, named))
    for source in found:
        if metric in source.names:
            return source
    known = list(dict.fromkeys(name for source in found for name in source.names))
    where = f"{output.name}/ or what was printed" if named is None else _shown(named, output)
    if not known:
        raise ConfigError(
            f"the command left no number: nothing is in {where}; let it save its metrics"
            " (Trainer: trainer.save_state()), print 'hiddenkey: step=10 NAME=VALUE', or name the"
            " file by --metric-file"
        )
    shown = ", ".join(known[:_MOST_SHOWN]) + (", …" if len(known) > _MOST_SHOWN else "")
    hint = suggestion(metric, known) or "; name one of them"
    raise ConfigError(f"metric {metric!r} is not in {where}, which has {shown}{hint}")


def _shown(named: Path, output: Path) -> Path:
    """A file's name that does not differ from run to run, so that equal faults are told once."""
    return named.relative_to(output.parent) if named.is_relative_to(output) else named


def _sources(output: Path, printed: Path, record: Path, named: Path | None) -> Iterator[Source]:
    if named is not None:
        yield from _named(named)
        return
    yield from _readable(printed, _printed)
    yield from _readable(record / "log.jsonl", _json_lines)
    states = [output / "trainer_state.json", *reversed(_checkpoints(output))]
    yield from [found for path in states for found in _readable(path, _trainer_state)][:1]
    for name in ("all_results.json", "eval_results.json"):
        yield from _readable(output / name, _json_object)
    for path in sorted(output.rglob("metrics.csv")):
        yield from _readable(path, _table)


def _readable(path: Path, read: Any) -> Iterator[Source]:
    """The source in a file; nothing where there is no such file, or none with numbers."""
    with suppress(*_UNREADABLE):
        if path.is_file() and path.stat().st_size < _MOST_BYTES and (lines := tuple(read(path))):
            yield Source(path.name, lines)


def _named(path: Path) -> Iterator[Source]:
    """The source in the file that the user named.

    Raises:
        ConfigError: if there is one that cannot be read.
    """
    if not path.is_file():
        return
    if path.stat().st_size >= _MOST_BYTES:
        raise ConfigError(
            f"metric_file must be smaller than {_MOST_BYTES >> 20} MiB, {path.name} is not; write"
            " the numbers alone"
        )
    try:
        lines = tuple(_any_file(path))
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"metric_file must hold numbers by name, as JSON, JSON lines (.jsonl) or a table (.csv,"
            f" .tsv), {path.name} does not ({reason}); save it in one of these forms"
        ) from error
    if lines:
        yield Source(path.name, lines)


def _any_file(path: Path) -> Iterator[Line]:
    readers = {".csv": _table, ".tsv": _table, ".jsonl": _json_lines}
    reader = readers.get(path.suffix.lower(), _json_object)
    if path.name == "trainer_state.json":
        reader = _trainer_state
    yield from reader(path)


def _printed(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            if match := _PRINTED.match(text):
                pairs = (word.partition("=") for word in match[1].split())
                yield _numbers({name: value for name, _, value in pairs})


def _trainer_state(path: Path) -> Iterator[Line]:
    for line in json.loads(path.read_text(encoding="utf-8"))["log_history"]:
        yield _numbers(line)


def _json_lines(path: Path) -> Iterator[Line]:
    for text in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError, TypeError):  # a line that an interrupted command left half
            yield _numbers(json.loads(text))


def _json_object(path: Path) -> Iterator[Line]:
    """One object, or a list of them, such as a history of evaluations."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for line in content if isinstance(content, list) else [content]:
        yield _numbers(line)


def _table(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","):
            yield _numbers(row)


def _numbers(values: Mapping[str, Any]) -> Line:
    """The numbers among some values; NaN and infinities stay, so that divergence is seen.

    A number inside of another table is named by both: ``eval.accuracy``. People write a comma
    behind a number, or a percent sign.

    Raises:
        TypeError: if the values have no names.
    """
    if not isinstance(values, Mapping):
        raise TypeError("numbers need names")
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": own for inner, own in _numbers(value).items()}
        if isinstance(value, bool) or not isinstance(value, int | float | str) or value == "":
            continue
        with suppress(ValueError, OverflowError):
            found[str(name)] = float(value.rstrip(",;% ") if isinstance(value, str) else value)
    return found


def _checkpoints(output: Path) -> list[Path]:
    """The state of each of Trainer's checkpoints, the newest last."""
    found = [
        (int(match[1]), path)
        for path in output.glob("checkpoint-*/trainer_state.json")
        if (match := _CHECKPOINT.search(path.parent.name))
    ]
    return [path for _, path in sorted(found)]


def last_step(lines: Sequence[Line]) -> int:
    """The largest step of some lines, 0 if they have none."""
    steps = [line["step"] for line in lines if math.isfinite(line.get("step", math.nan))]
    return int(max(steps, default=0))

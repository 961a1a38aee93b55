"""``hiddenkey score``: score anybody's outputs against references."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich.markup import escape

from hiddenkey.cli.options import ScoreOptions
from hiddenkey.cli.terminal import plain_table, print_json, standard_console
from hiddenkey.errors import ConfigError, not_one_of
from hiddenkey.lab.predictions.columns import Picked
from hiddenkey.lab.predictions.files import read_material
from hiddenkey.lab.predictions.labels import glue_tasks, read_labels
from hiddenkey.lab.scores import LOWER_IS_BETTER, METRICS, Family, Scores, metrics, score_groups

_FAMILIES: Final[Mapping[str, Family]] = {family: family for family in METRICS}
_Parts = Mapping[str, tuple[int, Scores]]


def run(options: ScoreOptions) -> int:
    """Print the scores and return the exit status."""
    parts, taken = score_files(options)
    show = _print_record if options.json else _print_table
    show(options, parts, taken)
    return 0


def score_files(options: ScoreOptions) -> tuple[_Parts, Picked]:
    """Score two files, and return the number of instances with their scores, and the columns.

    Returns:
        ``all`` instances and, where the file tells them, ``seen`` and ``unseen``; and the columns
        that were taken.

    Raises:
        ConfigError: if the task is unknown, a file is broken, or the two do not fit together.
    """
    references, outputs = Path(options.references), Path(options.outputs)
    given = Picked(options.prediction_column, options.reference_column, options.id_column)
    family, task = _FAMILIES.get(options.task), glue_tasks().get(options.task)
    if family is not None:
        material = read_material(family, references, outputs, given)
        groups = material.groups()
        found = score_groups(family, material.references, material.outputs, groups)
        return {name: (len(groups[name]), found[name]) for name in groups}, material.taken
    if task is not None:
        labels = read_labels(task, references, outputs, given)
        values = metrics.score(task.metrics, labels.predicted, labels.true)
        return {"all": (len(labels.true), Scores(values))}, labels.taken
    known = [*_FAMILIES, *glue_tasks()]
    raise ConfigError(not_one_of("--task", options.task, known, "; choose one"))


def _print_record(options: ScoreOptions, parts: _Parts, taken: Picked) -> None:
    """All instances at the top, the groups below."""
    groups = {
        name: {"instances": size, "scores": scores.values, "skipped": scores.skipped}
        for name, (size, scores) in parts.items()
    }
    files = {name: getattr(options, name) for name in ("task", "references", "outputs")}
    files["columns"] = dataclasses.asdict(taken)
    if parts["all"][1].note:
        files["note"] = parts["all"][1].note
    record = {**files, **groups.pop("all")}
    print_json(record | ({"groups": groups} if groups else {}))


def _print_table(options: ScoreOptions, parts: _Parts, taken: Picked) -> None:
    table = plain_table(f"{options.task} scores")
    table.add_column("metric", no_wrap=True)
    for name, (instances, _) in parts.items():
        noun = "instance" if instances == 1 else "instances"
        heading = "" if len(parts) == 1 else f"{name.capitalize()}: "
        table.add_column(f"{heading}{instances} {noun}", justify="right")
    _, whole = parts["all"]
    for name in (*whole.values, *whole.skipped):
        shown = f"{name} (lower is better)" if name in LOWER_IS_BETTER else name
        cells = [scores.values.get(name) for _, scores in parts.values()]
        table.add_row(shown, *("skipped" if cell is None else f"{cell:.4f}" for cell in cells))
    console = standard_console()
    console.print(table)
    if whole.note:
        console.print(escape(whole.note))
    columns = {
        "prediction": taken.prediction,
        "reference": ", ".join(taken.references),
        "matched by": taken.identifier,
    }
    for what, column in columns.items():
        if column:
            console.print(escape(f"{what}: column {column!r}"))
    if whole.skipped:  # all for one reason
        reason = next(iter(whole.skipped.values()))
        console.print(escape(f"skipped {', '.join(whole.skipped)}: {reason}"))

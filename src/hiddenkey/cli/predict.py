"""``hiddenkey predict``: a trained adapter on a file of texts."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hiddenkey.cli.options import PredictOptions
from hiddenkey.cli.terminal import number, plain_table, say, standard_console
from hiddenkey.errors import ConfigError
from hiddenkey.files import write_whole
from hiddenkey.lab.run.leaving import Origin, base_of, find_adapter
from hiddenkey.lab.run.texts import Texts, read_texts
from hiddenkey.quiet import quiet

if TYPE_CHECKING:
    from rich.console import Console

    from hiddenkey.lab.run.prediction import Predictions


def run(options: PredictOptions) -> int:
    """Predict for each text of the file, write the predictions and return the exit status."""
    output = _output(options)
    folder = find_adapter(options.adapter)
    origin = Origin.load(folder)
    settings = origin.options(base_of(folder, origin))
    settings = replace(settings, trust_remote_code=options.trust_remote_code)
    texts = read_texts(
        Path(options.file), origin, settings, options.text_columns, options.label_column
    )
    quiet()  # only now the seconds that importing transformers takes
    from hiddenkey.lab.run.prediction import predict

    found = predict(folder, origin, settings, texts)
    write_whole(output, _csv(texts, found))
    _show(standard_console(), texts, found, output)
    return 0


def _output(options: PredictOptions) -> Path:
    output = Path(options.output or f"{options.file}.predictions.csv")
    if output.is_dir() or output.resolve() == Path(options.file).resolve():
        what = "a folder" if output.is_dir() else "the file of the texts"
        raise ConfigError(f"output must be a file of its own, got {what}, {output}; name another")
    return output


def _csv(texts: Texts, found: Predictions) -> str:
    """The texts and what was predicted, a row each in the file's order."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*texts.columns, *found.columns])
    for example, row in zip(texts.examples, found.rows, strict=True):
        writer.writerow([*example.texts, *row])
    return table.getvalue()


def _show(console: Console, texts: Texts, found: Predictions, output: Path) -> None:
    if "predicted_label" in found.columns:
        counts = Counter(str(row[0]) for row in found.rows)
        shown = ", ".join(f"{name}: {count:,}" for name, count in counts.most_common())
        say(console, f"predicted labels: {shown}")
    if found.metrics:
        table = plain_table(f"{len(texts.examples):,} labelled texts", ["metric"], ["value"])
        for name, value in found.metrics.items():
            table.add_row(name, number(value))
        console.print(table)
    say(console, f"{len(found.rows):,} predictions: {output}")

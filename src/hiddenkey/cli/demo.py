"""``hiddenkey demo``: LoRA and HiddenKey side by side on bundled data."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hiddenkey.cli.terminal import plain_table, say, standard_console
from hiddenkey.lab import demo, demo_report
from hiddenkey.lab.demo_report import Difference, Row
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Result


def run(options: demo.DemoOptions) -> int:
    """Run the demonstration and return the exit status."""
    runs = demo.plan(options)
    console = standard_console()
    started = time.perf_counter()
    say(
        console,
        f"{len(runs)} runs: {', '.join(demo.CHOSEN)} x {options.seeds} seeds on"
        f" {demo.BUDGET['train_size']} training headlines, {options.workers} at a time",
    )
    results = _train(console, runs, options.workers)
    rows = demo_report.tabulate(results)
    found = demo_report.differences(results, "hiddenkey")
    folder = Path(options.output)
    picture = folder / "curves.png"
    demo_report.draw_curves(
        {m: [r.folder for r in runs if r.method == m] for m in demo.CHOSEN}, picture
    )
    summary = demo_report.write_summary(folder, rows, found)
    console.print(_table(rows))
    for line in _findings(found, options.seeds):
        say(console, line)
    say(console, f"curves: {picture}   numbers: {summary}   runs: {folder}/METHOD-seedN")
    say(console, f"{time.perf_counter() - started:.0f} s")
    return 0


def _train(console: Console, runs: list[TrainOptions], workers: int) -> list[Result]:
    bar = Progress(
        TextColumn("runs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("runs", total=len(runs))

        def finished(result: Result) -> None:
            metric = result.metrics[result.main_metric]
            say(
                bar.console,
                f"{result.method:<9} seed {result.seed}: {result.main_metric} best"
                f" {metric.best:.3f}, last {metric.last:.3f}, evaluation loss best"
                f" {result.eval_loss.best:.3f}, last {result.eval_loss.last:.3f},"
                f" {result.seconds_per_step:.3f} s/step",
            )
            bar.advance(task)

        return demo.run_all(runs, workers, finished)


def _table(rows: list[Row]) -> Table:
    seeds = rows[0].seeds
    table = plain_table(f"mean ± standard deviation over {seeds} seeds")
    table.add_column("method")
    for column in (
        "accuracy\nbest epoch",
        "accuracy\nlast epoch",
        "eval loss\nbest epoch",
        "eval loss\nlast epoch",
        "accuracy gap\ntrain - eval",
        "s/step\nvs LoRA",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        spreads = (row.best, row.last, row.loss_best, row.loss_last, row.gap)
        table.add_row(row.method, *map(str, spreads), f"{row.cost:.2f}x")
    return table


def _findings(found: list[Difference], seeds: int) -> list[str]:
    return [
        f"hiddenkey - lora, paired over {seeds} seeds:",
        *(f"  {difference}" for difference in found),
    ]

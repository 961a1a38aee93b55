"""``hiddenkey train``: one run from flags or a YAML file."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from hiddenkey.cli.resumption import command
from hiddenkey.cli.terminal import number, plain_table, say, standard_console
from hiddenkey.errors import ConfigError
from hiddenkey.lab.run.folder import CONFIG
from hiddenkey.lab.run.hub import refuse_upload, upload
from hiddenkey.lab.run.meaning import evaluation_faults
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import prepare
from hiddenkey.lab.run.processes import is_first
from hiddenkey.lab.run.result import Result, Summary
from hiddenkey.lab.tasks.classes import described
from hiddenkey.quiet import quiet


def run(options: TrainOptions) -> int:
    """Train and return the exit status."""
    if not options.resume and (faults := evaluation_faults(vars(options))):
        raise ConfigError(faults)
    prepared = prepare(options)  # refuses before the seconds that importing transformers takes
    refuse_upload(options)
    quiet()
    from hiddenkey.cli.progress import ShownProgress
    from hiddenkey.lab.run.training import train

    console = standard_console() if is_first() else Console(quiet=True)
    for line in described(prepared.splits):
        say(console, line)
    shown = ShownProgress(console)
    try:
        result = train(options, prepared=prepared, observer=shown, callbacks=[shown])
    except KeyboardInterrupt:
        if is_first() and (options.folder / CONFIG).is_file():
            print(f"go on with: {command(options)}", file=sys.stderr)
        raise
    finally:
        shown.stop()
    console.print(_table(result))
    say(console, _footer(result, options))
    if options.push_to_hub is not None and is_first():
        address = upload(options.folder / "adapter", options.push_to_hub)
        say(console, f"uploaded: {address}")
    return 0


def _table(result: Result) -> Table:
    title = f"{result.method} on {result.task}, {result.model}, seed {result.seed}"
    columns = ("best", "at step", "last", "training examples", "gap")
    table = plain_table(title, left=["on evaluation examples"], right=columns)
    rows: dict[str, Summary] = {**result.metrics, "loss": result.eval_loss}
    for name, summary in rows.items():
        table.add_row(
            name,
            number(summary.best),
            str(summary.best_step),
            number(summary.last),
            number(result.train_sample.get(name)),
            number(result.gap.get(name)),
        )
    return table


def _footer(result: Result, options: TrainOptions) -> str:
    peak = result.peak_memory_mib
    return (
        f"{result.steps} steps, {result.seconds_per_step:.3f} s/step,"
        f" {result.trainable_parameters:,} trainable parameters"
        f" ({result.lora_parameters:,} of adapter {options.adapter!r}),"
        f" peak {'unknown' if peak is None else f'{peak:,.0f} MiB'}\n"
        f"run folder: {options.folder}"
    )

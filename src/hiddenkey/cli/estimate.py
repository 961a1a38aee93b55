"""``hiddenkey estimate``: memory and time of a training step, by arithmetic."""

from __future__ import annotations

from typing import Final

from rich.table import Table

from hiddenkey.cli.terminal import plain_table, standard_console
from hiddenkey.lab.run.estimate import EstimateOptions, MemoryEstimate, estimates
from hiddenkey.quiet import quiet

_PLACE: Final = ("devices", "tokens", "rank")


def run(options: EstimateOptions) -> int:
    """Print the estimates and return the exit status."""
    quiet()
    rows = list(estimates(options))
    console = standard_console()
    console.print(_memory(rows, options))
    console.print(_time(rows, options))
    return 0


def _memory(rows: list[MemoryEstimate], options: EstimateOptions) -> Table:
    bits = "" if options.quantize == "none" else f" with weights in {options.quantize}"
    recomputed = ", activations recomputed" if options.checkpointing else ""
    table = plain_table(
        f"GB on each device (estimate): {options.model}, {options.precision}{bits}, sharding"
        f" {options.sharding}, batch size {options.batch_size} per device{recomputed}",
        right=[*_PLACE, "weights", "LoRA, Adam", "activations", "own loss", "compared", "in all"],
    )
    table.add_column(f"fits {options.device_memory:g}")
    for row in rows:
        plain, exact = row.memory["HiddenKey-"], row.memory["HiddenKey"]
        parts = (plain.weights, plain.trained, plain.activations, plain.loss, exact.loss)
        most = max(memory.total for memory in row.memory.values())
        numbers = [f"{value / 1e9:.2f}" for value in (*parts, most)]
        table.add_row(*_place(row), *numbers, "yes" if row.fits else "no")
    return table


def _time(rows: list[MemoryEstimate], options: EstimateOptions) -> Table:
    table = plain_table(
        f"seconds per step (estimate): {options.teraflops:g} TFLOP/s, of which"
        f" {options.utilisation:.0%} are reached; one forward pass per device and step",
        right=[*_PLACE, *rows[0].seconds, "weights travel"],
    )
    for row in rows:
        plain = row.seconds["LoRA"]
        table.add_row(
            *_place(row),
            f"{plain:.2f}",
            *(f"{value:.2f} ({value / plain:.2f}×)" for value in list(row.seconds.values())[1:]),
            f"{row.gathering:.2f}",
        )
    return table


def _place(row: MemoryEstimate) -> tuple[str, str, str]:
    return str(row.devices), f"{row.tokens:,}", str(row.rank)

"""Runs that analyses read: the finished ones of one or more comparisons, and how they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hiddenkey.errors import ConfigError
from hiddenkey.lab.evidence.configurations import ConfiguredRun, find_runs, newest, require_method
from hiddenkey.lab.evidence.record import Record, read_records
from hiddenkey.lab.plans.identity import Stage
from hiddenkey.lab.present.words import listing


def read_finished(folders: Sequence[str], stage: Stage = "compare") -> list[Record]:
    """Read the finished runs of folders that 'hiddenkey compare' or 'hiddenkey claims' wrote.

    A run that several folders have counts once. Time-matched runs are left
    out: they end at other steps than their baseline.

    Args:
        folders: the folders.
        stage: ``compare`` for the runs that are compared, ``search`` for those that chose options.

    Raises:
        ConfigError: without folders, without such a run, or with every broken record.
    """
    if not folders:
        raise ConfigError(
            "folders must name at least one comparison, got none; give the folder that 'hiddenkey"
            " compare' or 'hiddenkey claims' wrote"
        )
    found = {record.id: record for folder in folders for record in read_records(Path(folder))}
    kept = [
        record
        for record in found.values()
        if record.result is not None and record.stage == stage and record.budget == "steps"
    ]
    if not kept:
        raise ConfigError(
            f"{listing(folders)} must hold finished runs of stage {stage!r} that are step-matched,"
            f" got {len(found)} runs and none of these; let the comparison go on first"
        )
    return kept


def arrange(records: Sequence[Record], baseline: str) -> list[ConfiguredRun]:
    """Give each record its place; of runs that differ in versions alone the newest stays.

    Raises:
        ConfigError: if no run uses the baseline's method and the library does not know it either.
    """
    require_method("baseline", baseline, records)
    return newest(find_runs(records, "steps", baseline))[0]

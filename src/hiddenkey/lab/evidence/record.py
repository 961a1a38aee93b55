"""What one run of a comparison leaves behind: ``records/ID.json``, all that a report reads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from hiddenkey.errors import DIVERGED, ConfigError
from hiddenkey.files import write_whole
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Result
from hiddenkey.lab.run.stored import build, hints_of

FOLDER: Final = "records"
"""Name of the records' folder in the folder of a comparison."""

VERSION: Final = 1
"""Version of the file format."""

_NEEDED: Final = ("task", "model", "method", "rank", "seed")
"""Options that every record of every version has."""

Measured = float | None | Mapping[str, float | None]
"""A value in a line of metrics, or several by name."""

NOT_A_RECORD: Final = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""What reading a file raises that is no whole record."""


@dataclass(frozen=True)
class Record:
    """One run, finished or failed.

    Attributes:
        id: the run's identity: hash of its options, its data's fingerprint and the versions that
            matter (:mod:`hiddenkey.lab.plans.identity`).
        options: ``TrainOptions.recorded()``.
        stage: ``compare`` for the runs that are compared, ``search`` for those that only choose
            settings, on a validation part of the training data.
        budget: ``steps`` if all methods take the same number of steps, ``time`` if this run's steps
            were cut so that it takes as long as the baseline.
        status: how it ended.
        result: the outcome of a finished run.
        metrics: the lines of ``metrics.jsonl``, one for each evaluation.
        environment: versions and machine.
        error: the failure, with its traceback.
        attempts: how often the run was begun.
        started: UTC time, ISO 8601.
        ended: likewise.
        observed: what ``hiddenkey run`` saw of a command of somebody else's: the sites, the drop
            rates, and hashes of the first weights and of the batches; empty for runs of ours.
    """

    id: str
    options: Mapping[str, Any]
    stage: Literal["compare", "search"]
    budget: Literal["steps", "time"]
    status: Literal["finished", "failed"]
    result: Result | None
    metrics: tuple[Mapping[str, Any], ...]
    environment: Mapping[str, Any]
    error: str | None
    attempts: int
    started: str
    ended: str
    observed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_command(self) -> bool:
        """Whether a command of somebody else's ran, whose settings are its own."""
        return "command" in self.options

    @property
    def reason(self) -> str:
        """The last line of the error; empty without one."""
        return (self.error or "").strip().rpartition("\n")[2].strip()

    @property
    def diverged(self) -> bool:
        """Whether it failed because its loss was no finite number any more."""
        return DIVERGED in self.reason

    @property
    def counts_as_worst(self) -> bool:
        """Whether it diverged where settings are chosen: a bad setting found, and no failure."""
        return self.stage == "search" and self.diverged

    @property
    def wall_seconds(self) -> float | None:
        """Wall time of a finished run; ``None`` where it is not known.

        Of a run that was interrupted the pauses are left out, and so is loading the model.
        """
        if self.result is None:
            return None
        with suppress(ValueError, TypeError):
            begun, ended = map(datetime.fromisoformat, (self.started, self.ended))
            if self.attempts == 1 and ended > begun:
                return (ended - begun).total_seconds()
        evaluations = (line.get("evaluation_seconds") for line in self.metrics)
        measured = sum(each for each in evaluations if isinstance(each, int | float))
        return self.result.seconds + measured or None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"version": VERSION, **dataclasses.asdict(self), "metrics": list(self.metrics)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """Build a record from :meth:`to_dict`'s form.

        Raises:
            KeyError, TypeError, ValueError: if it is not of that form.
        """
        fields = dict(values)
        if fields.pop("version") != VERSION:
            raise ValueError(f"version {values['version']} is not {VERSION}")
        found: Record = build(cls, fields)
        if found.result is not None and not found.is_command and (lost := found.result.diverged):
            # an earlier version took it for finished
            found = dataclasses.replace(found, status="failed", result=None, error=lost)
        if found.result is not None and found.result.main_metric not in found.result.metrics:
            raise ValueError(f"metrics must hold the main metric {found.result.main_metric!r}")
        if (found.status == "finished") != (found.result is not None):
            raise ValueError("a finished run has a result, a failed one has none")
        for line in build(tuple[Mapping[str, Measured], ...], found.metrics, "metrics"):
            build(int, line.get("step"), "metrics.step")
        for name, hint in hints_of(TrainOptions).items():
            if name in _NEEDED or (name in found.options and not found.is_command):
                build(hint, found.options.get(name), f"options.{name}")
        return found

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read a file that :meth:`save` wrote.

        Raises:
            NOT_A_RECORD: one of these errors, if it cannot be read or is no whole record.
        """
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))

    def save(self, folder: Path) -> Path:
        """Write ``records/ID.json`` in a comparison's folder; a reader never sees half of it."""
        text = json.dumps(self.to_dict(), allow_nan=False) + "\n"
        return write_whole(folder / FOLDER / f"{self.id}.json", text)


def read_records(folder: Path) -> list[Record]:
    """Read all records of a comparison, ordered by identity.

    Raises:
        ConfigError: if the folder holds none, or with every file that is not a whole record.
    """
    paths = sorted((folder / FOLDER).glob("*.json"))
    if not paths:
        raise ConfigError(
            f"the folder must be one that 'hiddenkey compare' wrote, {str(folder)!r} holds no"
            f" {FOLDER}/*.json; give the folder that compare names at its end"
        )
    records, faults = [], []
    for path in paths:
        try:
            records.append(Record.load(path))
        except NOT_A_RECORD as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            faults.append(
                f"{path}: not a whole record ({reason}); delete it, and run the same 'hiddenkey"
                " compare' again to write it anew from the study"
            )
    if faults:
        raise ConfigError(faults)
    return records

"""Seconds of steps that took turns, beside the records in a comparison's folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.files import write_whole
from hiddenkey.lab.evidence.inference import Ratio
from hiddenkey.lab.run.stored import build

FILE: Final = "step_times.json"

Place = tuple[str, str, int, str]
"""Task, model, rank and method; a dropout rate does not change how long a step takes."""


@dataclass(frozen=True)
class StepTimes:
    """Steps of one method and of the baseline on one task, as they took turns.

    Attributes:
        task: name of the task.
        model: as named in the options.
        rank: rank of LoRA.
        method: the method.
        baseline: the method that it took turns with.
        seconds: of a step of the method.
        baseline_seconds: of the baseline's step in the same round.
        versions: of the packages that matter.
    """

    task: str
    model: str
    rank: int
    method: str
    baseline: str
    seconds: tuple[float, ...]
    baseline_seconds: tuple[float, ...]
    versions: Mapping[str, str]

    @property
    def place(self) -> Place:
        """What the times are of."""
        return self.task, self.model, self.rank, self.method

    @property
    def ratio(self) -> Ratio:
        """Seconds per step relative to the baseline's, over the rounds."""
        return Ratio.of(self.seconds, self.baseline_seconds)


def read_step_times(folder: Path) -> list[StepTimes]:
    """Return what was timed in a comparison; nothing if no steps were.

    Raises:
        ConfigError: if the file is damaged.
    """
    path = folder / FILE
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        found: list[StepTimes] = list(build(tuple[StepTimes, ...], rows))
        _ = [each.ratio for each in found]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} must hold the times of steps, got something else ({error}); delete it, and the"
            " next 'hiddenkey compare' times them again"
        ) from error
    return found


def write_step_times(folder: Path, times: Iterable[StepTimes]) -> None:
    """Store the times in a comparison's folder."""
    rows = [dataclasses.asdict(each) for each in times]
    write_whole(folder / FILE, json.dumps(rows, indent=1) + "\n")

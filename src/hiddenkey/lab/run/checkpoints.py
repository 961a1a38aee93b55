"""Which checkpoints of a run are whole, and the evaluations up to each.

Trainer writes them; beside its files each holds the run's evaluations so far and checksums.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from hiddenkey.files import CHECKSUMS, damage
from hiddenkey.lab.run import processes

METRICS: Final = "metrics.jsonl"
WEIGHTS: Final = "*model*.safetensors*"
"""Files of weights; beside them a checkpoint may hold means and predictions in this format."""
DAMAGED: Final = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading a file raises that somebody or something has damaged."""

_NAME: Final = re.compile(r"checkpoint-(\d+)")


def found_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return the steps and folders of all checkpoints in a folder, the newest first."""
    found = [(_NAME.fullmatch(path.name), path) for path in folder.glob("*")]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def evaluations_of(checkpoint: Path, metrics: Path) -> list[dict[str, Any]]:
    """Read the evaluations up to a checkpoint.

    Args:
        checkpoint: its folder.
        metrics: the run's own file of evaluations, for checkpoints of earlier versions.
    """
    kept, step = checkpoint / METRICS, int(checkpoint.name.rpartition("-")[2])
    lines = read_lines(kept if kept.is_file() else metrics)
    return [line for line in lines if line["step"] <= step]


def checkpoint_damage(step: int, folder: Path, metrics: Path) -> str | None:
    """Say what a checkpoint lacks; those that an earlier version wrote have no checksums.

    Args:
        step: that its name gives.
        folder: of the checkpoint.
        metrics: as in :func:`evaluations_of`.
    """
    many = processes.count()
    random = [f"rng_state_{rank}.pth" for rank in range(many)] if many > 1 else ["rng_state.pth"]
    archives = ("optimizer.pt", "scheduler.pt", *random)
    for name in (*archives, "trainer_state.json"):
        if not (folder / name).is_file():
            return f"{name} is missing"
    try:
        if wrong := damage(folder):
            return wrong
        if json.loads((folder / "trainer_state.json").read_bytes())["global_step"] != step:
            return "trainer_state.json is of another step"
        lines = evaluations_of(folder, metrics)
        if lines and lines[-1]["step"] == step:
            return None if (folder / CHECKSUMS).exists() else _archive_damage(folder, archives)
    except DAMAGED as error:
        return f"its files cannot be read ({type(error).__name__})"
    return f"{METRICS} lacks its evaluations"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of evaluations up to the first line that is damaged."""
    lines: list[dict[str, Any]] = []
    for text in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
            if line["step"] <= (lines[-1]["step"] if lines else 0) or "seconds" not in line:
                break
        except DAMAGED:
            break
        lines.append(line)
    return lines


def _archive_damage(folder: Path, archives: Iterable[str]) -> str | None:
    for name in archives:
        if not zipfile.is_zipfile(folder / name) or zipfile.ZipFile(folder / name).testzip():
            return f"{name} is damaged"
    return None if any(folder.glob(WEIGHTS)) else "its weights are missing"

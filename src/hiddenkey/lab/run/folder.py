"""The folder of one run: what it holds, how it is written and when it may be written again.

``config.yaml`` (all settings), ``data.json`` (fingerprint of the examples), ``environment.json``
(versions), ``sites.json`` (where units are dropped), ``metrics.jsonl`` (a line per evaluation), for
generation ``generations.jsonl`` and ``scores.json`` (texts and their scores), ``adapter/`` (PEFT's
files, or the whole model where all of it was trained, the tokenizer and ``hiddenkey_config.json``),
``checkpoints/`` and, last of all, ``result.json``. Each file is written under another name and
renamed when it is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from hiddenkey.errors import ConfigError
from hiddenkey.files import plain, write_whole
from hiddenkey.lab.run.options import TrainOptions

CONFIG: Final = "config.yaml"
RESULT: Final = "result.json"
METRICS: Final = "metrics.jsonl"
_CONTENT: Final = (
    RESULT,
    METRICS,
    "data.json",
    "environment.json",
    "sites.json",
    "generations.jsonl",
    "scores.json",
    "adapter",
    "checkpoints",
    CONFIG,
)

State = Literal["new", "interrupted", "finished"]


class RunFolder:
    """Reads and writes the folder of one run.

    Args:
        path: of the folder.
        writes: whether this process writes; of several, one does.

    Attributes:
        checkpoints: where Trainer keeps its checkpoints.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._writes = writes

    def plan(self, options: TrainOptions, data: Mapping[str, Any]) -> State:
        """Say what a run with these options finds here; nothing is written.

        Returns:
            ``new``: start from nothing (or replace what is there); ``interrupted``: go on from the
            last checkpoint; ``finished``: the result is already there.

        Raises:
            ConfigError: if the folder holds something that these options must not touch.
        """
        if not self.path.exists() or not any(self.path.iterdir()):
            return "new"
        shown = str(self.path)
        if not (self.path / CONFIG).is_file():
            raise ConfigError(
                f"output must be a new folder or a run's, {shown!r} holds other files; name another"
            )
        if options.overwrite:
            return "new"
        finished = (self.path / RESULT).is_file()
        if not options.resume:
            state = "a finished" if finished else "an interrupted"
            way = "read its result.json" if finished else "go on with --resume"
            raise ConfigError(
                f"output must not hold a run, {shown!r} holds {state} one; {way}, replace it with"
                " --overwrite or name another folder"
            )
        if faults := self._differences(options, data):
            raise ConfigError(faults)
        return "finished" if finished else "interrupted"

    def clear(self) -> None:
        """Delete the run that is here, its result first; other files stay."""
        if not self._writes:
            return
        for name in _CONTENT:
            target = self.path / name
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def start(self, options: TrainOptions, data: Mapping[str, Any]) -> None:
        """Write what is known before the first step."""
        import yaml

        if self._writes:
            self.path.mkdir(parents=True, exist_ok=True)
        # what makes the folder a run's comes first: killed here, it can still be gone on with
        text = yaml.safe_dump(options.recorded(), sort_keys=False, allow_unicode=True)
        self.write_text(CONFIG, text)
        self.write_json("data.json", data)

    def write_text(self, name: str, text: str) -> None:
        """Write a file so that a reader sees the old one or the whole new one."""
        if self._writes:
            write_whole(self.path / name, text)

    def write_json(self, name: str, value: Any) -> None:
        """Write JSON; numbers that JSON lacks (NaN, infinities) become null."""
        self.write_text(name, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")

    def write_lines(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Write one JSON object a line; numbers that JSON lacks become null."""
        lines = (json.dumps(plain(record), ensure_ascii=False) for record in records)
        self.write_text(name, "".join(f"{line}\n" for line in lines))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read the evaluations so far."""
        return [json.loads(line) for line in self._read(METRICS).splitlines()]

    def read_environment(self) -> dict[str, Any]:
        """Read what the run was made with; empty if it had not come to that."""
        found: dict[str, Any] = json.loads(self._read("environment.json") or "{}")
        return found

    def _read(self, name: str) -> str:
        path = self.path / name
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def write_adapter(self, save: Callable[[Path], None]) -> None:
        """Let ``save`` fill the adapter's folder, which appears only when it is whole."""
        if not self._writes:
            return
        half, whole = self.path / ".adapter", self.path / "adapter"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir()
        save(half)
        shutil.rmtree(whole, ignore_errors=True)
        half.replace(whole)

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint; Trainer writes its state last of all."""
        found = []
        for folder in self.checkpoints.glob("checkpoint-*"):
            try:
                state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            found.append((int(state["global_step"]), folder))
        return max(found)[1] if found else None

    def _differences(self, options: TrainOptions, data: Mapping[str, Any]) -> list[str]:
        import yaml

        advice = "take the old value, or name another folder"
        try:
            old = yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8"))
            record = self.path / "data.json"
            old_data = json.loads(record.read_text("utf-8")) if record.exists() else dict(data)
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            return [f"{self.path}: the earlier run cannot be read ({reason}); use --overwrite"]
        if not isinstance(old, dict) or not isinstance(old_data, dict):
            return [f"{self.path}: the earlier run cannot be read (no settings); use --overwrite"]
        old = {**TrainOptions().recorded(), **old}  # settings that came after this run
        faults = _changes(old, options.recorded(), str(self.path), advice)
        if not faults and old_data != dict(data):
            faults = _changes(old_data, data, f"{self.path}, data", "restore the data files")
        return faults


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], where: str, advice: str) -> list[str]:
    return [
        f"{where}: a resumed run must keep its settings, {name} was {old.get(name)!r}, got"
        f" {new.get(name)!r}; {advice}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]

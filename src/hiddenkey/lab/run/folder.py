"""The folder of one run: what it holds, how it is written and when it may be written again.

``config.yaml`` (all settings), ``data.json`` (fingerprint of the examples), ``environment.json``
(versions), ``sites.json`` (where units are dropped), ``metrics.jsonl`` (a line per evaluation), for
generation ``generations.jsonl`` and ``scores.json`` (texts and their scores), ``adapter/`` (PEFT's
files, or the whole model where all of it was trained, the tokenizer, ``hiddenkey_config.json``,
``hiddenkey_run.json`` with the settings that whoever loads it needs, and the model card),
``checkpoints/`` and, last of all, ``result.json``. Each file is written under another name and
renamed when it is whole. ``checksums.json`` tells damage in a checkpoint, and in what a run found.
A checkpoint holds the evaluations up to it; a resumed run goes on from the newest whole one.
"""

from __future__ import annotations

import errno
import json
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from hiddenkey.errors import ConfigError
from hiddenkey.files import CHECKSUMS, damage, plain, seal, write_whole
from hiddenkey.lab.run import processes
from hiddenkey.lab.run.checkpoints import (
    DAMAGED,
    METRICS,
    WEIGHTS,
    checkpoint_damage,
    evaluations_of,
    found_checkpoints,
    read_lines,
)
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Result, evaluation_steps

CONFIG: Final = "config.yaml"
RESULT: Final = "result.json"
DATA: Final = "data.json"
_FOUND: Final = (RESULT, METRICS, "generations.jsonl", "scores.json", "adapter")
_CONTENT: Final = (
    *_FOUND,
    CHECKSUMS,
    DATA,
    "environment.json",
    "sites.json",
    "checkpoints",
    CONFIG,
)

RunState = Literal["new", "interrupted", "finished"]

_MOST_SHOWN: Final = 5


class RunFolder:
    """Reads and writes the folder of one run.

    Args:
        path: of the folder.
        writes: whether this process writes; of several, one does.

    Attributes:
        checkpoints: where Trainer keeps its checkpoints.
        damages: what was found damaged and will be made anew, a sentence each.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.damages: list[str] = []
        self._writes = writes

    def plan(self, options: TrainOptions, data: Mapping[str, Any]) -> RunState:
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
            if self._is_stump():
                return "new"
            raise ConfigError(
                f"output must be a new folder or a run's, {shown!r} holds other files; name another"
            )
        if options.overwrite:
            return "new"
        finished = (self.path / RESULT).is_file()
        if not options.resume:
            state = "a finished" if finished else "an interrupted"
            go_on = f"go on with 'hiddenkey train --resume {shlex.quote(shown)}'"
            way = "read its result.json" if finished else go_on
            raise ConfigError(
                f"output must not hold a run, {shown!r} holds {state} one{self._compared(options)};"
                f" {way}, replace it with --overwrite or name another folder"
            )
        if faults := self._differences(options, data):
            raise ConfigError(faults)
        if finished and (wrong := self._unfinished(options)):
            self.damages.append(f"{shown} held a finished run, of which {wrong}: it is made anew")
            return "interrupted"
        return "finished" if finished else "interrupted"

    def _is_stump(self) -> bool:
        """Whether all that is here is of a run that died before it had its settings on the disk."""
        halves = tuple(f".{name}." for name in _CONTENT)
        names = [path.name for path in self.path.iterdir()]
        return all(name in _CONTENT or name.startswith(halves) for name in names)

    def _unfinished(self, options: TrainOptions) -> str | None:
        """Say what a finished run lacks."""
        try:
            steps = Result.load(self.path).steps
            wanted = evaluation_steps(steps, options.evaluations)
        except DAMAGED as error:
            return f"{RESULT} cannot be read ({type(error).__name__}: {error})"
        if [line["step"] for line in self.read_metrics()] != wanted:
            return f"{METRICS} is not whole"
        if not any((self.path / "adapter").glob("*")):
            return "the adapter is missing"
        return damage(self.path)

    def write_result(self, result: Result) -> None:
        """Write the result last of all, and the checksums of what the run has found."""
        self.write_json(RESULT, result.to_dict())
        if self._writes:
            seal(self.path, *_FOUND)

    def tidy(self) -> None:
        """Write the checksums of a finished run whose process died while it wrote them."""
        if self._writes and any(self.path.glob(f".{CHECKSUMS}*")):
            self._remove_halves()
            seal(self.path, *_FOUND)

    def clear(self) -> None:
        """Delete the run that is here, its result first; other files stay."""
        if not self._writes:
            return
        for name in _CONTENT:
            _remove(self.path / name)
        self._remove_halves()

    def _remove_halves(self) -> None:
        for name in _CONTENT:
            for half in self.path.glob(f".{name}*"):
                _remove(half)

    def start(self, options: TrainOptions, data: Mapping[str, Any]) -> None:
        """Write what is known before the first step."""
        import yaml

        if self._writes:
            self.path.mkdir(parents=True, exist_ok=True)
        # what makes the folder a run's comes first: killed here, it can still be gone on with
        text = yaml.safe_dump(options.recorded(), sort_keys=False, allow_unicode=True)
        self.write_text(CONFIG, text)
        self.write_json(DATA, data)

    def write_text(self, name: str, text: str) -> None:
        """Write a file so that a reader sees the old one or the whole new one.

        Raises:
            FileNotFoundError: if somebody deleted the folder since the run began.
        """
        if not self._writes:
            return
        if name != CONFIG and not (self.path / CONFIG).is_file():
            reason = "somebody deleted the run's folder while it was trained"
            raise FileNotFoundError(errno.ENOENT, reason, str(self.path))
        write_whole(self.path / name, text)

    def write_json(self, name: str, value: Any) -> None:
        """Write JSON; numbers that JSON lacks (NaN, infinities) become null."""
        self.write_text(name, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")

    def write_lines(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Write one JSON object a line; numbers that JSON lacks become null."""
        lines = (json.dumps(plain(record), ensure_ascii=False) for record in records)
        self.write_text(name, "".join(f"{line}\n" for line in lines))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read the evaluations so far, up to the first line that is damaged."""
        return read_lines(self.path / METRICS)

    def read_environment(self) -> dict[str, Any]:
        """Read what the run was made with; empty if it had not come to that, or is damaged."""
        try:
            return dict(json.loads((self.path / "environment.json").read_bytes()))
        except DAMAGED:
            return {}

    def write_adapter(self, save: Callable[[Path], None]) -> None:
        """Let ``save`` fill the adapter's folder, which appears only when it is whole."""
        if not self._writes:
            return
        half, whole = self.path / ".adapter", self.path / "adapter"
        _remove(half)
        half.mkdir()
        save(half)
        _remove(whole)
        half.replace(whole)

    def keep_checkpoint(
        self, step: int, lines: Iterable[Mapping[str, Any]], best: int | None = None
    ) -> None:
        """Seal the checkpoint that Trainer has written, with its evaluations; delete older ones.

        Args:
            step: of the checkpoint.
            lines: the evaluations up to it.
            best: the step of an older one that stays.
        """
        processes.wait()  # each process adds the state of its random numbers
        if not self._writes:
            return
        kept = self.checkpoints / f"checkpoint-{step}"
        self.write_lines(f"checkpoints/{kept.name}/{METRICS}", lines)
        seal(kept)
        for number, other in found_checkpoints(self.checkpoints):
            if number not in (step, best):
                _remove(other)

    @contextmanager
    def refused_writes(self) -> Iterator[None]:
        """Raise ``OSError`` where libraries report a full disk as an error of their own.

        Raises:
            OSError: if the folder takes no more.
        """
        try:
            yield
        except Exception as error:
            try:
                self.write_text(".probe", " " * 2**20)
            except OSError as refused:
                raise refused from error
            raise
        finally:
            (self.path / ".probe").unlink(missing_ok=True)

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint; what is wrong with newer ones joins :attr:`damages`."""
        if self._writes:
            self._remove_halves()
        damages = []
        for step, folder in found_checkpoints(self.checkpoints):
            wrong = checkpoint_damage(step, folder, self.path / METRICS)
            if wrong is None:
                break
            damages.append(f"{folder} cannot be used, {wrong}")
        else:
            step, folder = 0, None
        self.damages += [f"{said}: the training goes on from step {step}" for said in damages]
        return folder

    def weights_of(self, step: int) -> Path | None:
        """The whole checkpoint of a step, if there is one; else :attr:`damages` says so."""
        folder = self.checkpoints / f"checkpoint-{step}"
        wrong = damage(folder) if any(folder.glob(WEIGHTS)) else "its weights are missing"
        if wrong is None:
            return folder
        said = f"{folder} was the best and cannot be used, {wrong}"
        self.damages.append(f"{said}: the adapter holds the weights of the last step")
        return None

    def evaluations(self, checkpoint: Path) -> list[dict[str, Any]]:
        """Read the evaluations up to a checkpoint."""
        return evaluations_of(checkpoint, self.path / METRICS)

    def read_data(self) -> dict[str, Any]:
        """Read the fingerprint of the examples; empty where there is none that can be read."""
        try:
            return dict(json.loads((self.path / DATA).read_bytes()))
        except (OSError, ValueError, TypeError, RecursionError):
            return {}

    def _compared(self, options: TrainOptions) -> str:
        """Say which settings the run that is here has not in common with these."""
        import yaml

        try:
            old = dict(yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8")))
        except (*DAMAGED, yaml.YAMLError):
            return ""
        new = options.recorded()
        old = {**TrainOptions().recorded(), **old}
        found = [f"{n} {old.get(n)!r}, not {new.get(n)!r}" for n in new if old.get(n) != new[n]]
        more = len(found) - _MOST_SHOWN
        rest = [f"{more} more"] * (more > 0)
        said = ", ".join([*found[:_MOST_SHOWN], *rest])
        return f" with {said}" if found else " with the same settings"

    def _differences(self, options: TrainOptions, data: Mapping[str, Any]) -> list[str]:
        import yaml

        advice = "take the old value, or name another folder"
        try:
            old = yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8"))
            record = self.path / DATA
            old_data = json.loads(record.read_text("utf-8")) if record.exists() else dict(data)
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            return [f"{self.path}: the earlier run cannot be read ({reason}); use --overwrite"]
        if not isinstance(old, dict) or not isinstance(old_data, dict):
            return [f"{self.path}: the earlier run cannot be read (no settings); use --overwrite"]
        old = {**TrainOptions().recorded(), **old}  # settings that came after this run
        faults = _changes(old, options.recorded(), str(self.path), advice)
        if not faults and old_data != dict(data):
            faults = _changes(old_data, data, f"{self.path}, data", "restore the data files")
        return faults


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], where: str, advice: str) -> list[str]:
    return [
        f"{where}: a resumed run must keep its settings, {name} was {old.get(name)!r}, got"
        f" {new.get(name)!r}; {advice}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]

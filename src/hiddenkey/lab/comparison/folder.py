"""The folder of a comparison: its run folders, its locks, and whether it takes another byte."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from hiddenkey.errors import ConfigError

_ROOM_BYTES: Final = 2**20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_POLL_SECONDS: Final = 0.2


class ComparisonFolder:
    """Where the runs of a comparison are kept on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    def prepare(self) -> None:
        """Create the folder.

        Raises:
            ConfigError: if it cannot be written or is full.
        """
        try:
            (self.path / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(_unwritable(self.path, error)) from error
        if fault := self.fault():
            raise ConfigError(fault)

    def fault(self) -> str | None:
        """What keeps the folder from being written, in a sentence, or ``None``."""
        trial = self.path / f".room.{os.getpid()}"
        try:
            with trial.open("wb") as file:
                file.write(bytes(_ROOM_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            return _unwritable(self.path, error)
        finally:
            with suppress(OSError):
                trial.unlink(missing_ok=True)
        return None

    def run(self, identity: str) -> Path:
        """The folder of one run."""
        return self.path / "runs" / identity

    def clear_stump(self, identity: str) -> None:
        """Remove a run folder whose worker was killed before it wrote the run's settings."""
        run = self.run(identity)
        if run.is_dir() and not (run / "config.yaml").is_file():
            shutil.rmtree(run)

    @property
    def identity(self) -> str:
        """A name of this folder that no other folder has, on whatever machine."""
        path = self.path / "locks" / "folder"
        with suppress(FileNotFoundError):
            return path.read_text(encoding="utf-8")
        half = path.with_name(f".folder.{os.getpid()}")
        half.write_text(uuid.uuid4().hex, encoding="utf-8")
        with suppress(FileExistsError):
            os.link(half, path)  # the first of two processes wins
        half.unlink()
        return path.read_text(encoding="utf-8")

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the lock of a job; wait for it while another process of this machine works on it.

        The kernel frees it when the process ends, however it ends.
        """
        with self._lock_file(key).open("w") as file:
            while not _try_lock(file):
                time.sleep(_POLL_SECONDS)
            yield

    def is_free(self, key: str) -> bool:
        """Whether no living process of this machine holds the lock of a job."""
        try:
            with self._lock_file(key).open("r+") as file:
                return _try_lock(file)
        except FileNotFoundError:
            return True

    def _lock_file(self, key: str) -> Path:
        return self.path / "locks" / key


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unwritable(path: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return (
            f"output must be a folder with free space, {str(path)!r} takes no more ({reason}); free"
            " some space and run the same command again: finished runs are kept"
        )
    return (
        f"output must be a folder that can be written, got {str(path)!r} ({reason}); name another"
    )

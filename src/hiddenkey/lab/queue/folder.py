"""The folder of some jobs: its run folders, its locks, and whether it takes another byte."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from hiddenkey.errors import ConfigError

_ROOM_BYTES: Final = 2**20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_POLL_SECONDS: Final = 0.2


class WorkFolder:
    """Where the runs of some jobs are kept on this machine."""

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
        with self._lock_on(key).acquire(poll_interval=_POLL_SECONDS):
            yield

    def is_free(self, key: str) -> bool:
        """Whether no living process of this machine holds the lock of a job."""
        lock = self._lock_on(key)
        if not Path(lock.lock_file).is_file():  # to take the lock would create it
            return True
        try:
            with lock.acquire(blocking=False):
                return True
        except Timeout:
            return False

    def _lock_on(self, key: str) -> FileLock:
        # A soft lock would outlive a killed process: where the kernel has no locks, say so instead.
        return FileLock(self.path / "locks" / key, fallback_to_soft=False)


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

"""The database of jobs, as Optuna's studies: how it is opened, and its errors in plain words.

Optuna does the sharing: a trial is taken by one worker, its heartbeat shows that the worker lives,
and a trial without one is failed and queued again.
"""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Final, TypeVar

import optuna
import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from hiddenkey.errors import ConfigError
from hiddenkey.installation import install_command
from hiddenkey.lab.queue.store import JobStore

MOST_DEATHS: Final = 10
"""How often the worker of one job may die before the job counts as failed."""

_WAIT_SECONDS: Final = 60
_CONNECT_SECONDS: Final = 10
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class _UnreadableError(Exception):
    """A URL that cannot be taken apart."""


class Storage(RDBStorage):  # type: ignore[misc]
    """Optuna's storage, whose heartbeat outlives a moment in which the database is away."""

    def record_heartbeat(self, trial_id: int) -> None:
        """Record a sign of life; a failure only means that this one is missing."""
        try:
            super().record_heartbeat(trial_id)
        except StorageInternalError as error:
            _log.warning("no heartbeat for trial %d: %s", trial_id, _reason(error))


def open_storage(store: JobStore) -> Storage:
    """Connect to a database and create its tables where they are missing.

    Raises:
        ConfigError: if the URL is none, its driver is missing or the database cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with storage_errors(store):
        try:
            sqlalchemy.make_url(store.url)
        except ValueError as error:  # a port that is no number
            raise _UnreadableError(error) from None
        try:
            return _connect(_with_installed_driver(store.url), store)
        except ImportError as error:
            raise ConfigError(
                "storage needs a database driver that is not installed, got"
                f" {_shown(store.url)!r} ({_reason(error)}); for PostgreSQL run:"
                f" {install_command('postgres')}"
            ) from error


def open_study(storage: Storage, name: str) -> tuple[optuna.Study, bool]:
    """Open a study, maximised; the second value says whether this call created it."""
    # The sampler is set for each trial of a search; a grid's trials draw nothing.
    sampler = optuna.samplers.RandomSampler(seed=0)
    try:
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", sampler=sampler
        )
    except DuplicatedStudyError:
        return optuna.load_study(study_name=name, storage=storage, sampler=sampler), False
    return study, True


def _connect(url: str, store: JobStore) -> Storage:
    for attempt in range(10):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                storage = Storage(
                    # Optuna formats the URL: braces of a path must survive that
                    url=url.replace("{", "{{").replace("}", "}}"),
                    engine_kwargs=_engine_settings(url),
                    heartbeat_interval=store.heartbeat,
                    grace_period=store.grace,
                    heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(MOST_DEATHS),
                )
        except SQLAlchemyError as error:
            # Two commands that start at once both create the tables, and one comes too late.
            if attempt == 9 or not (
                isinstance(error, IntegrityError) or "already exists" in str(error)
            ):
                raise
            time.sleep(0.2)
        else:
            if storage.engine.name == "sqlite":
                _lock_whole_transactions(storage)
            return storage
    raise AssertionError("unreachable")


def _engine_settings(url: str) -> dict[str, Any]:
    kind = url.partition(":")[0].partition("+")[0]
    if kind == "sqlite":
        return {"connect_args": {"timeout": _WAIT_SECONDS}}
    known = {"postgresql", "mysql", "mariadb"}
    wait = {"connect_args": {"connect_timeout": _CONNECT_SECONDS}} if kind in known else {}
    return {**wait, "pool_pre_ping": True}  # a server that was restarted is connected to anew


def _lock_whole_transactions(storage: Storage) -> None:
    """Make SQLite lock at the start of a transaction, not at its first write.

    SQLite has no ``SELECT ... FOR UPDATE``: two workers would both read that a trial waits, and
    both take it. This is SQLAlchemy's documented way to change when the lock is taken.
    """

    def leave_to_us(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sqlalchemy.event.listen(storage.engine, "connect", leave_to_us)
    sqlalchemy.event.listen(storage.engine, "begin", begin)
    storage.scoped_session.remove()
    storage.engine.dispose()  # connections from before do not know the rule


def _with_installed_driver(url: str) -> str:
    """Let ``postgresql://`` mean the driver that is there."""
    scheme, found, rest = url.partition("://")
    if found and scheme in ("postgresql", "postgres"):
        driver = "psycopg" if find_spec("psycopg2") is None else "psycopg2"
        return f"postgresql+{driver}://{rest}"
    return url


@contextmanager
def storage_errors(store: JobStore) -> Iterator[None]:
    """Turn the loss of the database into one clear error."""
    url = store.url
    try:
        yield
    except (ArgumentError, _UnreadableError) as error:
        raise ConfigError(
            f"storage must be the URL of a database, got {_shown(url)!r} ({_reason(error)}); for"
            " example sqlite:////folder/study.db or postgresql://user:password@host/name"
        ) from error
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "schema" not in str(error):
            raise
        damaged = ("malformed", "not a database")
        if store.own_file is not None and any(word in _reason(error) for word in damaged):
            raise ConfigError(
                f"{store.own_file} is damaged ({_reason(error)}); delete it and run the same"
                " command again: finished runs are taken from the records in the folder"
            ) from error
        raise ConfigError(
            f"storage must be a database that can be reached and written, {_shown(url)!r} is not"
            f" ({_reason(error)}); start the server or correct the URL and run the same command"
            " again: finished runs are kept"
        ) from error


def outlast_outages(store: JobStore, call: Callable[[], Result], seconds: float = 120) -> Result:
    """Call a function that may be repeated; again and again while a server is away.

    Args:
        store: what the function reads and writes. A file of one's own is not waited for.
        call: the function.
        seconds: how long to try.
    """
    pause, deadline = 1.0, time.monotonic() + seconds
    while True:
        try:
            return call()
        except (SQLAlchemyError, StorageInternalError) as error:
            if store.url.startswith("sqlite") or time.monotonic() > deadline:
                raise
            _log.warning("the database is away (%s); trying again in %g s", _reason(error), pause)
            time.sleep(pause)
            pause = min(2 * pause, 15.0)


def _shown(url: str) -> str:
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):  # a password is hidden, whatever else is wrong
        return re.sub(r"(://[^/@]*?:).*@", r"\1***@", url)


def _reason(error: BaseException) -> str:
    """The innermost reason, one line, without SQLAlchemy's link to its manual."""
    inner: BaseException = error.__cause__ or error
    inner = getattr(inner, "orig", None) or inner
    return " ".join(str(inner).split())[:300] or type(inner).__name__

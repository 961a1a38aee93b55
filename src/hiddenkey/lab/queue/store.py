"""Where jobs are kept; light, so that a plan can be read without a database."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VARIABLE: Final = "HIDDENKEY_STORAGE"
"""Environment variable of the database's URL, which keeps a password off the command line."""

FILE: Final = "study.db"
"""Name of the default database in the folder."""


@dataclass(frozen=True)
class JobStore:
    """The database and the folder that the workers of some jobs share.

    Attributes:
        folder: where this machine keeps what the jobs write.
        given_url: of the database; ``None`` asks the environment variable, and else means an SQLite
            file in the folder.
        heartbeat: seconds between two signs of life of a worker.
        grace: seconds without one after which another worker takes its job over.
    """

    folder: Path
    given_url: str | None = None
    heartbeat: int = 20
    grace: int = 120

    @property
    def url(self) -> str:
        """URL of the database."""
        if self._elsewhere:
            return self._elsewhere
        from sqlalchemy import URL

        url = URL.create("sqlite", database=str(self.folder.resolve() / FILE))
        return url.render_as_string(hide_password=False)

    @property
    def exists(self) -> bool:
        """Whether there is a database to read, as far as is known without asking a server."""
        return bool(self._elsewhere) or (self.folder / FILE).is_file()

    @property
    def own_file(self) -> Path | None:
        """The SQLite file in the folder, if that is the database."""
        return None if self._elsewhere else self.folder / FILE

    @property
    def _elsewhere(self) -> str | None:
        return self.given_url or os.environ.get(VARIABLE)

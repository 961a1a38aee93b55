"""Where jobs are kept; light, so that a plan can be read without a database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

FILE: Final = "study.db"
"""Name of the default database in the folder."""


@dataclass(frozen=True)
class JobStore:
    """The database and the folder that the workers of some jobs share.

    Attributes:
        folder: where this machine keeps what the jobs write.
        given_url: of the database; ``None`` means an SQLite file in the folder.
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
        if self.given_url:
            return self.given_url
        from sqlalchemy import URL

        url = URL.create("sqlite", database=str(self.folder.resolve() / FILE))
        return url.render_as_string(hide_password=False)

    @property
    def exists(self) -> bool:
        """Whether there is a database to read, as far as is known without asking a server."""
        return bool(self.given_url) or (self.folder / FILE).is_file()

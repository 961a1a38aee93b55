"""The one writer of a page's files: text, tables and pictures, each of which appears whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.files import plain, write_whole
from hiddenkey.lab.present.canvas import Plot, render, standalone
from hiddenkey.lab.present.entries import Grid
from hiddenkey.lab.present.formats import FORMATS
from hiddenkey.lab.present.markup import Picture

FIGURES: Final = "figures"
TABLES: Final = "tables"
_CONTENTS: Final = "contents.json"


class PageFolder:
    """A folder that the files of a page are written to.

    Args:
        folder: where to; see :func:`page_folder`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: list[str] = []

    def write(self, name: str, text: str) -> Path:
        """Write a text and return its path."""
        self._names.append(name)
        return write_whole(self.folder / name, text.encode())

    def write_values(self, name: str, values: Mapping[str, Any]) -> Path:
        """Write values as JSON, after :func:`plain`."""
        text = json.dumps(plain(values), allow_nan=False, indent=1, ensure_ascii=False)
        return self.write(name, f"{text}\n")

    def draw(self, plots: Iterable[Plot], under: str = "") -> list[Picture]:
        """Draw plots, write each as SVG and PNG under its name, and return them for the page.

        Args:
            plots: with names that no two share.
            under: folder inside this one.
        """
        pictures = []
        for plot in plots:
            svg, png = render(plot)
            self.write(f"{under}/{plot.name}.svg".lstrip("/"), standalone(svg))
            self._names.append(f"{under}/{plot.name}.png".lstrip("/"))
            write_whole(self.folder / self._names[-1], png)
            pictures.append(Picture(plot, svg))
        return pictures

    def tabulate(self, grid: Grid, formats: Iterable[str] = FORMATS, under: str = TABLES) -> None:
        """Write a table in several formats.

        Args:
            grid: the table.
            formats: keys of :data:`~hiddenkey.lab.present.formats.FORMATS`.
            under: folder inside this one.
        """
        for ending in formats:
            self.write(f"{under}/{grid.name}.{ending}", FORMATS[ending](grid))

    def remove_older(self) -> None:
        """Remove the figures and tables of an earlier page that this one does not have.

        ``contents.json`` lists what a page consists of. Files that it does not list, and files
        outside the folders of figures and tables, are left alone.
        """
        own = {name for name in self._names if _is_own(name)}
        for name in _read_contents(self.folder) - own:
            (self.folder / name).unlink(missing_ok=True)
        text = json.dumps(sorted(own), indent=1)
        write_whole(self.folder / _CONTENTS, f"{text}\n".encode())


@contextmanager
def page_folder(folder: Path) -> Iterator[PageFolder]:
    """Make a folder to write to, and say plainly when it or a file in it cannot be written.

    Raises:
        ConfigError: if the system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield PageFolder(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"output must be a folder that can be written, got {str(folder)!r} ({reason}); free"
            " space, change its permissions or name another with --output"
        ) from error


def _read_contents(folder: Path) -> set[str]:
    """Return the files of the page that is here; names outside its folders do not count."""
    try:
        names = json.loads((folder / _CONTENTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    known = names if isinstance(names, list) else []
    return {name for name in known if isinstance(name, str) and _is_own(name)}


def _is_own(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return len(parts) == 2 and parts[0] in (FIGURES, TABLES) and parts[1] not in (".", "..")

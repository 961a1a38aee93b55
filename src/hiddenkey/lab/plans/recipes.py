"""The recipes that come with the package: found by name, and copied to where they can be changed.

A name is a path below the folder without its ending, such as ``minilm_headlines_lora`` or
``claims/scales/tiny``. Only the standard library is imported, so that the list comes at once.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Final

from hiddenkey.errors import ConfigError

FOLDER: Final = Path(__file__).parents[2] / "recipes"
"""Where the recipes are."""

_WRITTEN: Final = "recipes"
"""What the recipes' own texts call their folder."""

_SUFFIX: Final = ".yaml"
_COMMAND: Final = re.compile(r"^#   ((?:hiddenkey|accelerate) .*)$", re.MULTILINE)


@dataclass(frozen=True)
class Recipe:
    """A file of settings whose header says what it is for.

    Attributes:
        name: path below the folder of recipes, without its ending.
    """

    name: str

    @property
    def path(self) -> Path:
        """The file that comes with the package."""
        return FOLDER / self._file

    @property
    def _file(self) -> str:
        return f"{self.name}{_SUFFIX}"

    @property
    def group(self) -> str:
        """The folder below the folder of recipes; empty for the recipes that lie in none."""
        return self.name.rpartition("/")[0]

    @cached_property
    def text(self) -> str:
        """The content of the file."""
        return self.path.read_text(encoding="utf-8")

    @property
    def summary(self) -> str:
        """The first line of the header."""
        return self.text.partition("\n")[0].removeprefix("# ")

    @property
    def command(self) -> str:
        """The command that runs the recipe, from where the package has it or a copy of its own."""
        if self.group == "claims":
            claim = PurePath(self.name).name.upper()
            return f"hiddenkey claims {claim} --scale small --data DATA_FOLDER"
        found = _COMMAND.search(self.text)
        return found[1] if found else ""

    def command_for_copy(self, folder: PurePath) -> str:
        """The command that runs the copy in a folder.

        Args:
            folder: what :func:`copy` was given.
        """
        if self.group == "claims":
            return f"{self.command} --plans {_quoted(folder / self.group)}"
        here, scale = _quoted(folder / self._file), PurePath(self.name).name
        command = self.command.replace(f"{_WRITTEN}/{self._file}", here)
        return command.replace(f"--scale {scale}", f"--scale {here}")

    def companions(self) -> list[Path]:
        """The other files without which a copy cannot be used."""
        beside = self.path.parent.glob(f"{self.path.stem}.*")
        scales = (FOLDER / "claims" / "scales").iterdir() if self.group == "claims" else ()
        return sorted({*beside, *scales} - {self.path})


def recipes() -> dict[str, Recipe]:
    """Return every recipe by its name, those in no folder first."""
    names = (path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))
    return {name: Recipe(name) for name in sorted(names, key=lambda name: (name.count("/"), name))}


def find(word: str) -> Recipe | None:
    """Return the recipe that a word means: its name, with or without ``recipes/`` and ``.yaml``."""
    return recipes().get(_name(word))


def located(word: str) -> str:
    """Return the file that a word means: itself if there is one, else the recipe of that name."""
    recipe = None if os.path.isfile(word) else find(word)  # unlike Path's, true of no broken name
    return word if recipe is None else str(recipe.path)


def select(word: str) -> list[Recipe]:
    """Return the recipe of a name, or all that are in the folder of that name.

    Raises:
        ConfigError: if there is neither.
    """
    known, name = recipes(), _name(word)
    inside = [recipe for full, recipe in known.items() if name and full.startswith(f"{name}/")]
    found = [known[name]] if name in known else inside
    if not found:
        raise ConfigError(
            f"recipe must be the name of one or of a folder of some, got {word!r}{near(word)}"
        )
    return found


def near(word: str) -> str:
    """Return the question whether a similar recipe was meant, and where all of them are listed."""
    known, name = recipes(), _name(word)
    same = [full for full in known if full.rpartition("/")[2] == name]
    close = same or difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    question = f"; did you mean {' or '.join(map(repr, close))}?" if close else ";"
    return f"{question} see 'hiddenkey recipes' for all names"


def copy(chosen: Iterable[Recipe], folder: Path) -> list[Path]:
    """Copy recipes, and what they need, to the same places below a folder.

    Where a copy names itself or another copy, it names the place where that lies now.

    Args:
        chosen: the recipes.
        folder: is made if there is none.

    Returns:
        The files that were written.

    Raises:
        ConfigError: if a file is already there, or cannot be written; then nothing is written.
    """
    chosen = list(chosen)
    own = [recipe.path for recipe in chosen]
    shared = sorted({path for recipe in chosen for path in recipe.companions()} - {*own})
    places = {path: folder / path.relative_to(FOLDER) for path in (*own, *shared)}
    texts = {places[path]: _moved(path.read_text(encoding="utf-8"), places) for path in places}
    # what several recipes need may be there already, from a copy of another one
    for place in (places[path] for path in shared):
        if place.is_file() and place.read_bytes() == texts[place].encode():
            del texts[place]
    if present := sorted(str(place) for place in texts if place.exists()):
        more = f" and {len(present) - 1} more" if len(present) > 1 else ""
        raise ConfigError(
            f"a copy must not overwrite a file, got {present[0]}{more}; give another folder with"
            " --output"
        )
    _write(texts, folder)
    return list(texts)


def _write(texts: Mapping[Path, str], folder: Path) -> None:
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ConfigError(
            f"output must be a folder that can be written, got {str(folder)!r}"
            f" ({error.strerror}); name another"
        ) from error


def _moved(text: str, places: Mapping[Path, PurePath]) -> str:
    """The text, with the files below ``recipes`` that it names where their copies lie."""
    for path, place in places.items():
        written = f"{_WRITTEN}/{path.relative_to(FOLDER).as_posix()}"
        text = text.replace(written, place.as_posix())
    return text


def _quoted(path: PurePath) -> str:
    return shlex.quote(path.as_posix())


def _name(word: str) -> str:
    name = Path(word).as_posix().removesuffix(_SUFFIX)
    return name.removeprefix(f"{_WRITTEN}/")

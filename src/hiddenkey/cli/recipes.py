"""``hiddenkey recipes``: the settings of whole runs that come with the package, and copies of them.

Only the standard library is imported, so that the list comes at once.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from hiddenkey.errors import ConfigError
from hiddenkey.lab.plans import recipes
from hiddenkey.lab.plans.recipes import Recipe

_HEADINGS: Final = {
    "compare": "comparisons: hiddenkey compare NAME",
    "train": "single runs: hiddenkey train --config NAME",
    "claims": "claims: hiddenkey claims C1 --scale SCALE",
    "claims/scales": "scales of the claims: hiddenkey claims --scale SCALE",
    "distributed": "several processes: copy one, then accelerate launch --config_file FILE",
}


def run(arguments: list[str]) -> int:
    """List the recipes or copy some, and return the exit status."""
    options = _parser().parse_args(arguments)
    folder = Path("recipes" if options.output is None else options.output)
    if options.all and options.name is not None:
        raise ConfigError(f"--all copies every recipe, got {options.name!r} too; leave one out")
    if options.all:
        _copy(list(recipes.recipes().values()), folder)
    elif options.name is not None:
        _copy(recipes.select(options.name), folder)
    elif options.output is not None:
        raise ConfigError(
            f"--output is for copies, got {options.output!r} without a recipe; name one or give"
            " --all"
        )
    else:
        _list()
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hiddenkey recipes",
        description="List the recipes that come with the package, or copy some to change them."
        " Commands take a recipe's name in place of a file.",
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="recipe or group to copy")
    parser.add_argument("--all", action="store_true", help="copy every recipe")
    parser.add_argument(
        "--output", metavar="FOLDER", help="folder of the copies (default: recipes)"
    )
    return parser


def _list() -> None:
    known = recipes.recipes()
    groups: dict[str, list[Recipe]] = {kind: [] for kind in _HEADINGS}
    for recipe in known.values():
        groups.setdefault(_kind(recipe), []).append(recipe)
    width = max(map(len, known))
    for kind, found in groups.items():
        print(_HEADINGS.get(kind, kind))
        for recipe in found:
            print(_row(recipe, width))
        print()
    print("'hiddenkey recipes NAME' copies one to the folder recipes, where it can be changed.")


def _kind(recipe: Recipe) -> str:
    return recipe.group or recipe.command.split()[1]


def _row(recipe: Recipe, width: int) -> str:
    line = f"  {recipe.name:<{width}}  {recipe.summary}"
    if not sys.stdout.isatty():
        return line
    columns = max(shutil.get_terminal_size().columns, width + 30)
    return textwrap.fill(line, columns, subsequent_indent=" " * (width + 4))


def _copy(chosen: Sequence[Recipe], folder: Path) -> None:
    for path in recipes.copy(chosen, folder):
        print(f"written: {path}")
    if len(chosen) == 1:
        print(f"run it with: {chosen[0].command_for_copy(folder)}")
    else:
        print("the command that runs a recipe is in its header")

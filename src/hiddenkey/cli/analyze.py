"""``hiddenkey analyze NAME``: each analysis is a command of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from hiddenkey.cli.commands import ANALYSES, listing
from hiddenkey.errors import ConfigError, not_one_of

STUDIES: Final = ("gradient-noise", "transfer")
"""Analyses that are in the repository's folder ``studies`` and not in the package."""


def run(arguments: list[str]) -> int:
    """Run the analysis that the first word names and return its exit status.

    Raises:
        ConfigError: if there is no analysis of that name.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    name, *rest = arguments
    if name not in ANALYSES:
        raise ConfigError(not_one_of("analysis", name, ANALYSES, "; see hiddenkey analyze --help"))
    return (
        _run_study(name, rest) if name in STUDIES else ANALYSES[name].run(f"analyze {name}", rest)
    )


def _run_study(name: str, arguments: list[str]) -> int:
    """Run a study of the repository, which is not part of the package.

    Raises:
        ConfigError: if the package was installed without the repository around it.
    """
    folder = Path(__file__).parents[3] / "studies"
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        return ANALYSES[name].run(f"analyze {name}", arguments)
    except ModuleNotFoundError as error:
        package = ANALYSES[name].module.partition(".")[0]
        if error.name != package:
            raise
        raise ConfigError(
            f"analysis {name!r} must be run from a checkout of the source, got an installed"
            f" package; there, run: python studies/{package}"
        ) from None


_HELP: Final = f"""\
usage: hiddenkey analyze NAME [settings]

analyses:
{listing(ANALYSES)}

'hiddenkey analyze NAME --help' shows an analysis's settings."""

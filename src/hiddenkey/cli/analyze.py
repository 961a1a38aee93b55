"""``hiddenkey analyze NAME``: each analysis is a study of the repository, not of the package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from hiddenkey.cli.commands import ANALYSES, listing
from hiddenkey.errors import ConfigError, not_one_of


def run(arguments: list[str]) -> int:
    """Run the analysis that the first word names and return its exit status.

    Raises:
        ConfigError: if there is no analysis of that name, or the package was installed without the
            repository around it.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    name, *rest = arguments
    if name not in ANALYSES:
        raise ConfigError(not_one_of("analysis", name, ANALYSES, "; see hiddenkey analyze --help"))
    folder = Path(__file__).parents[3] / "studies"
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        return ANALYSES[name].run(f"analyze {name}", rest)
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

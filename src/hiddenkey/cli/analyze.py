"""``hiddenkey analyze NAME``: each analysis is a module with a ``run`` of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.run.rules import suggestion


@dataclass(frozen=True)
class Analysis:
    """An analysis that can be run.

    Attributes:
        module: its ``run(arguments)`` returns the exit status.
        summary: the question that it answers, in one line.
    """

    module: str
    summary: str


ANALYSES: Final[Mapping[str, Analysis]] = MappingProxyType(
    {
        "gradient-noise": Analysis(
            "gradient_noise.command",
            "bias and noise of LoRA's gradients under DropKey and DropAttention, equal masks",
        ),
        "overfitting": Analysis(
            "hiddenkey.cli.analyze_overfitting",
            "gap to the training examples, calibration and confidence, with and without a method",
        ),
        "transfer": Analysis(
            "hiddenkey.cli.analyze_transfer",
            "what one dropout rate for all tasks loses against each task's best",
        ),
    }
)

STUDIES: Final = ("gradient-noise",)
"""Analyses that are in the repository's folder ``studies`` and not in the package."""


def run(arguments: list[str]) -> int:
    """Run the analysis that the first word names and return its exit status.

    Raises:
        ConfigError: if there is no analysis of that name.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_listing())
        return 0
    name, *rest = arguments
    if name not in ANALYSES:
        hint = suggestion(name, ANALYSES) or "; see hiddenkey analyze --help"
        raise ConfigError(f"analysis must be one of {', '.join(ANALYSES)}, got {name!r}{hint}")
    module = _study(name) if name in STUDIES else import_module(ANALYSES[name].module)
    status: int = module.run(rest)
    return status


def _study(name: str) -> ModuleType:
    """Import a study of the repository, which is not part of the package.

    Raises:
        ConfigError: if the package was installed without the repository around it.
    """
    folder = Path(__file__).parents[3] / "studies"
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        return import_module(ANALYSES[name].module)
    except ModuleNotFoundError as error:
        package = ANALYSES[name].module.partition(".")[0]
        if error.name != package:
            raise
        raise ConfigError(
            f"analysis {name!r} must be run from a checkout of the source, got an installed"
            f" package; there, run: python studies/{package}"
        ) from None


def _listing() -> str:
    width = max(map(len, ANALYSES))
    rows = [f"  {name:<{width}}  {analysis.summary}" for name, analysis in ANALYSES.items()]
    return "\n".join(
        [
            "usage: hiddenkey analyze NAME [settings]",
            "",
            "analyses:",
            *rows,
            "",
            "'hiddenkey analyze NAME --help' shows an analysis's settings.",
        ]
    )

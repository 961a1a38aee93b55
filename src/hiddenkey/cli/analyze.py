"""``hiddenkey analyze NAME``: each analysis is a module with a ``run`` of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.run.rules import suggestion


@dataclass(frozen=True)
class Analysis:
    """An analysis that can be run.

    Attributes:
        module: in ``hiddenkey.cli``; its ``run(arguments)`` returns the exit status.
        summary: the question that it answers, in one line.
    """

    module: str
    summary: str


ANALYSES: Final[Mapping[str, Analysis]] = MappingProxyType(
    {
        "gradient-noise": Analysis(
            "analyze_gradient_noise",
            "bias and noise of LoRA's gradients under DropKey and DropAttention, equal masks",
        ),
        "overfitting": Analysis(
            "analyze_overfitting",
            "gap to the training examples, calibration and confidence, with and without a method",
        ),
        "transfer": Analysis(
            "analyze_transfer",
            "what one dropout rate for all tasks loses against each task's best",
        ),
    }
)


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
    status: int = import_module(f"hiddenkey.cli.{ANALYSES[name].module}").run(rest)
    return status


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

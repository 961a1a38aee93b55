"""The subcommands: what each is for, its settings, and the module that runs it.

Nothing heavy is imported here. A command's settings are read before its module is imported, so that
``--help`` and a wrong flag are answered at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import takewhile
from typing import Any, Final


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        summary: what it is for, in one line.
        module: its ``run`` takes the settings and returns the exit status.
        options: ``module:class`` of its settings, whose import is light; ``None`` if the module
            reads the words itself.
        positional: the settings without a default are given without a flag.
        leading: the setting that words before the first flag are values of.
        rewrite: ``module:function`` that turns the words into flags and their values.
        first: how the help shows the words before the first flag, if either of these takes them.
    """

    summary: str
    module: str
    options: str | None = None
    positional: bool = False
    leading: str | None = None
    rewrite: str | None = None
    first: str = ""

    def run(self, name: str, words: Sequence[str]) -> int:
        """Read the settings, run the command and return the exit status.

        Args:
            name: of the command, for messages.
            words: what follows it on the command line.

        Raises:
            ConfigError: with every fault of the settings.
        """
        given = list(words) if self.options is None else self.read(name, words)
        status: int = import_module(self.module).run(given)
        return status

    def read(self, name: str, words: Sequence[str]) -> Any:
        """Return the settings that the words give, an instance of the class ``options``."""
        from hiddenkey.cli.arguments import parse

        options = _named(self.options or "")
        given = _named(self.rewrite)(words) if self.rewrite else words
        words = self._with_flag(given)
        return parse(options, name, words, positional=self.positional, first=self.first)

    def _with_flag(self, words: Sequence[str]) -> list[str]:
        first = list(takewhile(lambda word: not word.startswith("-"), words))
        flag = [f"--{self.leading}"] if self.leading and first else []
        return [*flag, *words]


def _named(place: str) -> Any:
    """Return what ``module:name`` names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def listing(commands: Mapping[str, Command]) -> str:
    """Return a line with name and summary for each command."""
    width = max(map(len, commands))
    return "\n".join(f"  {name:<{width}}  {each.summary}" for name, each in commands.items())


def _command(
    summary: str, module: str, options: str, *, of: str = "hiddenkey.cli.options", **more: Any
) -> Command:
    return Command(summary, f"hiddenkey.cli.{module}", f"{of}:{options}", **more)


COMMANDS: Final[Mapping[str, Command]] = {
    "demo": _command(
        "compare LoRA and HiddenKey on bundled data, in a few minutes", "demo", "DemoOptions"
    ),
    "train": _command(
        "fine-tune a model with LoRA and a dropout method on a task",
        "train", "TrainOptions", of="hiddenkey.lab.run.options",
        rewrite="hiddenkey.cli.resumption:with_settings",
    ),
    "run": Command(
        "start a training script of yours with a method attached to its model", "hiddenkey.cli.run"
    ),
    "compare": _command(
        "run a plan of methods, rates, tasks and seeds, with several workers if asked for",
        "compare", "Plan", of="hiddenkey.lab.plans.plan", leading="config",
        rewrite="hiddenkey.lab.plans.stored:in_its_folder", first="[PLAN]",
    ),
    "tune": _command(
        "choose a method and its settings for your data, confirm them, and train",
        "tune", "TuneOptions", of="hiddenkey.lab.tune.options",
        rewrite="hiddenkey.lab.tune.options:with_source", first="[FILE or PLAN]",
    ),
    "predict": _command(
        "let a trained adapter predict the labels or texts of a file",
        "predict", "PredictOptions", positional=True,
    ),
    "report": _command(
        "turn a comparison into a page, figures and tables",
        "report", "ReportOptions", positional=True,
    ),
    "claims": _command(
        "test the paper's claims, and write a page of verdicts",
        "claims", "ClaimsOptions", leading="claims", first="[CLAIM ...]",
    ),
    "score": _command(
        "score outputs against references: E2E, WebNLG, GLUE, answers", "score", "ScoreOptions"
    ),
    "estimate": _command(
        "estimate memory and time of training a model, before renting a machine",
        "estimate", "EstimateOptions", of="hiddenkey.lab.run.estimate",
    ),
    "recipes": Command(
        "list the settings that come with the package, and copy them to change them",
        "hiddenkey.cli.recipes",
    ),
    "methods": _command(
        "list the dropout methods, their axes and their papers", "methods", "MethodsOptions"
    ),
    "doctor": _command(
        "show where a method acts on a model, layer by layer",
        "doctor", "DoctorOptions", positional=True,
    ),
}  # fmt: skip
"""By name, in the order of the help."""

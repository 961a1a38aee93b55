"""A training command of somebody else's as the runs of a plan: placeholders, rules, identity.

A plan with ``command`` starts it once for each combination, with its placeholders filled in:

    python train.py --seed {seed} --lr {lr} --output {output}

``{seed}`` and ``{output}`` (a folder of the run's own) are needed. ``{method}``, ``{rate}``,
``{weight}``, ``{rank}``, ``{model}`` and ``{task}`` stand for what the plan varies, and any other
name for a value from the plan's ``arguments``. A command without ``{method}`` is started as
``hiddenkey run`` starts it, so that the method acts on the model that its Trainer trains; the
method ``as-is`` is the command unchanged. Doubled braces, ``{{name}}``, stand for themselves.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from hiddenkey.lab.plans.attached import given, named
from hiddenkey.lab.plans.identity import Budget, Stage, short_hash, versions
from hiddenkey.launch import LaunchSettings

AS_IS: Final = "as-is"
"""Method of the unchanged command: nothing is dropped, and the model keeps its own dropout."""

NEEDED: Final = ("seed", "output")
"""Placeholders without which runs would be alike, or write over each other."""

OWN: Final = (*NEEDED, "method", "rate", "weight", "rank", "model", "task")
"""Placeholders that the plan fills in by itself."""

STAGE: Final = "stage"
"""Argument that is ``search`` in the runs of a search, where the command may hold out data."""

_PLACEHOLDER: Final = re.compile(r"\{\{(\w+)\}\}|\{([A-Za-z_]\w*)\}")
READING: Final = ("metric", "metric_file", "lower_is_better")
"""Settings that say how to read what a run left, and not what it is."""

_SPREAD: Final = {"arguments", "attached"}
"""Fields whose entries are settings by themselves."""

_INPUTS: Final = (
    ".py", ".ipynb", ".sh", ".yaml", ".yml", ".toml", ".json", ".jsonl", ".csv", ".tsv", ".txt",
    ".parquet", ".arrow", ".gz", ".zip",
)  # fmt: skip
_LARGEST_HASHED: Final = 2**28


@dataclass(frozen=True)
class CommandOptions:
    """One configuration of a command.

    Attributes:
        command: the command with its placeholders.
        task: the task's label.
        method: what is attached, or what ``{method}`` stands for.
        metric: the metric to compare, as the command names it.
        metric_file: where it is, with placeholders; ``None``: what trainers usually leave.
        lower_is_better: smaller values are better.
        model: what ``{model}`` stands for, else empty.
        rank: what ``{rank}`` stands for, else 0.
        rate: dropout rate; ``None``: the method's own.
        consistency_weight: weight of the consistency loss; ``None``: the method's own.
        arguments: values of further placeholders.
        seed: what ``{seed}`` stands for.
        attached: further settings of the method that is attached, where they are not the default.
    """

    command: str
    task: str
    method: str
    metric: str
    metric_file: str | None = None
    lower_is_better: bool = False
    model: str = ""
    rank: int = 0
    rate: float | None = None
    consistency_weight: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    attached: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_recorded(cls, settings: Mapping[str, Any]) -> CommandOptions:
        """Build the options of a run from :meth:`recorded`'s form."""
        names = {each.name for each in fields(cls)} - _SPREAD
        own = {name: value for name, value in settings.items() if name in names}
        used = [*names, *placeholders(str(own["command"]))]
        rest = {name: value for name, value in settings.items() if name not in used}
        arguments = {n: settings[n] for n in used if n in settings and n not in names}
        return cls(**own, arguments=arguments, attached=given(rest))

    @property
    def attaches(self) -> bool:
        """Whether the method is attached from outside; else the command has ``{method}``."""
        return "method" not in placeholders(self.command)

    def launch_settings(self) -> LaunchSettings:
        """What is attached from outside."""
        if self.method == AS_IS:
            return LaunchSettings("lora", keep_model_dropout=True)
        return LaunchSettings(
            self.method,
            rate=self.rate,
            consistency_weight=self.consistency_weight,
            **self.attached,
        )

    def recorded(self) -> dict[str, Any]:
        """The settings that make the run what it is, as plain JSON types."""
        own = {name: value for name, value in vars(self).items() if name not in _SPREAD}
        return {**own, **self.attached, **self.arguments}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        own = {name: value for name, value in vars(self).items() if name not in _SPREAD}
        attached = {"attached": dict(self.attached)} if self.attached else {}
        return {**own, "arguments": dict(self.arguments), **attached}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CommandOptions:
        """Build the options from :meth:`to_dict`'s form."""
        return cls(**{**values, "attached": given(values.get("attached", {}))})

    def words(self, output: str) -> list[str]:
        """The command's words, filled in.

        Args:
            output: the run's own folder.
        """
        return [fill(word, self.values(output)) for word in shlex.split(self.command)]

    def values(self, output: str) -> dict[str, Any]:
        """What each placeholder stands for."""
        return {
            **self.arguments,
            "seed": self.seed,
            "output": output,
            "method": self.method,
            "rate": self.rate or 0.0,  # as for the baseline, which has none
            "weight": self.consistency_weight or 0.0,
            "rank": self.rank,
            "model": self.model,
            "task": self.task,
        }


@dataclass(frozen=True)
class CommandRun:
    """One run of a command, as :class:`hiddenkey.lab.plans.identity.Run` is one of ours.

    Attributes:
        options: its settings.
        fingerprint: hash of the files that the command names.
    """

    options: CommandOptions
    fingerprint: str
    stage: Stage = "compare"
    budget: Budget = "steps"

    @cached_property
    def training(self) -> str:
        """Identity of what is trained: another metric is read from the same training."""
        settings = self.options.recorded()
        kept = {name: value for name, value in settings.items() if name not in READING}
        return short_hash({"options": kept, "data": self.fingerprint, "versions": versions()})

    @cached_property
    def id(self) -> str:
        """The run's identity, 16 hexadecimal digits."""
        settings = self.options.recorded()
        return short_hash([self.training, *(settings[name] for name in READING)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"command": self.options.to_dict(), "fingerprint": self.fingerprint}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CommandRun:
        """Build a run from :meth:`to_dict`'s form."""
        return cls(CommandOptions.from_dict(values["command"]), values["fingerprint"])


def placeholders(command: str) -> list[str]:
    """The names of a command's placeholders, each once."""
    found = (match[2] for match in _PLACEHOLDER.finditer(command) if match[2])
    return list(dict.fromkeys(found))


def fill(text: str, values: Mapping[str, Any]) -> str:
    """Put values in the place of a text's placeholders."""

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return "{" + match[1] + "}"
        found = values[match[2]]
        return f"{found:g}" if isinstance(found, float) else str(found)

    return _PLACEHOLDER.sub(value, text)


def is_unreadable(command: str) -> bool:
    """Whether a command has no words, or quotes that do not end."""
    try:
        return not shlex.split(command)
    except ValueError:
        return True


def command_label(settings: Mapping[str, Any], *, seed: bool = True) -> str:
    """Name a run in one line.

    Args:
        settings: as :meth:`CommandOptions.recorded` has them.
        seed: whether to show the seed.
    """
    names = placeholders(settings["command"])
    words = [str(settings["method"])]
    if settings["rate"] is not None:
        words.append(f"rate {settings['rate']:g}")
    if settings["consistency_weight"] is not None:
        words.append(f"weight {settings['consistency_weight']:g}")
    attached = {n: value for n, value in given(settings).items() if n not in names}
    words += named(attached)
    parts = [settings["task"], " ".join(words)]
    told = [name for name in names if name not in (*NEEDED, "method", "rate", "weight", "task")]
    parts += [f"{name} {settings[name]}" for name in told]
    return ", ".join([*parts, f"seed {settings['seed']}"] if seed else parts)


def label_of(command: str) -> str:
    """A task's label where the plan gives none: the script's name, or the program's."""
    words = shlex.split(command)
    scripts = [word for word in words if word.endswith((".py", ".yaml", ".yml", ".sh"))]
    return Path((scripts or words)[0]).stem


def fingerprint(command: str) -> str:
    """Hash the files that a command names: its script, settings and data."""
    return short_hash(sorted(files(command).values()))


def files(command: str) -> dict[str, str]:
    """The hash of each file that a command names, by its path.

    Files of other kinds than scripts, settings and data, such as logs, may be the command's own.
    """
    words = shlex.split(command)
    texts = [text for word in words for text in (word, word.partition("=")[2])]
    return {
        text: _file_hash(Path(text))
        for text in dict.fromkeys(texts)
        if text.lower().endswith(_INPUTS) and not placeholders(text) and os.path.isfile(text)
    }


def _file_hash(path: Path) -> str:
    size = path.stat().st_size
    if size > _LARGEST_HASHED:  # weights of a model: to read them for each look would take minutes
        return f"{path.name} {size}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def choices(arguments: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of each argument; several of them are several configurations."""
    return {
        name: list(value) if isinstance(value, list | tuple) else [value]
        for name, value in arguments.items()
    }

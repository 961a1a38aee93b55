"""The study's command: choose with equal effort, judge with new seeds, write the page."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from beyond_transformers.options import BeyondOptions, Network
from hiddenkey.cli.terminal import say, standard_console
from hiddenkey.errors import ConfigError
from hiddenkey.lab.present.files import page_folder
from hiddenkey.lab.present.markup import Section
from hiddenkey.lab.run.limits import limit_faults
from study_comparisons import Quantity, methods_grid, verdicts
from study_pages import markdown_page, show_grid
from study_runs import Settings, StudyRun, StudyRuns

if TYPE_CHECKING:
    from beyond_transformers.data import Data, Examples
    from beyond_transformers.training import Setting
    from hiddenkey.lab.present.entries import Grid

NAME: Final = "beyond_transformers"
FIRST_CHOICE_SEED: Final = 1000
_PROBE: Final = 20  # steps that tell how long a run takes
_READING: Final = (
    "Each method chose among eight settings by the lowest mean loss on examples that are in no"
    " other part. Then new seeds, judged once on the test examples. Means ± standard deviation;"
    " differences paired by seed with 95 % intervals (Student's t) after Holm's correction over the"
    " three patterns."
)


def run(options: BeyondOptions) -> int:
    """Run what is missing, print the tables and write the page; return the exit status."""
    if faults := limit_faults(options):
        raise ConfigError(faults)
    import torch

    torch.set_num_threads(1)
    study = Study(options)
    console = standard_console()
    say(console, study.told())
    if options.dry_run:
        return 0
    grids, sentences = [], []
    for network in options.networks:
        grid, words = study.judge(network)
        show_grid(console, grid)
        grids.append(grid)
        sentences += words
    for sentence in sentences:
        say(console, sentence)
    say(console, f"table and page: {_write(options, grids, sentences)}")
    return 0


class Study:
    """The runs of both stages, each read from its record where there is one.

    Args:
        options: the settings.
    """

    def __init__(self, options: BeyondOptions) -> None:
        from beyond_transformers.data import load

        self._options = options
        self._runs = StudyRuns(Path(options.output, "runs"))
        self._data: Mapping[Network, Data] = {
            network: load(network, options.train_size) for network in options.networks
        }

    def told(self) -> str:
        """Say how many runs there are, and how long those that are missing take."""
        return self._runs.told(self._planned(), self._estimate())

    def judge(self, network: Network) -> tuple[Grid, list[str]]:
        """Choose a setting for each method, train it with new seeds, and compare with plain."""
        chosen, options = self._choose(network), self._options
        test = self._data[network].test
        found = {
            method: [self._run(setting, seed, "test", test) for seed in range(options.seeds)]
            for method, setting in chosen.items()
        }
        quantities = [
            Quantity(name, {m: [r.values[name] for r in runs] for m, runs in found.items()}, better)
            for name, better in (("accuracy", True), ("loss", False))
        ]
        settings = "; ".join(
            f"{method} {s.learning_rate:g}" + (f" at rate {s.rate:g}" if s.rate else "")
            for method, s in chosen.items()
        )
        notes = [f"Chosen learning rates and rates: {settings}.", f"{options.seeds} seeds."]
        title = f"{network} network: test accuracy and loss"
        return methods_grid(network, title, quantities, notes), verdicts(network, quantities)

    def _choose(self, network: Network) -> dict[str, Setting]:
        from beyond_transformers.training import METHODS, choose, grid

        validation = self._data[network].validation
        settings = [setting for method in METHODS for setting in grid(network, method)]
        return choose(
            {
                setting: [
                    self._run(setting, seed, "choice", validation).values
                    for seed in self._choice_seeds()
                ]
                for setting in settings
            }
        )

    def _choice_seeds(self) -> range:
        return range(FIRST_CHOICE_SEED, FIRST_CHOICE_SEED + self._options.choice_seeds)

    def _run(self, setting: Setting, seed: int, stage: str, evaluation: Examples) -> StudyRun:
        from beyond_transformers.training import fit

        options, data = self._options, self._data[setting.network]
        train = partial(fit, setting, data, evaluation, seed, options.steps, options.batch_size)
        return self._runs.run(self._settings(setting, seed, stage), train)

    def _settings(self, setting: Setting, seed: int, stage: str) -> dict[str, Any]:
        options = self._options
        return {
            **dataclasses.asdict(setting),
            **{name: getattr(options, name) for name in ("train_size", "steps", "batch_size")},
            "seed": seed,
            "stage": stage,
        }

    def _planned(self) -> Iterator[Settings]:
        """Settings of all runs; those of the second stage stand for what will be chosen."""
        from beyond_transformers.training import METHODS, grid

        for network in self._options.networks:
            for method in METHODS:
                settings = grid(network, method)
                for setting in settings:
                    for seed in self._choice_seeds():
                        yield self._settings(setting, seed, "choice")
                found = [
                    [s for s in settings if self._is_stored(s, seed)]
                    for seed in range(self._options.seeds)
                ]
                for seed, stored in enumerate(found):
                    yield self._settings((stored or settings)[0], seed, "test")

    def _is_stored(self, setting: Setting, seed: int) -> bool:
        return self._runs.find(self._settings(setting, seed, "test")) is not None

    def _estimate(self) -> Any:
        from beyond_transformers.training import METHODS, fit, grid

        @cache
        def seconds(network: Network) -> float:
            data, setting = self._data[network], grid(network, METHODS[1])[0]
            started = time.perf_counter()
            fit(setting, data, data.test, 0, _PROBE, self._options.batch_size)
            return (time.perf_counter() - started) / _PROBE * self._options.steps

        return lambda settings: seconds(settings["network"])


def _write(options: BeyondOptions, grids: list[Grid], sentences: list[str]) -> Path:
    with page_folder(Path(options.output)) as out:
        out.write_values(f"{NAME}.json", {"settings": options, "grids": grids})
        sections = [Section(words=(_READING,)), *(Section(grids=(grid,)) for grid in grids)]
        sections.append(Section(words=(*sentences,)))
        title = "The hidden position in networks without attention"
        return out.write(f"{NAME}.md", markdown_page(title, sections))

"""The study's command: train the sequences that are missing, compare, write the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from continual.forgetting import final_accuracy, forgetting, learnt_accuracy
from continual.options import ContinualOptions
from hiddenkey.cli.terminal import say, standard_console
from hiddenkey.errors import ConfigError
from hiddenkey.lab.present.files import page_folder
from hiddenkey.lab.present.markup import Section
from hiddenkey.lab.run.limits import limit_faults
from hiddenkey.quiet import quiet
from study_comparisons import Quantity, methods_grid, verdicts
from study_pages import markdown_page, show_grid
from study_runs import Settings, StudyRuns, extrapolated

NAME: Final = "continual"
_PROBE: Final = 5  # steps that tell how long a run takes
_NO_SETTINGS: Final = ("methods", "seeds", "data", "output", "dry_run")
_READING: Final = (
    "One adapter and one head for all classes learn the tasks in this order, with a fresh optimiser"
    " for each. Accuracy is among the classes of a task, without noise. Final accuracy: mean over"
    " the tasks after the last one. Forgetting: how much accuracy the earlier tasks lost since each"
    " was learnt, in the mean. All methods have the same learning rate; none was tuned. Means ±"
    " standard deviation over the seeds; differences paired by seed with 95 % intervals (Student's"
    " t) after Holm's correction over the methods."
)


def run(options: ContinualOptions) -> int:
    """Run what is missing, print the table and write the page; return the exit status."""
    quiet()
    _refuse_faults(options)
    console, runs = standard_console(), StudyRuns(Path(options.output, "runs"))
    planned = [_settings(options, *each) for each in _planned(options)]
    say(console, runs.told(planned, _seconds(options) if options.dry_run else None))
    if options.dry_run:
        return 0
    found: dict[str, list[Any]] = {method: [] for method in options.methods}
    for method, seed in _planned(options):
        settings = _settings(options, method, seed)
        made = runs.run(settings, partial(_measure, options, method, seed))
        found[method].append(made.values["accuracies"])
        say(console, f"{method}, seed {seed}: {made.seconds:.0f} s")
    quantities = [
        Quantity(label, {m: [of(run) for run in own] for m, own in found.items()}, better)
        for label, of, better in (
            ("final accuracy", final_accuracy, True),
            ("forgetting", forgetting, False),
            ("accuracy when learnt", learnt_accuracy, True),
        )
    ]
    title = f"{', '.join(options.tasks)} in sequence: {options.model}, {options.seeds} seeds"
    grid = methods_grid(NAME, title, quantities)
    show_grid(console, grid)
    sentences = verdicts("In sequence", quantities)
    for sentence in sentences:
        say(console, sentence)
    with page_folder(Path(options.output)) as out:
        out.write_values(f"{NAME}.json", {"settings": options, "accuracies": found})
        section = Section(words=(_READING, *sentences), grids=(grid,))
        page = markdown_page("Tasks in sequence with one adapter", [section])
        say(console, f"table and page: {out.write(f'{NAME}.md', page)}")
    return 0


def _refuse_faults(options: ContinualOptions) -> None:
    import hiddenkey
    from continual.curriculum import load_curriculum

    faults = limit_faults(options)
    if len(set(options.methods)) < max(2, len(options.methods)):
        faults.append(f"methods must be two different ones at least, got {list(options.methods)}")
    for method in options.methods:
        try:
            hiddenkey.method(method, options.rate)
        except ConfigError as error:
            faults += error.faults
    try:
        load_curriculum(options, 0)
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults)


def _planned(options: ContinualOptions) -> Iterator[tuple[str, int]]:
    """Methods take turns, so that an interrupted study has whole seeds."""
    for seed in range(options.seeds):
        for method in options.methods:
            yield method, seed


def _settings(options: ContinualOptions, method: str, seed: int) -> dict[str, Any]:
    values = dataclasses.asdict(options)
    shared = {name: values[name] for name in values if name not in _NO_SETTINGS}
    return {**shared, "method": method, "seed": seed, "data": _fingerprint(options, seed)}


@cache
def _fingerprint(options: ContinualOptions, seed: int) -> str:
    from continual.curriculum import load_curriculum

    return load_curriculum(options, seed).fingerprint()


def _measure(options: ContinualOptions, method: str, seed: int) -> dict[str, Any]:
    from continual.curriculum import load_curriculum
    from continual.training import learn

    return {"accuracies": learn(options, load_curriculum(options, seed), method, seed)}


def _seconds(options: ContinualOptions) -> Any:
    """Return an estimate of a run's time."""

    @cache
    def of(method: str) -> float:
        def take(steps: int) -> None:
            _measure(dataclasses.replace(options, steps=steps), method, 0)

        return extrapolated(take, _PROBE, options.steps)

    def estimate(settings: Settings) -> float:
        return of(settings["method"])

    return estimate

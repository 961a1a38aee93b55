"""The study's command: measure the training runs that are missing, and average over seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gradient_noise_runs.options import NoiseRunsOptions
from hiddenkey.cli.terminal import say, standard_console
from hiddenkey.errors import ConfigError
from hiddenkey.lab.evidence.inference import excludes
from hiddenkey.lab.present.entries import Entry, Grid, lines_of, make_grid
from hiddenkey.lab.present.files import page_folder
from hiddenkey.lab.present.markup import Section
from hiddenkey.lab.present.words import interval, number
from hiddenkey.lab.run.limits import limit_faults
from hiddenkey.quiet import quiet
from study_pages import markdown_page, show_grid
from study_runs import Settings, StudyRuns, extrapolated

if TYPE_CHECKING:
    from gradient_noise.options import GradientNoiseOptions
    from gradient_noise_runs.values import OverSeeds
    from hiddenkey.lab.evidence.inference import Estimate

NAME: Final = "gradient_noise_runs"
_COLUMNS: Final = (
    *("model", "task", "step", "noise ratio", "bias² / noise", "on dropped keys"),
    "mask / batch noise",
)
_READING: Final = (
    "Both methods had the same masks, hence equal outputs; all LoRA matrices and batches of a run"
    " are taken together. Noise ratio: trace of the gradient's covariance over masks under"
    " DropAttention, over that under DropKey; geometric mean over the seeds. Bias² / noise: squared"
    " distance of DropAttention's mean gradient from DropKey's, over that trace under DropKey; 0"
    " without a bias. On dropped keys: DropAttention's share of the absolute gradient to the logits"
    " on dropped keys. Mask / batch noise: DropKey's trace over the variance between batches. In"
    " brackets: 95 % intervals over the seeds (Student's t), not corrected for their number. Bold"
    " where they exclude 1, or 0 for the bias."
)


def run(options: NoiseRunsOptions) -> int:
    """Measure what is missing, print the table and write the page; return the exit status."""
    quiet()
    _refuse_faults(options)
    console, runs = standard_console(), StudyRuns(Path(options.output, "runs"))
    say(
        console,
        runs.told(
            map(_settings, _planned(options)), _seconds(options) if options.dry_run else None
        ),
    )
    if options.dry_run:
        return 0
    found = {}
    for single in _planned(options):
        made = runs.run(_settings(single), partial(_measure, single))
        found[single.model, single.task, single.seed] = made.values["points"]
        say(console, f"{single.model}, {single.task}, seed {single.seed}: {made.seconds:.0f} s")
    grid = _grid(options, found)
    show_grid(console, grid)
    with page_folder(Path(options.output)) as out:
        out.write_values(f"{NAME}.json", {"settings": options, "runs": [*found.values()]})
        title = "Gradient noise over several training runs"
        page = markdown_page(title, [Section(words=(_READING,), grids=(grid,))])
        say(console, f"table and page: {out.write(f'{NAME}.md', page)}")
    return 0


def _planned(options: NoiseRunsOptions) -> Iterator[GradientNoiseOptions]:
    for seed in range(options.seeds):  # whole seeds first, so that each can be looked at
        for model in options.models:
            for task in options.tasks:
                yield options.single(task, model, seed)


@cache
def _settings(single: GradientNoiseOptions) -> dict[str, Any]:
    from gradient_noise.measurement import prepare_analysis

    values = dataclasses.asdict(single)
    known = {name: values[name] for name in values if name not in ("output", "overwrite", "data")}
    return {**known, "data": prepare_analysis(single).data_record()["sha256"]}


def _refuse_faults(options: NoiseRunsOptions) -> None:
    """Check the settings and the data of each task with each model, before anything is trained."""
    from gradient_noise.measurement import prepare_analysis

    faults = limit_faults(options)
    if not (options.tasks and options.models):
        faults.append("tasks and models must name one each at least; leave them out for two each")
    for model in options.models:
        for task in options.tasks:
            try:
                prepare_analysis(options.single(task, model, 0))
            except ConfigError as error:
                faults += error.faults
    if faults:
        raise ConfigError(faults)


def _measure(single: GradientNoiseOptions) -> dict[str, Any]:
    from gradient_noise.measurement import analyse, prepare_analysis
    from gradient_noise_runs.values import values_of

    return {"points": [values_of(each) for each in analyse(single, prepare_analysis(single))]}


def _seconds(options: NoiseRunsOptions) -> Any:
    """Return an estimate of a run's time; passes cost the same in training and under masks."""
    from gradient_noise.options import GROUPS

    @cache
    def of(model: str, task: str) -> float:
        whole = options.single(task, model, 0)
        few = dataclasses.replace(whole, train_steps=2, points=(1.0,), masks=GROUPS, batches=1)

        def take(batches: int) -> None:
            _measure(dataclasses.replace(few, batches=batches))

        return extrapolated(take, 1, _passes(whole) / _passes(few))

    def estimate(settings: Settings) -> float:
        return of(settings["model"], settings["task"])

    return estimate


def _passes(single: GradientNoiseOptions) -> int:
    """Forward and backward passes of a run: training, and the masks at each point."""
    settings = len(single.patterns) * len(single.rates)
    at_point = single.batches * (1 + 2 * settings * single.masks)
    return single.train_steps + len(single.points) * at_point


def _grid(options: NoiseRunsOptions, found: dict[tuple[str, str, int], Any]) -> Grid:
    from gradient_noise_runs.values import PointValues, over_seeds

    rows = []
    for model in options.models:
        for task in options.tasks:
            seeds = [found[model, task, seed] for seed in range(options.seeds)]
            for points in zip(*seeds, strict=True):
                values = [PointValues(**point) for point in points]
                rows.append([model, task, values[0].step, *_cells(over_seeds(values))])
    title = f"DropAttention's gradient against DropKey's: {options.seeds} training runs each"
    return make_grid(NAME, title, _COLUMNS, rows)


def _cells(found: OverSeeds) -> list[Entry]:
    ratio, bias = found.noise_ratio, found.bias_over_noise
    bounds = ratio.interval() or (None, None)
    shown = number(ratio.value)
    return [
        Entry(shown, ratio.value, strong=ratio.differs, details=lines_of(interval(*bounds))),
        _mean(bias, strong=excludes(bias.interval())),
        _mean(found.on_dropped),
        _mean(found.mask_over_batch),
    ]


def _mean(found: Estimate | None, *, strong: bool = False) -> Entry:
    if found is None:
        return Entry(number(None), None)
    bounds = lines_of(interval(found.low, found.high))
    return Entry(number(found.mean), found.mean, strong=strong, details=bounds)

"""The result of a command's run, in the form that runs of ours have."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hiddenkey.errors import DIVERGED, DivergedError
from hiddenkey.files import plain
from hiddenkey.lab.plans.command import CommandRun
from hiddenkey.lab.results.elsewhere import result_of_lines
from hiddenkey.lab.results.trainer_output import Line, Source, last_step
from hiddenkey.lab.run.result import Result

_EVALUATION: Final = "eval_"
_LOSSES: Final = ("eval_loss", "val_loss", "valid_loss", "test_loss")
_SPEED: Final = re.compile(r"(runtime|per_second|_time|samples)$")


def metric_lines(source: Source, metric: str) -> list[dict[str, Any]]:
    """The evaluations that a source holds, as the lines of ``metrics.jsonl`` are.

    Args:
        source: where the metric was found.
        metric: its name there.

    Returns:
        one line for each evaluation with the metric: ``step``, ``eval_NAME`` of the metric and of
        what was measured beside it, ``eval_loss`` where a loss was.
    """
    found: dict[int, dict[str, Any]] = {}
    for number, line in enumerate((each for each in source.lines if metric in each), start=1):
        step = int(line["step"]) if math.isfinite(line.get("step", math.nan)) else number
        own = {f"{_EVALUATION}{measure_of(name)}": line[name] for name in _beside(line, metric)}
        loss = next((line[name] for name in _LOSSES if name in line), None)
        found[step] = {"step": step, **own, **({} if loss is None else {"eval_loss": loss})}
    return [found[step] for step in sorted(found)]


def measure_of(metric: str) -> str:
    """A metric's name in reports: without Trainer's ``eval_``."""
    return metric.removeprefix(_EVALUATION)


def result_of(
    run: CommandRun,
    lines: Sequence[Mapping[str, Any]],
    observed: Mapping[str, Any],
    *,
    source: Source,
    seconds: float,
) -> Result:
    """Return the result of a run; numbers that nobody measured are 0.

    Args:
        run: the run.
        lines: its evaluations.
        observed: what ``hiddenkey run`` saw of it.
        source: where the metric was found.
        seconds: wall time of the command.

    Raises:
        DivergedError: if the metric or the loss is no finite number in the last evaluation.
    """
    options, main = run.options, measure_of(run.options.metric)
    refuse_diverged(lines[-1], main)
    lines = plain(lines)
    names = dict.fromkeys([main, *(_measured(name) for line in lines for name in line)])
    return result_of_lines(
        lines,
        [name for name in names if name and (name == main or name != "loss")],
        lower=options.lower_is_better or None,
        task=options.task,
        model=options.model,
        method=options.method,
        seed=options.seed,
        main_metric=main,
        steps=int(observed.get("steps") or last_step(source.lines)),
        seconds_per_step=float(observed.get("seconds_per_step") or 0.0),
        seconds=float(observed.get("seconds") or seconds),
        trainable_parameters=int(observed.get("trainable_parameters") or 0),
        lora_parameters=int(observed.get("trainable_parameters") or 0),
        total_parameters=int(observed.get("total_parameters") or 0),
        peak_memory_mib=observed.get("peak_memory_mib"),
        peak_device_memory_mib=observed.get("peak_device_memory_mib"),
        data_fingerprint=run.fingerprint,
        train_examples=observed.get("examples"),
        eval_examples=observed.get("eval_examples"),
    )


def refuse_diverged(line: Mapping[str, Any], main: str) -> None:
    """Refuse a last evaluation whose metric or loss is no finite number.

    Raises:
        DivergedError: with the step.
    """
    for name in (f"{_EVALUATION}{main}", "eval_loss"):
        if name in line and not math.isfinite(line[name]):
            raise DivergedError(
                f"{DIVERGED}: {name.removeprefix(_EVALUATION)} is {line[name]} at step"
                f" {line['step']}"
            )


def _beside(line: Line, metric: str) -> list[str]:
    """The metric, and what was measured in the same evaluation under the same prefix."""
    prefix, underscore, _ = metric.partition("_")
    others = [
        name
        for name in line
        if underscore
        and name.startswith(f"{prefix}_")
        and name not in (metric, *_LOSSES)
        and not _SPEED.search(name)
    ]
    return [metric, *others]


def _measured(name: str) -> str:
    return name.removeprefix(_EVALUATION) if name.startswith(_EVALUATION) else ""

"""Evidence without training: a plan with every kind of picture, and numbers drawn from a seed."""

from __future__ import annotations

import numpy as np

from hiddenkey.lab.claims.evidence import judge
from hiddenkey.lab.claims.findings import Chosen, Evidence, Setting
from hiddenkey.lab.claims.plan import (
    AssumedScatter,
    Choice,
    Claim,
    Configuration,
    Contrast,
    Drawing,
    Scale,
    TaskSetup,
)

HEADLINES, SST2, COLA = "headlines", "sst2", "cola"
TASKS = (HEADLINES, SST2, COLA)
LEVELS = {HEADLINES: 82.0, SST2: 87.0, COLA: 1.0}
"""Plain LoRA's metric; CoLA's is below its floor, so CoLA is left out."""

RANKS = (1, 4, 16, 64)
RATES = (0.05, 0.1, 0.2, 0.3)
POSITIONS = ("attention logits", "feed-forward output")
PATTERNS = ("element", "column", "span")
METHODS = {"attention logits": "dropkey", "feed-forward output": "hiddencut"}
SLOPES = {"dropkey": -1.0, "hiddencut": -6.0, "dropattention": -20.0}

ENVIRONMENT = {"device": "cpu", "cpus": "2", "torch": "2.13.0+cpu", "transformers": "5.23.0"}


def scale(seeds=range(6)):
    """A scale of three tasks."""
    tasks = {
        name: TaskSetup(name, {"task": name, "train_size": 300}, 200, 50.0, ("lora", "dropkey"))
        for name in TASKS
    }
    rates = {"learning_rates": (0.001, 0.002), "seeds": (100, 101)}
    choices = {
        "lora": Choice("lora", "lora", {}, rates=(), **rates),
        "dropkey": Choice("dropkey", "dropkey", {}, rates=(0.1, 0.2), **rates),
    }
    power = AssumedScatter(0.8, "the demonstration's ten runs")
    summary = "An encoder on short texts, an hour on two cores."
    return Scale("small", summary, tuple(seeds), 3, {}, tasks, choices, power)


def claims():
    """Claims with all kinds of pictures, scopes and expectations."""
    return (
        _claim(
            "C1",
            "LoRA overfits as the rank grows",
            [Contrast("rank 16 − rank 64", {"rank16": 1, "rank64": -1}, "metric", "better", 0.5),
             Contrast("gap, rank 64 − 1", {"rank64": 1, "rank1": -1}, "gap", "better", 1.0)],
            [Drawing("sweep", "Metric over rank", x="rank", logarithmic=True,
                     series={"LoRA": {rank: f"rank{rank}" for rank in RANKS}}),
             Drawing("effects", "The gap", measure="gap")],
            {f"rank{rank}": ("lora", {"rank": rank}) for rank in RANKS},
        ),
        _claim(
            "C2",
            "Nearly all dropout methods beat plain LoRA",
            [Contrast(f"{name} − lora", {name: 1, "lora": -1}, "metric", "better", 1.0)
             for name in ("dropkey-0.1", "hiddencut-0.1", "dropattention-0.1")],
            [Drawing("effects", "Difference to plain LoRA")],
            _rate_configurations(),
            scope="each task",
            need=0.5,
        ),
        _claim(
            "C3",
            "Column is DropKey's best pattern",
            [Contrast("dropkey: column − element",
                      {"dropkey-column": 1, "dropkey-element": -1}, "metric", "better", 1.0)],
            [Drawing("grid", "Positions and patterns", cells={
                row: {column: f"{METHODS[row]}-{column}" for column in PATTERNS
                      if (row, column) != (POSITIONS[1], "span")} for row in POSITIONS})],
            {f"{METHODS[row]}-{column}": (METHODS[row], {}) for row in POSITIONS
             for column in PATTERNS},
        ),
        _claim(
            "C4",
            "DropKey stands larger rates than the others",
            [Contrast("dropkey − hiddencut at 0.3",
                      {"hiddencut-0.3": -1, "dropkey-0.3": 1}, "metric", "better", 1.0),
             Contrast("dropkey − dropattention, loss at 0.3",
                      {"dropkey-0.3": 1, "dropattention-0.3": -1}, "loss", "no better", 0.01)],
            [Drawing("sweep", "Metric over rate", x="dropout rate", series={
                "lora": {0.0: "lora"},
                **{name: {0.0: "lora", **{rate: f"{name}-{rate}" for rate in RATES}}
                   for name in SLOPES}})],
            _rate_configurations(),
        ),
        _claim(
            "C5",
            "Small rates beat no dropout at all",
            [Contrast("dropattention − lora at 0.3",
                      {"dropattention-0.3": 1, "lora": -1}, "metric", "better", 1.0)],
            [Drawing("effects", "Large rates")],
            _rate_configurations(),
        ),
        _claim(
            "C9",
            "The consistency loss costs half as much again",
            [Contrast("hiddenkey, step time", {"hiddenkey": 1}, "step time", "between", 0.1,
                      1.3, 1.7),
             Contrast("dropkey, step time", {"dropkey-0.1": 1}, "step time", "equal", 0.1)],
            [Drawing("effects", "Time of a step", measure="step time")],
            {"hiddenkey": ("hiddenkey", {}), **_rate_configurations()},
        ),
    )  # fmt: skip


def measure(seeds=range(6), repeats=3, seed=0):
    """Return a value for every configuration; runs of one seed share their draw."""
    noise = np.random.default_rng(seed)
    common = {(task, run): noise.normal() for task in TASKS for run in seeds}
    values = {}
    for task in TASKS:
        for configuration, (gain, gap, loss) in _true().items():
            own = {run: common[task, run] + 0.4 * noise.normal() for run in seeds}
            known = {
                "metric": {run: LEVELS[task] + gain + own[run] for run in seeds},
                "gap": {run: gap + 0.5 * noise.normal() for run in seeds},
                "loss": {run: loss + 0.02 * noise.normal() for run in seeds},
            }
            for name, by_seed in known.items():
                values[task, configuration, name] = {
                    run: float(value) for run, value in by_seed.items()
                }
        for configuration, ratio in (("hiddenkey", 1.5), ("dropkey-0.1", 1.04)):
            times = {run: float(ratio + 0.02 * noise.normal()) for run in range(repeats)}
            values[task, configuration, "step time"] = times
    return values


def evidence(seeds=range(6), planned=None, missing=0, chosen=None, values=None, environments=1):
    """Return evidence as the runner gathers it.

    Args:
        seeds: seeds that have finished.
        planned: seeds of the plan, if they are more.
        missing: runs that each claim lacks.
        chosen: claims, if not all of :func:`claims`.
        values: values, if not those of :func:`measure`.
        environments: number of machines.
    """
    plan = scale(seeds if planned is None else planned)
    values = measure(seeds) if values is None else values
    runs = len(values)
    return Evidence(
        scale=plan,
        findings=tuple(
            judge(claim, plan, values, missing)
            for claim in (claims() if chosen is None else chosen)
        ),
        values=values,
        chosen=_chosen() if runs else (),
        command="hiddenkey claims --scale small --data GLUE_FOLDER",
        environments=tuple(
            ({**ENVIRONMENT, "cpus": f"{2 + index}"}, runs) for index in range(environments)
        )
        if runs
        else (),
        started="2026-11-21T16:40:11+00:00" if runs else "",
        ended="2026-11-21T19:10:12+00:00" if runs else "",
        runs=runs,
    )


def _claim(name, title, contrasts, pictures, configurations, scope="pooled", need=1.0):
    made = {
        configuration: Configuration(
            configuration, method, settings, "lora" if method == "lora" else "dropkey"
        )
        for configuration, (method, settings) in {"lora": ("lora", {}), **configurations}.items()
    }
    paper, how = f"Section of {name}, figure 5.", "The same contrast on an encoder of 22 M weights."
    return Claim(name, title, paper, how, made, tuple(contrasts), scope, need,
                 TASKS, tuple(pictures))  # fmt: skip


def _rate_configurations():
    return {f"{name}-{rate}": (name, {"rate": rate}) for name in SLOPES for rate in RATES}


def _true():
    """True gain in metric, gap and loss of every configuration."""
    found = {"lora": (0.0, 10.0, 0.5)}
    for place, rank in enumerate(RANKS):
        found[f"rank{rank}"] = (-2.0 * abs(place - 2), 5.0 * place, 0.5)
    for name, slope in SLOPES.items():
        for rate in RATES:
            found[f"{name}-{rate}"] = (1.5 + slope * rate, 8.0, 0.5 + rate)
    for place, name in enumerate(METHODS.values()):
        for column, pattern in enumerate(PATTERNS):
            found[f"{name}-{pattern}"] = (0.2 * (place - column), 9.0, 0.5)
    return found


def _chosen():
    return tuple(
        found
        for task in TASKS
        for found in (
            Chosen(task, "lora", Setting(0.002, None), 4, {
                Setting(0.001, None): 0.81, Setting(0.002, None): 0.82}),
            Chosen(task, "dropkey", Setting(0.001, 0.1), 8, {
                Setting(0.001, 0.1): 0.8123, Setting(0.001, 0.2): 0.8,
                Setting(0.002, 0.1): 0.7954, Setting(0.002, 0.2): 0.78,
            }),
        )
    )  # fmt: skip

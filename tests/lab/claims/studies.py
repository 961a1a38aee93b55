"""Claims, scales and values by hand, and studies drawn from a truth that is known."""

import numpy as np

from hiddenkey.lab.claims.plan import (
    AssumedScatter,
    Claim,
    Configuration,
    Contrast,
    Scale,
    TaskSetup,
)

TASKS = ("first", "second", "third")
CONFIGURATIONS = tuple(f"configuration {index}" for index in range(6))


def contrast(expect="better", *, configuration="ours", measure="metric", margin=1.0, **ends):
    weights = {configuration: 1.0} if measure == "step time" else {configuration: 1.0, "lora": -1.0}
    return Contrast(f"{configuration} − LoRA", weights, measure, expect, margin, **ends)


def claim(*contrasts, scope="pooled", need=1.0, tasks=TASKS):
    names = {"lora"} | {name for asked in contrasts for name in asked.weights}
    return Claim(
        name="C0",
        title="a claim",
        paper="",
        how="",
        configurations={
            name: Configuration(name, "lora" if name == "lora" else "dropkey", {}, name)
            for name in names
        },
        contrasts=contrasts,
        scope=scope,
        need=need,
        tasks=tasks,
        pictures=(),
    )


def six(*, need=0.8, **settings):
    """A claim of six questions; nearly all of them must hold, unless told otherwise."""
    return claim(*(contrast(configuration=name) for name in CONFIGURATIONS), need=need, **settings)


def scale(*, seeds=6, deviation=1.0, floor=20.0, tasks=TASKS):
    return Scale(
        name="small",
        summary="",
        seeds=tuple(range(seeds)),
        repeats=seeds,
        common={},
        tasks={task: TaskSetup(task, {}, 100, floor, ()) for task in tasks},
        choices={},
        power=AssumedScatter(deviation, "made up"),
    )


def of_effects(effects, *, task="first", configuration="ours", measure="metric", base=70.0):
    """Values of two configurations whose difference by seed is given."""
    plain = {seed: base + seed for seed in range(len(effects))}
    ours = {seed: plain[seed] + effect for seed, effect in enumerate(effects)}
    return {(task, configuration, measure): ours, (task, "lora", measure): plain}


def drawn(random, gains, *, seeds=6, deviation=1.0, examples=None, tasks=TASKS):
    """Draw the metrics of configurations with true gains, on tasks whose seeds share their luck.

    ``deviation`` is that of the difference between two configurations on a task. With ``examples``
    the metric is a share of so many, so that ties are common.
    """
    values = {}
    for task in tasks:
        luck = 70 + random.normal(0, 3, size=seeds)
        for configuration, gain in {"lora": 0.0, **gains}.items():
            metric = luck + gain + random.normal(0, deviation / np.sqrt(2), size=seeds)
            if examples is not None:
                metric = np.round(metric / 100 * examples) * 100 / examples
            values[task, configuration, "metric"] = dict(enumerate(metric.tolist()))
    return values

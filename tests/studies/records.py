"""Synthetic runs for the analyses: with calibration lines, and with a metric that is known."""

import dataclasses
import hashlib

import numpy as np

from hiddenkey.lab.run.result import Summary
from lab.report.synthetic import record


def calibrated(run, ece=0.1):
    """Return the run with calibration on all lines; the error grows to ``ece`` at the end."""
    generator = np.random.default_rng(int(run.id, 16))
    lines = []
    for line in run.metrics:
        share = line["step"] / run.metrics[-1]["step"]
        found = ece * share + 0.002 * generator.standard_normal()
        level = next(line[name] for name in ("eval_accuracy", "eval_matthews") if name in line)
        values = {"ece": found, "brier": 0.4 + found, "confidence": min(1.0, level + found)}
        for name, value in values.items():
            line = {**line, f"eval_{name}": value, f"train_sample_{name}": value / 2}
        lines.append(line)
    return dataclasses.replace(run, metrics=tuple(lines))


def with_last(run, value):
    """Return the run with this value of its main metric after the last step."""
    metric = run.result.main_metric
    summary = Summary(best=value, best_step=run.metrics[-1]["step"], last=value)
    metrics = {**run.result.metrics, metric: summary}
    return dataclasses.replace(run, result=dataclasses.replace(run.result, metrics=metrics))


def rate_runs(gains, seeds=range(8), method="hiddenkey-minus", noise=0.004, **options):
    """Return runs of a method at several rates and of plain LoRA, on the same seeds.

    Args:
        gains: metric above LoRA's, by task and rate.
        seeds: training seeds; each moves all runs of a task alike.
        method: the method.
        noise: standard deviation that each run has of its own.
        options: further settings of all runs.
    """
    runs = []
    for task, by_rate in gains.items():
        for seed in seeds:
            shared = 0.7 + 0.02 * draw(task, seed)
            settings = {"task": task, "seed": seed, **options}
            plain = record(method="lora", **settings)
            runs.append(with_last(plain, shared + noise * draw(task, seed, "lora")))
            for rate, gain in by_rate.items():
                run = record(method=method, rate=rate, **settings)
                runs.append(with_last(run, shared + gain + noise * draw(task, seed, rate)))
    return runs


def draw(*key):
    """Return a standard normal number that depends on the key alone."""
    seed = hashlib.sha256(repr(key).encode()).digest()[:8]
    return float(np.random.default_rng(int.from_bytes(seed, "big")).standard_normal())

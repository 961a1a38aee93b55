"""Stored runs without training: numbers that look like a comparison's, drawn from a seed."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math

import numpy as np

from hiddenkey.framework.catalogue import methods
from hiddenkey.lab.evidence.record import Record
from hiddenkey.lab.plans.identity import LATER, changed
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Result, Summary, summarise

ENVIRONMENT = {
    "python": "3.11.7",
    "platform": "Linux-6.1-x86_64",
    "cpus": 2,
    "threads": 1,
    "device": "cpu",
    "hiddenkey": "0.1.0",
    "torch": "2.13.0+cpu",
    "transformers": "5.23.0",
    "peft": "0.21.2",
}
METRICS = {"cola": "matthews", "stsb": "pearson"}
LAYERS = 6


def record(
    *,
    gain=0.0,
    noise=0.01,
    stage="compare",
    budget="steps",
    error=None,
    last=None,
    environment=None,
    ended="2026-01-02T03:04:05+00:00",
    fingerprint=None,
    evaluations=5,
    **options,
):
    """Return one run; equal seeds share their draw, so that runs are paired."""
    chosen = TrainOptions(**{"method": "lora", "max_steps": 200, **options})
    settings = chosen.recorded()
    key = json.dumps([settings, stage, budget, fingerprint], sort_keys=True)
    identity = hashlib.sha256(key.encode()).hexdigest()[:16]
    lines = () if error is not None else _lines(chosen, gain, noise, evaluations)
    result = None if error is not None else _result(chosen, lines, last, fingerprint, budget)
    return Record(
        id=identity,
        options=settings,
        stage=stage,
        budget=budget,
        status="finished" if error is None else "failed",
        result=result,
        metrics=lines,
        environment=ENVIRONMENT if environment is None else environment,
        error=error,
        attempts=1 if error is None else 3,
        started="2026-01-02T03:00:00+00:00",
        ended=ended,
    )


def study(
    tasks=("headlines",), chosen=("lora", "hiddenkey"), rates=(0.05, 0.1), seeds=range(6),
    ranks=(8,), gains=None, **more,
):  # fmt: skip
    """Return the runs of a grid; ``gains`` adds to the metric by method."""
    runs = []
    for task, method, rank in itertools.product(tasks, chosen, ranks):
        drops = bool(methods()[method].config.drops)
        for rate, seed in itertools.product(rates if drops else (None,), seeds):
            runs.append(
                record(
                    task=task,
                    method=method,
                    rank=rank,
                    rate=rate,
                    seed=seed,
                    gain=(gains or {}).get(method, 0.0) + 0.002 * math.log2(rank / 8),
                    **more,
                )
            )
    return runs


def with_metric(run, **values):
    """Return the run with another summary of its main metric."""
    result = run.result
    summary = dataclasses.replace(result.metrics[result.main_metric], **values)
    metrics = {**result.metrics, result.main_metric: summary}
    return dataclasses.replace(run, result=dataclasses.replace(result, metrics=metrics))


def with_values(runs, values):
    """Return the runs with these values of the main metric, in their order."""
    return [
        with_metric(run, best=value, last=value) for run, value in zip(runs, values, strict=True)
    ]


def _lines(options, gain, noise, evaluations):
    shared = np.random.default_rng([options.seed, len(options.task)])
    own = np.random.default_rng(abs(hash_of(options)) % 2**32)
    metric = METRICS.get(options.task, "accuracy")
    level = 0.78 + 0.03 * shared.standard_normal() + gain + noise * own.standard_normal()
    drops = methods()[options.method].config.drops
    lines = []
    for look in range(1, evaluations + 1):
        share = look / evaluations
        value = level * (1 - 0.5 * math.exp(-4 * share)) + 0.004 * own.standard_normal()
        train = min(1.0, value + (0.05 if drops else 0.12) * share)
        loss = 1.6 * (1 - value) + (0.05 if drops else 0.25) * share**2
        rate = 0.1 if options.rate is None else options.rate
        lines.append(
            {
                "step": round(options.max_steps * share),
                "epoch": 10 * share,
                "train_loss": loss * 0.9,
                "learning_rate": 1e-3 * (1 - share),
                "task_loss": loss * 0.9,
                "consistency_loss": 0.01,
                "dropped": {
                    f"{d.position}/{layer}": round(rate + 0.001 * own.standard_normal(), 6)
                    for d in drops
                    for layer in range(LAYERS)
                },
                "eval_loss": loss,
                f"eval_{metric}": value,
                "train_sample_loss": loss * (1 - 0.6 * share),
                f"train_sample_{metric}": train,
                "evaluation_seconds": 0.2,
                "seconds": 20 * share,
                "seconds_per_step": 0.1,
            }
        )
    return tuple(lines)


def _result(options, lines, last, fingerprint, budget):
    metric = METRICS.get(options.task, "accuracy")
    summary = summarise(lines, f"eval_{metric}")
    if last is not None:
        summary = Summary(max(last, summary.best), summary.best_step, last)
    final = lines[-1]
    train = {metric: final[f"train_sample_{metric}"], "loss": final["train_sample_loss"]}
    evaluated = {metric: final[f"eval_{metric}"], "loss": final["eval_loss"]}
    cost = 1.0 + 0.05 * len(methods()[options.method].config.drops)
    cost *= 1.6 if methods()[options.method].config.consistency else 1.0
    own = np.random.default_rng(abs(hash_of(options)) % 2**32)
    return Result(
        task=options.task,
        model=options.model,
        method=options.method,
        seed=options.seed,
        main_metric=metric,
        metrics={metric: summary},
        eval_loss=summarise(lines, "eval_loss", smaller=True),
        train_loss=final["train_loss"],
        train_sample=train,
        gap={name: train[name] - evaluated[name] for name in train},
        steps=options.max_steps,
        seconds_per_step=0.1 * cost * (1 + 0.02 * own.standard_normal()),
        seconds=0.1 * cost * options.max_steps,
        trainable_parameters=80_000,
        lora_parameters=9216 * options.rank,
        total_parameters=22_700_000,
        peak_memory_mib=900 * (1 + 0.1 * (cost - 1)),
        peak_device_memory_mib=None,
        data_fingerprint=fingerprint or hashlib.sha256(options.task.encode()).hexdigest(),
    )


def hash_of(options):
    """Return a number that depends on the settings alone, unlike Python's own hash.

    A setting that is added to the library changes nothing where it is not used.
    """
    used, settings = changed(options), options.recorded()
    kept = {name: settings[name] for name in settings if name in used or name not in LATER}
    text = json.dumps(kept, sort_keys=True)
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)

"""What a run is worth to a search."""

import dataclasses

import pytest

from hiddenkey.lab.compare.archive import WORST, worth_of
from hiddenkey.lab.plans.command import CommandOptions, CommandRun
from hiddenkey.lab.plans.identity import Run
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.result import Summary
from lab.report.synthetic import record

OURS = Run(TrainOptions(), "data", stage="search")


def result(best, last, loss, metric="accuracy"):
    found = record().result
    return dataclasses.replace(
        found,
        main_metric=metric,
        metrics={metric: Summary(best=best, best_step=1, last=last)},
        eval_loss=Summary(best=0.1, best_step=1, last=loss),
    )


def command(*, lower):
    options = CommandOptions("train {seed} {output}", "t", "lora", "m", lower_is_better=lower)
    return CommandRun(options, "data", stage="search")


def test_the_best_or_the_last_metric_or_the_loss_counts():
    found = result(0.9, 0.8, 0.5)
    assert worth_of(OURS, found, "best") == 0.9
    assert worth_of(OURS, found, "last") == pytest.approx(0.8, abs=1e-6)
    assert worth_of(OURS, found, "loss") == -0.5
    assert worth_of(OURS, None, "last") == WORST
    assert worth_of(OURS, result(0.9, None, 0.5), "last") == WORST


def test_of_equal_metrics_the_smaller_loss_is_worth_more_and_of_others_never():
    assert worth_of(OURS, result(1, 0.8, 0.4), "last") > worth_of(OURS, result(1, 0.8, 0.5), "last")
    better, worse = result(1, 0.801, 9.0), result(1, 0.8, 0.1)
    assert worth_of(OURS, better, "last") > worth_of(OURS, worse, "last")


def test_where_less_is_better_less_is_worth_more():
    few, many = result(2.0, 2.0, 0.5, "mistakes"), result(3.0, 3.0, 0.5, "mistakes")
    assert worth_of(command(lower=True), few, "last") > worth_of(command(lower=True), many, "last")
    assert worth_of(command(lower=False), few, "best") < worth_of(
        command(lower=False), many, "best"
    )
    known = [result(value, value, 0.5, "perplexity_loss") for value in (2.0, 3.0)]
    assert worth_of(command(lower=False), known[0], "best") == -2.0

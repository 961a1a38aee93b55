"""Curves, gaps, sweeps, selections and costs of a task."""

import dataclasses
import statistics

import pytest

from hiddenkey.lab.evidence.costs import StepTimes
from hiddenkey.lab.present.canvas import Palette
from hiddenkey.lab.report import tabulate
from hiddenkey.lab.report.figures.lines import sweep_plots
from lab.report.synthetic import record, study, with_values


def only_task(runs, baseline="lora"):
    (table,) = tabulate(runs, baseline).scopes[0].tasks
    return table


def with_result(run, **changes):
    return dataclasses.replace(run, result=dataclasses.replace(run.result, **changes))


def test_curves_average_each_step_over_the_seeds():
    runs = [record(seed=seed) for seed in range(3)]
    curves = {(c.name, c.part): c for c in only_task(runs).curves}
    lines = [run.metrics[1] for run in runs]
    point = curves["accuracy", "evaluation"].points[1]
    values = [line["eval_accuracy"] for line in lines]
    assert (point.step, point.spread.count) == (lines[0]["step"], 3)
    assert point.spread.mean == pytest.approx(statistics.mean(values))
    assert point.spread.deviation == pytest.approx(statistics.stdev(values))
    gap = curves["accuracy", "gap"].points[1].spread.mean
    assert gap == pytest.approx(
        curves["accuracy", "training"].points[1].spread.mean - point.spread.mean
    )
    assert ("loss", "evaluation") in curves


def test_curves_pass_over_what_is_missing():
    whole, broken = record(seed=0), record(seed=1)
    lines = [{**line, "eval_loss": None} for line in broken.metrics[:2]]
    lines[1].pop("train_sample_accuracy")
    broken = dataclasses.replace(broken, metrics=tuple(lines))
    curves = {(c.name, c.part): c for c in only_task([whole, broken]).curves}
    assert [p.spread.count for p in curves["loss", "evaluation"].points] == [1] * 5
    assert [p.spread.count for p in curves["accuracy", "evaluation"].points] == [2, 2, 1, 1, 1]
    assert [p.spread.count for p in curves["accuracy", "gap"].points] == [2, 1, 1, 1, 1]
    assert curves["loss", "evaluation"].points[0].spread.deviation is None


def test_gap_is_training_minus_evaluation_at_the_end():
    runs = [record(seed=seed) for seed in range(3)]
    gap = next(gap for gap in only_task(runs).gaps if gap.name == "accuracy")
    last = [run.metrics[-1] for run in runs]
    train = statistics.mean(line["train_sample_accuracy"] for line in last)
    evaluation = statistics.mean(line["eval_accuracy"] for line in last)
    assert gap.training.mean == pytest.approx(train)
    assert gap.evaluation.mean == pytest.approx(evaluation)
    assert gap.gap.mean == pytest.approx(train - evaluation)


def test_gap_is_left_out_where_it_was_not_measured():
    run = record()
    last = {
        name: run.metrics[-1][name] for name in run.metrics[-1] if name != "train_sample_accuracy"
    }
    run = dataclasses.replace(run, metrics=(*run.metrics[:-1], last))
    assert [gap.name for gap in only_task([run]).gaps] == ["loss"]


def test_sweep_has_one_line_for_each_method_and_the_baseline_as_level():
    table = only_task(study(chosen=("lora", "dropkey", "hiddenkey"), rates=(0.2, 0.05, 0.1)))
    (sweep,) = table.sweeps
    assert sweep.option == "rate"
    assert [series.label for series in sweep.series] == ["dropkey", "hiddenkey"]
    assert [point.x for point in sweep.series[0].points] == [0.05, 0.1, 0.2]
    assert [series.label for series in sweep.levels] == ["lora"]
    cells = {cell.configuration.label: cell for cell in table.cells if cell.measure.main}
    for point in sweep.series[1].points:
        assert point.best == cells[f"hiddenkey, rate {point.x:g}"].description


def test_sweep_over_rank_holds_the_baseline_as_a_line():
    sweeps = {s.option: s for s in only_task(study(ranks=(4, 8, 16))).sweeps}
    lines = {series.label: [p.x for p in series.points] for series in sweeps["rank"].series}
    assert set(lines) == {"lora", "hiddenkey, rate 0.05", "hiddenkey, rate 0.1"}
    assert all(points == [4.0, 8.0, 16.0] for points in lines.values())
    assert [level.label for level in sweeps["rate"].levels] == [
        "lora, rank 4",
        "lora, rank 8",
        "lora, rank 16",
    ]


def test_sweep_over_the_consistency_weight():
    runs = [
        record(method="hiddenkey", consistency_weight=weight, seed=seed)
        for weight in (0.5, 1.0, 2.0)
        for seed in range(2)
    ]
    (sweep,) = only_task([*runs, record(seed=0)]).sweeps
    assert sweep.option == "consistency_weight"
    assert [point.x for point in sweep.series[0].points] == [0.5, 1.0, 2.0]


def test_one_rate_is_no_sweep_and_no_selection():
    table = only_task(study(rates=(0.1,)))
    assert (table.sweeps, table.selections) == ((), ())


def test_selection_takes_the_best_mean_and_counts_what_was_tried():
    low = with_values([record(method="dropkey", rate=0.1, seed=s) for s in range(2)], [0.5, 0.6])
    high = with_values([record(method="dropkey", rate=0.2, seed=s) for s in range(2)], [0.7, 0.6])
    base = [record(seed=s) for s in range(2)]
    found = {s.chosen.family: s for s in only_task([*low, *high, *base]).selections}
    assert found["dropkey"].chosen.label == "dropkey, rate 0.2"
    assert found["dropkey"].tried == 2
    assert found["dropkey"].cell.description.mean == pytest.approx(0.65)
    assert found["lora"].tried == 1


def test_costs_are_paired_ratios_with_intervals():
    times = {"lora": [1.0, 2.0, 4.0], "hiddenkey": [2.0, 2.0, 12.0]}
    runs = [
        with_result(
            record(method=method, seed=seed),
            seconds_per_step=seconds,
            peak_memory_mib=100.0 if method == "lora" else 150.0,
        )
        for method, column in times.items()
        for seed, seconds in enumerate(column)
    ]
    costs = {cost.configuration.label: cost for cost in only_task(runs).costs}
    assert costs["lora"].time.value == 1
    assert costs["hiddenkey"].time.value == pytest.approx(6 ** (1 / 3))  # of 2, 1 and 3
    assert not costs["hiddenkey"].time.differs
    assert costs["hiddenkey"].seconds_per_step == 2
    assert costs["hiddenkey"].memory.value == pytest.approx(1.5)
    assert not costs["hiddenkey"].device_memory


def test_steps_that_took_turns_win_over_times_of_runs():
    runs = [
        with_result(record(method=method, seed=seed), seconds_per_step=1.0 + seed)
        for method in ("lora", "hiddenkey")
        for seed in range(3)
    ]
    task, model, rank = (runs[0].options[name] for name in ("task", "model", "rank"))

    def ratio(seconds, baseline="lora"):
        place = task, model, rank, "hiddenkey"
        times = StepTimes(*place, baseline, seconds, (1.0,) * len(seconds), {})
        (table,) = tabulate(runs, timed=[times]).scopes[0].tasks
        return next(cost.time for cost in table.costs if cost.configuration.method == "hiddenkey")

    assert ratio((1.5, 1.6, 1.55, 1.45)).value == pytest.approx(1.524, abs=1e-3)
    assert ratio((1.5, 1.6, 1.55, 1.45)).differs
    assert not ratio((0.9, 1.4, 0.8, 1.5)).differs
    assert ratio((1.5, 1.6, 1.55), baseline="dropkey").value == 1, "they took turns with another"


def test_memory_of_the_accelerator_wins():
    runs = [
        with_result(record(method=method, seed=0), peak_device_memory_mib=memory)
        for method, memory in (("lora", 1000.0), ("hiddenkey", 1300.0))
    ]
    costs = {cost.configuration.label: cost for cost in only_task(runs).costs}
    assert costs["hiddenkey"].memory_mib == 1300
    assert costs["hiddenkey"].memory.value == pytest.approx(1.3)
    assert costs["hiddenkey"].device_memory


def test_cost_without_a_baseline_has_no_ratio():
    (cost,) = only_task([record(method="hiddenkey")]).costs
    assert (cost.time, cost.memory, cost.gain) == (None, None, None)


def test_a_rate_of_0_is_a_point_of_its_line():
    table = only_task(study(rates=(0.0, 0.1), seeds=range(3)))
    (sweep,) = table.sweeps
    assert [point.x for point in sweep.series[0].points] == [0.0, 0.1]
    plot = next(sweep_plots(table, Palette(("lora", "hiddenkey"), "lora")))
    assert "hiddenkey at 0: 0." in plot.alt

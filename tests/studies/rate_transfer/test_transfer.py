"""Rate transfer where the best rates are known."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from hiddenkey.errors import ConfigError
from hiddenkey.lab.evidence.inference import excludes
from hiddenkey.lab.present.canvas import render
from lab.report.synthetic import record
from rate_transfer.figures import transfer_plots
from rate_transfer.rate_tables import RateTable, tabulate_rates
from rate_transfer.tables import (
    rates_grid,
    recommendation,
    rules_grid,
    tasks_grid,
)
from rate_transfer.transfer import choices, estimate, study_transfer
from studies.records import rate_runs, with_last

RATES = (0.05, 0.1, 0.2, 0.3)
SAME = {task: dict(zip(RATES, (0.0, 0.03, 0.01, -0.01), strict=True)) for task in ("cola", "rte")}
OPPOSITE = {
    "cola": dict(zip(RATES, (0.03, 0.01, -0.01, -0.03), strict=True)),
    "rte": dict(zip(RATES, (-0.03, -0.01, 0.01, 0.03), strict=True)),
}


def table_of(values, plain=None, rates=RATES):
    """A table of points, ``[tasks, rates, seeds]``."""
    values = np.asarray(values, dtype=float)
    tasks = tuple(f"task{index}" for index in range(len(values)))
    return RateTable(
        method="hiddenkey-minus",
        baseline="lora",
        tasks=tasks,
        metrics=("accuracy",) * len(tasks),
        rates=tuple(rates[: values.shape[1]]),
        seeds=tuple(range(values.shape[2])),
        values=tuple(tuple(map(tuple, task)) for task in values.tolist()),
        plain=(None,) * len(tasks) if plain is None else tuple(map(tuple, plain)),
        notes=(),
    )


def judged(found, rule):
    return next(one for one in found.judged if one.rule == rule)


def studied(gains, **more):
    return study_transfer(tabulate_rates(rate_runs(gains, **more)))


def test_a_common_optimum_loses_nothing():
    # noise of a quarter of the distance of the rates, so that the choice sometimes errs
    found = studied(SAME, noise=0.008, seeds=range(10))
    assert found.common == 0.1
    for rule in ("common", "elsewhere"):
        loss = judged(found, rule).loss
        assert not excludes(loss.interval())
        assert abs(loss.mean) < 0.5
    gain = judged(found, "common").gain
    low, high = gain.interval()
    assert 0 < low < 3 < high
    assert [task.best for task in found.tasks] == [0.1, 0.1]
    assert [task.elsewhere for task in found.tasks] == [0.1, 0.1]


def test_opposite_optima_lose_what_lies_between():
    found = studied(OPPOSITE)
    assert [task.best for task in found.tasks] == [0.05, 0.3]
    assert [task.elsewhere for task in found.tasks] == [0.3, 0.05]
    # any common rate is at 0 on average, each task's own at 3 points; the other's best at -3
    assert judged(found, "common").loss.interval()[0] > 0
    assert judged(found, "common").loss.mean == pytest.approx(3, abs=0.5)
    assert judged(found, "elsewhere").loss.mean == pytest.approx(6, abs=0.5)
    assert judged(found, "own").gain.mean == pytest.approx(3, abs=0.5)
    assert judged(found, "own").loss is None
    assert "on these tasks the rate does not transfer without loss" in recommendation(found)[3]


def test_a_rule_is_judged_on_the_seed_that_it_did_not_see():
    """Derived again, seed by seed, with plain loops."""
    values = np.random.default_rng(3).normal(size=(3, 4, 5))
    plain = np.random.default_rng(4).normal(size=(3, 5))
    found = study_transfer(table_of(values, plain))
    losses, gains = [], []
    for seed in range(5):
        seen = [other for other in range(5) if other != seed]
        own, away = [], []
        for task in range(3):
            means = [values[task, rate, seen].mean() for rate in range(4)]
            elsewhere = [
                np.mean([values[t, rate, seen].mean() for t in range(3) if t != task])
                for rate in range(4)
            ]
            own.append(values[task, means.index(max(means)), seed])
            away.append(values[task, elsewhere.index(max(elsewhere)), seed])
        losses.append(np.mean(own) - np.mean(away))
        gains.append(np.mean(away) - plain[:, seed].mean())
    assert judged(found, "elsewhere").loss == estimate(np.array(losses), share_runs=True)
    assert judged(found, "elsewhere").gain == estimate(np.array(gains), share_runs=True)


def test_noise_alone_looks_like_a_loss_only_where_choice_and_judgement_share_seeds():
    apparent, honest = [], []
    for study in range(40):
        values = np.random.default_rng(study).normal(size=(3, 4, 6))
        found = study_transfer(table_of(values))
        apparent.append(np.mean([task.apparent for task in found.tasks]))
        honest.append(judged(found, "common").loss.mean)
    assert np.mean(apparent) > 5 * stats.sem(apparent)
    assert abs(np.mean(honest)) < 3 * stats.sem(honest)


def test_the_best_rate_seems_to_gain_where_there_is_nothing_to_gain():
    flattered, honest = [], []
    for study in range(40):
        generator = np.random.default_rng(study)
        found = study_transfer(
            table_of(generator.normal(size=(3, 4, 6)), generator.normal(size=(3, 6)))
        )
        flattered.append(found.flattered)
        honest.append(judged(found, "own").gain.mean)
    # the mean of the largest of four standard normal values is 1.03; here of means over six seeds
    assert np.mean(flattered) == pytest.approx(1.03 / math.sqrt(6), abs=3 * stats.sem(flattered))
    assert abs(np.mean(honest)) < 3 * stats.sem(honest)


def test_equal_means_choose_the_smallest_rate():
    values = np.zeros((2, 3, 2))
    values[0, 2] = 0.1 + 0.2
    values[0, 1] = 0.3  # the same but for rounding
    found = choices(values)
    assert found["own"].tolist() == [1, 0]
    assert found["common"].tolist() == [1, 1]
    assert found["elsewhere"].tolist() == [0, 1]


def test_intervals_are_widened_for_shared_runs():
    differences = np.array([1.0, 2.0, 4.0, 5.0])
    apart, shared = (estimate(differences, share_runs=share) for share in (False, True))
    low, high = stats.t.interval(0.95, 3, loc=3, scale=stats.sem(differences))
    assert (apart.mean, *apart.interval()) == pytest.approx((3, low, high), abs=0.04)  # and steps
    assert shared.error / apart.error == pytest.approx(math.sqrt((1 / 4 + 1 / 3) / (1 / 4)))


def test_widened_intervals_hold_the_truth_about_as_often_as_they_say():
    """With no difference between rates, every rule loses 0, whatever it chooses."""
    generator = np.random.default_rng(0)
    held = {False: 0, True: 0}
    for _ in range(400):
        values = generator.normal(size=(4, 5, 6))
        differences = []
        for seed in range(6):
            chosen = choices(np.delete(values, seed, axis=2))
            own, common = (
                np.mean([values[task, chosen[rule][task], seed] for task in range(4)])
                for rule in ("own", "common")
            )
            differences.append(own - common)
        for share in held:
            found = estimate(np.array(differences), share_runs=share)
            held[share] += not excludes(found.interval())
    assert 0.88 < held[True] / 400 < 0.97
    assert held[False] / 400 < 0.87


def test_means_over_tasks_have_intervals_by_task_as_well():
    found = studied(OPPOSITE)
    by_seed, by_task = judged(found, "own"), found.across[0]
    assert by_task.gain.mean == pytest.approx(by_seed.gain.mean)
    assert (by_seed.gain.count, by_task.gain.count) == (8, 2)


def test_without_the_baseline_gains_are_unknown():
    runs = [run for run in rate_runs(SAME, seeds=range(3)) if run.options["method"] != "lora"]
    found = study_transfer(tabulate_rates(runs))
    assert all(one.gain is None for one in (*found.judged, *found.across))
    assert judged(found, "common").loss is not None
    assert "its gain is unknown" in recommendation(found)[1]
    assert "cola: no baseline with these seeds, model and rank." in found.notes
    assert rates_grid(found).title.endswith("points, by rate and task")
    assert "above the mean over the rates" in transfer_plots(found)[0].alt


def test_points_are_hundredths_against_the_baseline_of_the_same_seed():
    runs = rate_runs(SAME, seeds=range(3))
    table = tabulate_rates(runs)
    assert (table.tasks, table.rates, table.seeds) == (("cola", "rte"), RATES, (0, 1, 2))
    assert table.metrics == ("matthews", "accuracy")
    for run in runs:
        place = [table.tasks.index(run.options["task"])]
        if run.options["method"] == "lora":
            stored = table.plain[place[0]][run.options["seed"]]
        else:
            rate = table.rates.index(run.options["rate"])
            stored = table.values[place[0]][rate][run.options["seed"]]
        assert stored == pytest.approx(100 * run.result.metrics[run.result.main_metric].last)


def test_only_rates_and_seeds_of_all_tasks_count():
    runs = rate_runs(SAME, seeds=range(4))
    gone = (("cola", 0.3, seed) for seed in range(4))
    dropped = {*gone, ("rte", 0.1, 2)}
    kept = [
        run for run in runs
        if (run.options["task"], run.options["rate"], run.options["seed"]) not in dropped
    ]  # fmt: skip
    table = tabulate_rates(kept)
    assert table.rates == (0.05, 0.1, 0.2)
    assert table.seeds == (0, 1, 3)
    assert "rte: left out, since not on every task: rate 0.3." in table.notes
    assert "cola: 1 seed left out, since not with every rate on every task." in table.notes


def test_a_diverged_run_takes_its_seed_along():
    runs = rate_runs(SAME, seeds=range(4))
    index = next(i for i, run in enumerate(runs) if run.options["rate"] == 0.2)
    runs[index] = with_last(runs[index], None)
    assert tabulate_rates(runs).seeds == (1, 2, 3)


def test_tried_learning_rates_are_averaged():
    runs = []
    for rate in (1e-3, 2e-3):
        runs += rate_runs(SAME, seeds=range(3), learning_rate=rate)
    table = tabulate_rates(runs)
    assert "cola: each value is the mean over 2 configurations of learning rate." in table.notes
    both = [
        100 * run.result.metrics["matthews"].last
        for run in runs
        if (run.options["task"], run.options["rate"], run.options["seed"]) == ("cola", 0.1, 1)
    ]
    assert len(both) == 2
    assert table.values[0][1][1] == pytest.approx(sum(both) / 2)


def test_single_rates_of_other_settings_do_not_count():
    runs = rate_runs(SAME, seeds=range(3))
    others = [record(method="hiddenkey-minus", rate=0.1, task="cola", rank=64, seed=s)
              for s in range(3)]  # fmt: skip
    assert tabulate_rates([*runs, *others]) == tabulate_rates(runs)


def test_several_models_are_several_tasks():
    runs = [
        run
        for model in ("minilm", "smollm2")
        for run in rate_runs({"rte": SAME["rte"]}, seeds=range(2), model=model)
    ]
    assert tabulate_rates(runs).tasks == ("rte, minilm", "rte, smollm2")


def test_too_little_is_refused_with_what_there_is():
    runs = rate_runs({"cola": SAME["cola"]}, seeds=range(3))
    with pytest.raises(
        ConfigError, match=r"got cola at 0\.05, 0\.1, 0\.2 and 0\.3 \(complete: 3 seeds"
    ):
        tabulate_rates(runs)
    one = [run for run in rate_runs(SAME) if run.options["rate"] in (None, 0.1)]
    with pytest.raises(ConfigError, match="got no task with two rates; add rates, seeds and task"):
        tabulate_rates(one)
    with pytest.raises(ConfigError, match="got 'hiddenkey-minos'; did you mean 'hiddenkey-minus'"):
        tabulate_rates(runs, "hiddenkey-minos")
    with pytest.raises(ConfigError, match="two common rates, with the same two seeds"):
        tabulate_rates(rate_runs(SAME, seeds=(0,)))


def test_rates_by_position_are_no_sweep():
    runs = rate_runs(SAME, seeds=range(2))
    mixed = [
        record(method="hiddenkey-minus", task=task, seed=seed, rate=0.1, rates={"hidden": 0.4})
        for task, seed in itertools.product(SAME, range(2))
    ]
    assert tabulate_rates([*runs, *mixed]) == tabulate_rates(runs)


def test_the_recommendation_says_what_was_found():
    found = studied(SAME)
    first, gain, flattered, common, elsewhere = recommendation(found)
    assert first == (
        "Recommended rate for hiddenkey-minus: 0.1, the best mean over cola and rte (chosen without"
        " one seed: 0.1 in 8 of 8)."
    )
    assert gain.startswith("A rate chosen so gains ")
    assert gain.endswith("points over lora on seeds that had no say in it.")
    assert flattered.startswith(
        f"Each task's best rate, read off all seeds as tables of best rates are, seems to gain"
        f" {found.flattered:.2f} points; on seeds that had no say in it it gains"
    )
    assert "the same rates were chosen, whichever seed was left out" in common
    assert "A rate chosen on the other tasks loses 0.00 [0.00, 0.00]" in elsewhere
    flat = studied({task: dict.fromkeys(RATES, 0.0) for task in ("cola", "rte")})
    assert "so this is no evidence of a gain" in recommendation(flat)[1]
    worse = studied({task: dict.fromkeys(RATES, -0.05) for task in ("cola", "rte")})
    assert recommendation(worse)[1].endswith("; it is worse.")


@pytest.mark.parametrize(("best", "edge"), [(0.05, "smallest"), (0.3, "largest")])
def test_a_recommended_rate_at_the_edge_is_said_to_be_so(best, edge):
    gains = {rate: 0.0 if rate == best else -0.05 for rate in RATES}
    found = studied(dict.fromkeys(("cola", "rte"), gains))
    assert f"; it is the {edge} that was tried" in recommendation(found)[0]


def test_grids_hold_every_rule_task_and_rate():
    found = studied(OPPOSITE)
    assert [row[0].text for row in rules_grid(found).rows] == [
        "each task's best rate", "one rate for all tasks", "one rate, chosen on the other tasks",
    ]  # fmt: skip
    tasks = tasks_grid(found)
    assert [row[2].value for row in tasks.rows] == [0.05, 0.3]
    assert tasks.rows[0][2].details == ("0.05 in 8",)
    rates = rates_grid(found)
    assert rates.columns == ("rate", "cola", "rte", "mean")
    assert [row[0].value for row in rates.rows] == list(RATES)
    assert rates.rows[0][1].value == found.tasks[0].points[0].gain.difference


def test_the_figure_has_a_line_for_each_task_and_the_mean():
    found = studied(OPPOSITE, seeds=range(3))
    (plot,) = transfer_plots(found)
    svg, _ = render(plot)
    for label in ("cola", "rte", "mean over the tasks", "points above lora", "dropout rate"):
        assert label in svg
    many = dataclasses.replace(found, tasks=found.tasks * 3)
    assert [plot.title[-8:] for plot in transfer_plots(many)] == ["(1 of 2)", "(2 of 2)"]

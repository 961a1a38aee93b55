"""The overfitting monitor on synthetic runs, whose differences are known."""

import dataclasses

import pytest
from scipy import stats

from hiddenkey.errors import ConfigError
from hiddenkey.lab.present.canvas import render
from lab.report.synthetic import record, study
from overfitting.figures import overfitting_plots, shown_rows
from overfitting.tables import (
    headline,
    is_shown,
    short_entry,
    watch_grid,
)
from overfitting.watch import Quantity, watch_overfitting
from studies.records import calibrated

CHOSEN = ("lora", "dropkey", "hiddenkey")


def runs_of(seeds=8, tasks=("headlines",), rates=(0.1,), **more):
    """Plain LoRA ends with twice the calibration error of the others."""
    runs = study(tasks=tasks, chosen=CHOSEN, rates=rates, seeds=range(seeds), **more)
    return [calibrated(run, 0.2 if run.options["method"] == "lora" else 0.1) for run in runs]


@pytest.fixture(scope="module")
def watch():
    (found,) = watch_overfitting(runs_of())
    return found


def ending(watch, method, label):
    row = next(row for row in watch.rows if row.configuration.method == method)
    labels = [quantity.label for quantity in watch.quantities]
    return row.endings[labels.index(label)]


def test_quantities_of_a_classification(watch):
    assert [quantity.label for quantity in watch.quantities] == [
        "accuracy gap", "loss gap", "accuracy", "loss", "ece", "brier", "confidence",
    ]  # fmt: skip
    assert watch.notes == ()
    assert [row.configuration.method for row in watch.rows] == list(CHOSEN)


def test_accuracy_is_watched_beside_another_main_metric():
    runs = runs_of(tasks=("cola",), seeds=2)
    runs = [
        dataclasses.replace(run, metrics=tuple({**li, "eval_accuracy": 0.5} for li in run.metrics))
        for run in runs
    ]
    (found,) = watch_overfitting(runs)
    labels = [quantity.label for quantity in found.quantities]
    assert labels[:5] == ["matthews gap", "loss gap", "matthews", "accuracy", "loss"]


def test_endings_are_those_of_the_last_line(watch):
    runs = {run.options["seed"]: run for run in runs_of() if run.options["method"] == "lora"}
    lines = {seed: run.metrics[-1] for seed, run in runs.items()}
    gap = dict(ending(watch, "lora", "loss gap").values)
    ece = dict(ending(watch, "lora", "ece").values)
    assert set(gap) == set(ece) == set(range(8))
    for seed, line in lines.items():
        assert gap[seed] == line["train_sample_loss"] - line["eval_loss"]
        assert ece[seed] == line["eval_ece"]


def test_differences_are_paired_and_tested(watch):
    found = ending(watch, "hiddenkey", "ece")
    base = dict(ending(watch, "lora", "ece").values)
    differences = [value - base[seed] for seed, value in found.values]
    compared = found.comparison
    assert compared.difference == pytest.approx(-0.1, abs=0.005)
    # of the two settings of the family the one with the smaller p-value is tested at half the level
    other = ending(watch, "dropkey", "ece").comparison
    confidence = 0.975 if compared.p_value < other.p_value else 0.95
    low, high = stats.t.interval(
        confidence, 7, loc=sum(differences) / 8, scale=stats.sem(differences)
    )
    assert (compared.low, compared.high) == (pytest.approx(low), pytest.approx(high))
    assert compared.p_value == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=1e-3)
    assert compared.p_value <= compared.p_adjusted <= 2 * compared.p_value
    assert is_shown(found)
    assert ending(watch, "lora", "ece").comparison is None


def test_too_few_seeds_are_said():
    (watch,) = watch_overfitting(runs_of(seeds=2))
    found = ending(watch, "hiddenkey", "ece")
    assert not is_shown(found)
    assert "no difference from the baseline is shown. 3 pairs are the fewest" in headline(watch)


def test_headline_names_what_is_lower_and_higher(watch):
    said = headline(watch)
    assert said.startswith(
        "headlines: accuracy gap lower with dropkey and hiddenkey; loss gap high"
    )
    assert "ece lower with dropkey and hiddenkey" in said
    assert short_entry(watch.rows[0], watch.rows[0].endings[0], "lora").text == "0.120"
    assert short_entry(watch.rows[1], watch.rows[1].endings[0], "lora").text == "−0.070*"


def test_curves_follow_calibration_over_the_steps(watch):
    curve = next(
        c for c in watch.curves
        if (c.configuration.method, c.name, c.part) == ("lora", "ece", "evaluation")
    )  # fmt: skip
    assert [point.step for point in curve.points] == [40, 80, 120, 160, 200]
    means = [point.spread.mean for point in curve.points]
    assert means == pytest.approx([0.04, 0.08, 0.12, 0.16, 0.2], abs=0.003)
    assert {point.spread.count for point in curve.points} == {8}


def test_old_runs_without_calibration_are_said():
    runs = [*runs_of(seeds=2), *study(chosen=("hiddencut",), rates=(0.1,), seeds=range(2))]
    (watch,) = watch_overfitting(runs)
    (note,) = watch.notes
    assert note.startswith("2 of 8 runs of headlines were stored before")
    assert ending(watch, "hiddencut", "ece").values == ()
    assert ending(watch, "hiddencut", "accuracy gap").comparison is not None
    (old,) = watch_overfitting(study(rates=(0.1,), seeds=range(2)))
    assert [quantity.name for quantity in old.quantities[2:]] == ["accuracy", "loss"]
    assert old.notes[0].startswith("4 of 4 runs")


def test_a_regression_has_no_calibration():
    (watch,) = watch_overfitting(study(tasks=("stsb",), rates=(0.1,), seeds=range(3)))
    assert watch.notes == ("stsb is no classification: it has no calibration and no confidence.",)
    assert [quantity.label for quantity in watch.quantities] == [
        "pearson gap", "loss gap", "pearson", "loss",
    ]  # fmt: skip


def test_diverged_runs_are_counted_not_averaged():
    runs = runs_of(seeds=3)
    broken = next(run for run in runs if run.options["method"] == "dropkey")
    last = {**broken.metrics[-1], "eval_loss": None, "eval_ece": None}
    broken = dataclasses.replace(broken, metrics=(*broken.metrics[:-1], last))
    runs = [broken if run.id == broken.id else run for run in runs]
    (watch,) = watch_overfitting(runs)
    assert len(ending(watch, "dropkey", "loss gap").values) == 2
    assert "left out: dropkey (1). A run that diverged is a bad result" in watch.notes[0]


def test_each_adapter_is_paired_with_its_own_baseline():
    runs = []
    for decay in (0.0, 0.1):
        for method in ("lora", "hiddenkey"):
            for seed in range(3):
                runs.append(record(method=method, seed=seed, weight_decay=decay))
    (watch,) = watch_overfitting(runs)
    pairs = {row.configuration.label: row.against for row in watch.rows}
    assert pairs == {
        "lora": None,
        "lora, weight decay 0.1": None,
        "hiddenkey": "lora",
        "hiddenkey, weight decay 0.1": "lora, weight decay 0.1",
    }


def test_a_setting_only_one_method_varies_is_told():
    runs = [record(method="lora", seed=seed) for seed in range(3)]
    runs += [record(method="hiddenkey", seed=seed, learning_rate=5e-3) for seed in range(3)]
    (watch,) = watch_overfitting(runs)
    assert watch.rows[1].also_differs == ("learning_rate",)
    said = "Not as in the baseline, beside the method: learning rate, in hiddenkey."
    assert said in watch_grid(watch).notes
    assert list(overfitting_plots([watch], "lora"))[-1].caption.endswith(said)


def test_labels_tell_what_differs_on_the_task_alone():
    runs = [record(method=method, seed=s) for method in ("lora", "hiddenkey") for s in range(2)]
    for rank in (2, 64):
        runs += [record(task="cola", method="lora", rank=rank, seed=seed) for seed in range(2)]
    runs += [record(task="cola", method="lora", learning_rate=1e-2, seed=seed) for seed in range(2)]
    cola, headlines = watch_overfitting(runs)
    assert [row.configuration.label for row in headlines.rows] == ["lora", "hiddenkey"]
    assert "lora, rank 8" in [row.configuration.label for row in cola.rows][1]


def test_another_rank_is_not_paired():
    runs = [record(method="lora", seed=seed) for seed in range(3)]
    runs += [record(method="hiddenkey", rank=16, seed=seed) for seed in range(3)]
    (watch,) = watch_overfitting(runs)
    assert watch.rows[1].against is None
    assert short_entry(watch.rows[1], watch.rows[1].endings[0], "lora").text == "(0.050)"
    assert (
        "Not compared, since lora has no two runs of the same model, adapter, rank"
        in watch.notes[1]
    )
    assert headline(watch) == "headlines: nothing to compare with the baseline."


def test_chosen_methods_and_unknown_baseline():
    (watch,) = watch_overfitting(runs_of(seeds=2), chosen=("hiddenkey",))
    assert [row.configuration.method for row in watch.rows] == ["lora", "hiddenkey"]
    with pytest.raises(ConfigError, match=r"baseline must be a method .*, got 'lorra'; did you"):
        watch_overfitting(runs_of(seeds=2), "lorra")


def test_a_figure_shows_the_best_rate_of_each_method():
    runs = runs_of(seeds=3, rates=(0.05, 0.1))
    (watch,) = watch_overfitting(runs)
    base, others = shown_rows(watch, "lora")
    assert base.configuration.method == "lora"
    index = watch.quantities.index(Quantity("accuracy", "evaluation"))
    for row in others:
        rivals = [
            other for other in watch.rows if other.configuration.method == row.configuration.method
        ]
        means = [other.endings[index].description.mean for other in rivals]
        assert len(means) == 2
        assert row.endings[index].description.mean == max(means)


def test_curves_have_a_panel_for_each_quantity(watch):
    plot, _ = overfitting_plots([watch], "lora")
    assert plot.title == "headlines: overfitting over the steps"
    assert "the accuracy on the same examples" in plot.caption
    assert "lora ends at accuracy gap 0.120, evaluation loss" in plot.alt
    svg, _ = render(plot)
    for label in ("gap", "error (ECE)", "confidence", "hiddenkey"):
        assert label in svg
    old, _ = overfitting_plots(watch_overfitting(study(rates=(0.1,), seeds=range(2))), "lora")
    assert old.height < plot.height
    assert "onfidence" not in render(old)[0] + old.caption


def test_differences_at_the_end_have_a_panel_for_each_quantity(watch):
    _, plot = overfitting_plots([watch], "lora")
    assert plot.title == "headlines: differences to lora after the last step"
    assert "hiddenkey: accuracy gap −0.070 [−0.115, −0.025], loss −" in plot.alt
    svg, _ = render(plot)
    for label in ("accuracy gap", "loss", "ece", "confidence", "dropkey", "hiddenkey"):
        assert f">{label}<" in svg


def test_runs_that_were_looked_at_once_have_no_curves():
    (plot,) = overfitting_plots(watch_overfitting(runs_of(seeds=2, evaluations=1)), "lora")
    assert plot.name == "overfitting_end"


def test_many_methods_have_several_figures_each_with_the_baseline():
    names = ("lora", "dropkey", "hiddencut", "dropattention-element", "hiddenkey",
             "hiddenkey-minus", "hiddenkey-js")  # fmt: skip
    watches = watch_overfitting(study(chosen=names, rates=(0.1,), seeds=range(2)))
    one, two, *ends = overfitting_plots(watches, "lora")
    assert one.title.endswith("(1 of 2)")
    assert "lora ends at" in one.alt
    assert "lora ends at" in two.alt
    assert [plot.title[-8:] for plot in ends] == ["(1 of 2)", "(2 of 2)"]

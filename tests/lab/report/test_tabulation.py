import dataclasses
import json
import math
import random
import statistics

import pytest

from hiddenkey.errors import ConfigError
from hiddenkey.lab.evidence.comparisons import compare_paired
from hiddenkey.lab.report import tabulate
from lab.report.synthetic import record, study, with_metric, with_values

OURS = [0.80, 0.82, 0.84, 0.86, 0.88, 0.90]
THEIRS = [0.79, 0.80, 0.81, 0.82, 0.83, 0.84]


def pair(ours=OURS, theirs=THEIRS, **options):
    """Return runs of lora and of hiddenkey with these values, by seed from 0."""
    base = [record(method="lora", seed=seed, **options) for seed in range(len(theirs))]
    own = [record(method="hiddenkey", seed=seed, **options) for seed in range(len(ours))]
    return [*with_values(base, theirs), *with_values(own, ours)]


def cell(tables, label, checkpoint="last", task=0, scope=0):
    table = tables.scopes[scope].tasks[task]
    configuration = next(
        configuration
        for configuration in tables.scopes[scope].configurations
        if configuration.label == label
    )
    return table.find(configuration, checkpoint)


def labels(tables, scope=0):
    return [configuration.label for configuration in tables.scopes[scope].configurations]


def test_cells_hold_the_values_by_seed_and_the_paired_difference():
    tables = tabulate(pair())
    found = cell(tables, "hiddenkey")
    assert found.values == tuple(enumerate(OURS))
    assert found.description.mean == pytest.approx(0.85)
    assert found.description.deviation == pytest.approx(statistics.stdev(OURS))
    assert found.comparison.difference == pytest.approx(0.85 - 0.815)
    assert (found.comparison.wins, found.comparison.losses) == (6, 0)
    assert found.comparison.p_value == compare_paired(OURS, THEIRS).p_value < 0.01
    assert found.comparison.verdict == "better"
    base = cell(tables, "lora")
    assert (base.comparison, base.against) == (None, None)


def test_order_of_the_records_does_not_matter():
    records = [*study(tasks=("cola", "rte")), record(method="hiddenkey", seed=9, error="no")]
    shuffled = random.Random(1).sample(records, len(records))
    first, second = tabulate(records), tabulate(shuffled)
    assert first.scopes == second.scopes
    assert {r.record.id: r for r in first.runs} == {r.record.id: r for r in second.runs}


def test_pairs_are_the_seeds_in_common():
    tables = tabulate(pair(ours=OURS[:4]))
    found = cell(tables, "hiddenkey")
    assert found.comparison.count == 4
    assert found.comparison.difference == pytest.approx(statistics.mean([0.01, 0.02, 0.03, 0.04]))
    assert cell(tables, "lora").description.count == 6
    notes = " ".join(tables.scopes[0].tasks[0].notes)
    assert "Not all configurations have the same seeds" in notes
    assert "differences to lora are over the seeds in common" in notes


@pytest.mark.parametrize(
    ("ours", "reason"),
    [((5,), "no seed in common with lora"), ((0,), "only seed 0 in common with lora")],
)
def test_too_few_common_seeds_are_said(ours, reason):
    own = [record(method="hiddenkey", seed=seed) for seed in ours]
    tables = tabulate([record(method="lora", seed=0), record(method="lora", seed=1), *own])
    found = cell(tables, "hiddenkey")
    assert (found.comparison, found.reason) == (None, reason)
    verdict = tables.scopes[0].tasks[0].verdict
    assert verdict.answer == "nothing to compare"
    assert reason in verdict.sentences[0]


def test_missing_values_are_left_out_and_counted():
    runs = pair()
    runs[6] = with_metric(runs[6], last=None, best=None)
    runs[7] = with_metric(runs[7], last=math.inf)
    tables = tabulate(runs)
    found = cell(tables, "hiddenkey")
    assert (found.missing, len(found.values), found.comparison.count) == (2, 4, 4)
    assert cell(tables, "hiddenkey", "best").missing == 1
    sentences = " ".join(tables.scopes[0].tasks[0].verdict.sentences)
    assert "Finished runs without a number are left out: hiddenkey (2)" in sentences
    assert "look better here than they are" in sentences


def test_an_configuration_without_any_value_has_no_numbers():
    runs = [with_metric(run, last=None, best=None) for run in pair()[6:]]
    tables = tabulate([*pair()[:6], *runs])
    found = cell(tables, "hiddenkey")
    assert (found.description, found.comparison, found.missing) == (None, None, 6)
    assert tables.scopes[0].tasks[0].verdict.answer == "nothing to compare"


def test_failed_runs_count_beside_their_configuration_and_are_listed():
    failed = record(method="hiddenkey", seed=7, error="Traceback\n  line\nValueError: no\n")
    tables = tabulate([*pair(), failed])
    assert cell(tables, "hiddenkey").failed == 1
    assert labels(tables) == ["lora", "hiddenkey"]
    (failure,) = tables.failures
    assert failure.record.reason == "ValueError: no"
    assert (failure.values["seed"], failure.values["configuration"]) == (7, "hiddenkey")
    assert failure.record.error.startswith("Traceback")


def test_failures_alone_make_a_report_without_numbers():
    tables = tabulate([record(error="one"), record(method="hiddenkey", error="")])
    (table,) = tables.scopes[0].tasks
    assert table.verdict.answer == "nothing to compare"
    assert table.verdict.sentences[0] == "No run of this task finished; see the failed runs."
    assert {failure.record.reason for failure in tables.failures} == {"one", ""}


def test_without_a_baseline_means_stand_alone():
    tables = tabulate(pair()[6:])
    assert cell(tables, "hiddenkey").reason == "no baseline"
    verdict = tables.scopes[0].tasks[0].verdict
    assert "no run of the baseline lora" in verdict.sentences[0]
    assert "No run uses the baseline lora" in tables.notes[0]


def test_another_baseline_may_be_chosen():
    tables = tabulate(pair(), baseline="hiddenkey")
    assert labels(tables) == ["hiddenkey", "lora"]
    assert cell(tables, "lora").comparison.verdict == "worse"


def test_unknown_baseline_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"must be a method of the runs \(hiddenkey, lora\), got"):
        tabulate(pair(), baseline="loar")
    with pytest.raises(ConfigError, match="did you mean 'lora'"):
        tabulate(pair(), baseline="loar")


def test_holm_counts_all_settings_of_a_task():
    tables = tabulate(study(chosen=("lora", "dropkey", "hiddenkey"), rates=(0.1, 0.2)))
    compared = [c for c in tables.scopes[0].tasks[0].cells if c.comparison and c.measure.main]
    last = [c.comparison for c in compared if c.measure.checkpoint == "last"]
    assert len(last) == 4
    smallest = min(last, key=lambda comparison: comparison.p_value)
    assert smallest.p_adjusted == pytest.approx(min(1, 4 * smallest.p_value))
    assert smallest.confidence == pytest.approx(1 - 0.05 / 4)


def test_losses_are_better_when_smaller():
    tables = tabulate(study(gains={"hiddenkey": 0.1}, rates=(0.1,)))
    (configuration,) = [
        configuration
        for configuration in tables.scopes[0].configurations
        if configuration.method == "hiddenkey"
    ]
    loss = tables.scopes[0].tasks[0].find(configuration, "last", main=False)
    assert loss.measure.name == "loss"
    assert loss.comparison.difference < 0
    assert loss.comparison.verdict == "better"


def test_translation_edit_rate_is_better_when_smaller():
    runs = []
    for run in pair():
        result = run.result
        metrics = {**result.metrics, "TER": result.metrics[result.main_metric]}
        runs.append(dataclasses.replace(run, result=dataclasses.replace(result, metrics=metrics)))
    found = {
        cell.measure.name: cell.comparison.verdict
        for cell in tabulate(runs).scopes[0].tasks[0].cells
        if cell.comparison is not None and cell.measure.checkpoint == "last"
    }
    assert (found["accuracy"], found["TER"]) == ("better", "worse")


def test_labels_name_what_differs_and_the_rest_stays_unsaid():
    runs = study(chosen=("lora", "hiddenkey"), rates=(0.05, 0.1), seeds=range(2), ranks=(4, 8))
    assert labels(tabulate(runs)) == [
        "lora, rank 4",
        "lora, rank 8",
        "hiddenkey, rank 4, rate 0.05",
        "hiddenkey, rank 4, rate 0.1",
        "hiddenkey, rank 8, rate 0.05",
        "hiddenkey, rank 8, rate 0.1",
    ]
    assert labels(tabulate(study(rates=(0.1,)))) == ["lora", "hiddenkey"]


def test_the_methods_own_rate_equals_the_same_rate_written_out():
    runs = [record(method="dropkey", seed=0), record(method="dropkey", seed=1, rate=0.1)]
    tables = tabulate(runs)
    (configuration,) = tables.scopes[0].configurations
    assert (configuration.label, configuration.rate) == ("dropkey", 0.1)
    assert len(cell(tables, "dropkey").values) == 2


def test_rates_by_position_are_no_point_of_a_sweep():
    runs = [record(method="hiddenkey", rates={"hidden": rate}) for rate in (0.2, 0.3)]
    tables = tabulate(runs)
    assert [configuration.rate for configuration in tables.scopes[0].configurations] == [None, None]
    assert labels(tables)[0] == "hiddenkey, rate attention_logits 0.1, hidden 0.2"


def test_settings_that_task_and_method_decide_do_not_split_configurations():
    """As after a search: each method has another rate on each task."""
    runs = [
        record(task=task, method=method, seed=seed, learning_rate=learning_rate, rate=rate)
        for task, method, learning_rate, rate in (
            ("cola", "lora", 1e-3, None),
            ("rte", "lora", 2e-3, None),
            ("cola", "hiddenkey", 3e-3, 0.137),
            ("rte", "hiddenkey", 4e-3, 0.21),
        )
        for seed in range(2)
    ]
    tables = tabulate(runs)
    assert labels(tables) == ["lora", "hiddenkey"]
    notes = [" ".join(table.notes) for table in tables.scopes[0].tasks]
    assert "hiddenkey: rate 0.137" in notes[0]
    assert (
        "hiddenkey differs from lora in more than dropout: learning_rate 0.003 (not 0.001)"
        in (notes[0])
    )
    assert "hiddenkey: rate 0.21" in notes[1]


def test_baseline_has_the_same_model_and_rank():
    tables = tabulate(study(ranks=(4, 8), rates=(0.1,)))
    assert cell(tables, "hiddenkey, rank 4").against == "lora, rank 4"
    assert cell(tables, "hiddenkey, rank 8").against == "lora, rank 8"
    alone = [run for run in study(ranks=(4, 8), rates=(0.1,)) if run.options["rank"] == 4]
    other = [run for run in study(ranks=(8,), rates=(0.1,)) if run.options["method"] != "lora"]
    tables = tabulate([*alone, *other])
    assert cell(tables, "hiddenkey, rank 8").reason == "no baseline"


def test_baseline_is_at_the_setting_that_it_alone_varies():
    runs = [
        record(method=method, learning_rate=learning_rate, seed=seed, gain=10 * learning_rate)
        for method, learning_rate in (("lora", 0.001), ("lora", 0.002), ("hiddenkey", 0.001))
        for seed in range(3)
    ]
    tables = tabulate(runs)
    assert cell(tables, "hiddenkey").against == "lora, learning rate 0.001"
    (cost,) = (c for c in tables.scopes[0].tasks[0].costs if c.configuration.method == "hiddenkey")
    seconds = [run.result.seconds_per_step for run in runs]
    ratios = [own / base for own, base in zip(seconds[6:], seconds[:3], strict=True)]
    assert cost.time.value == pytest.approx(statistics.geometric_mean(ratios))


def test_baseline_trains_the_same_weights():
    """Another adapter at the same learning rate is less like it than LoRA at another one."""
    runs = [
        record(method=method, adapter=adapter, learning_rate=learning_rate, seed=seed)
        for method, adapter, learning_rate in (
            ("lora", "lora", 0.001),
            ("lora", "dora", 0.002),
            ("hiddenkey", "lora", 0.002),
        )
        for seed in range(2)
    ]
    against = cell(tabulate(runs), "hiddenkey").against
    assert against == "lora, learning rate 0.001"


def test_baseline_with_rates_is_at_the_same_rate():
    tables = tabulate(study(chosen=("dropkey", "hiddenkey"), seeds=range(2)), baseline="dropkey")
    for rate in ("0.05", "0.1"):
        assert cell(tables, f"hiddenkey, rate {rate}").against == f"dropkey, rate {rate}"


def test_different_examples_are_different_tasks():
    runs = [
        *pair(train_size=100, fingerprint="a" * 64),
        *pair(train_size=200, fingerprint="b" * 64),
    ]
    tables = tabulate(runs)
    names = [table.task.label for table in tables.scopes[0].tasks]
    assert names == [
        "headlines (train_size 100)",
        "headlines (train_size 200)",
    ]
    assert labels(tables) == ["lora", "hiddenkey"]


def test_different_examples_by_the_same_options_are_told_by_their_fingerprint():
    runs = [*pair(fingerprint="a" * 64), *pair(fingerprint="b" * 64)]
    names = [table.task.label for table in tabulate(runs).scopes[0].tasks]
    assert names == ["headlines (data aaaaaaaa)", "headlines (data bbbbbbbb)"]


def test_failed_run_joins_the_task_with_its_data_options():
    runs = [
        *pair(train_size=100, fingerprint="a" * 64),
        *pair(train_size=200, fingerprint="b" * 64),
    ]
    tables = tabulate([*runs, record(method="hiddenkey", seed=9, train_size=200, error="no")])
    assert [cell(tables, "hiddenkey", task=task).failed for task in (0, 1)] == [0, 1]


def test_only_the_newest_of_two_like_runs_counts():
    old = record(method="lora", seed=0, ended="2026-01-01T00:00:00+00:00")
    new = dataclasses.replace(with_metric(old, last=0.5), id="f" * 16, ended="2026-02-01")
    failed = dataclasses.replace(
        record(method="lora", seed=0, error="no", ended="2026-03-01"), id="e" * 16
    )
    tables = tabulate([old, new, failed])
    assert cell(tables, "lora").values == ((0, 0.5),)
    assert {row.record.id for row in tables.runs if row.values["superseded"]} == {old.id, failed.id}
    assert "2 runs of the same configuration, task and seed as a newer one" in tables.notes[0]


def test_equal_time_runs_are_apart_and_beside_the_baselines_own():
    steps = study(tasks=("cola", "rte"), rates=(0.1,))
    time = [
        record(task="cola", method="hiddenkey", rate=0.1, seed=seed, budget="time", max_steps=120)
        for seed in range(6)
    ]
    tables = tabulate([*steps, *time])
    assert [scope.budget for scope in tables.scopes] == ["steps", "time"]
    assert labels(tables, 0) == labels(tables, 1) == ["lora", "hiddenkey"]
    (table,) = tables.scopes[1].tasks
    assert table.task.name == "cola"
    assert cell(tables, "hiddenkey", scope=1).comparison.count == 6
    assert not any("number of steps" in note for note in table.notes)
    alone, beside = (
        dataclasses.replace(found.scopes[0], tasks=_without_advice(found.scopes[0].tasks))
        for found in (tabulate(steps), tables)
    )
    assert alone == beside


def _without_advice(tables):
    """More seeds are of the whole comparison, so that advice on one scope knows the other."""
    return tuple(dataclasses.replace(table, advice=None) for table in tables)


def test_unequal_steps_are_said():
    runs = [*pair()[:6], *(record(method="hiddenkey", seed=s, max_steps=90) for s in range(6))]
    (table,) = tabulate(runs).scopes[0].tasks
    assert "Not the same number of steps as lora: hiddenkey." in " ".join(table.notes)


def test_different_machines_are_said():
    own = [record(method="hiddenkey", environment={"device": "cuda"}, seed=s) for s in range(6)]
    (table,) = tabulate([*pair()[:6], *own]).scopes[0].tasks
    assert "different environments: device (cpu and cuda)" in " ".join(table.notes)


def test_search_runs_are_listed_and_never_compared():
    search = [
        record(method=method, learning_rate=rate, stage="search", seed=seed, holdout=0.25)
        for method in ("lora", "hiddenkey")
        for rate in (1e-3, 3e-3)
        for seed in (100, 101)
    ]
    alone, both = tabulate(search), tabulate([*pair(), *search])
    assert alone.scopes == ()
    assert both.scopes == tabulate(pair()).scopes
    assert len(both.search) == 4
    for method in ("lora", "hiddenkey"):
        trials = [trial for trial in both.search if trial.settings["method"] == method]
        assert [trial.seeds for trial in trials] == [2, 2]
        assert {trial.settings["learning_rate"] for trial in trials} == {"0.001", "0.003"}
        assert [trial.leading for trial in trials] == [True, False]
        assert trials[0].best > trials[1].best


def test_of_a_halving_only_what_reached_the_last_round_leads():
    tried = {1e-3: (0.0, (100, 101)), 2e-3: (0.3, (100,)), 3e-3: (0.1, (100, 101))}
    search = [
        record(gain=gain, learning_rate=rate, stage="search", seed=seed, holdout=0.25)
        for rate, (gain, seeds) in tried.items()
        for seed in seeds
    ]
    rows = tabulate(search).search
    assert [row.settings["learning_rate"] for row in rows] == ["0.003", "0.001", "0.002"]
    assert rows[2].best > rows[0].best > rows[1].best
    assert [row.leading for row in rows] == [True, False, False]


def test_ranks_need_tasks_and_methods():
    one = tabulate(study(chosen=("lora", "dropkey", "hiddenkey"), rates=(0.1,)))
    assert one.scopes[0].ranking is None
    assert "at least two tasks" in one.scopes[0].unranked
    two = tabulate(study(tasks=("cola", "rte"), rates=(0.1,)))
    assert "at least three configurations" in two.scopes[0].unranked


def test_ranks_leave_out_what_is_not_on_every_task():
    runs = study(tasks=("cola", "rte"), chosen=("lora", "dropkey", "hiddencut"), rates=(0.1,))
    runs += study(tasks=("cola",), chosen=("hiddenkey",), rates=(0.1,))
    scope = tabulate(runs).scopes[0]
    assert set(scope.ranking.ranks) == {"lora", "dropkey", "hiddencut"}
    assert scope.unranked == "Not on every task, so left out: hiddenkey."


def test_tables_are_plain_values():
    tables = tabulate([*study(), record(error="no", method="hiddenkey")])

    def plain(value):
        if dataclasses.is_dataclass(value):
            return all(plain(getattr(value, f.name)) for f in dataclasses.fields(value))
        if isinstance(value, dict):
            return all(map(plain, value.values()))
        if isinstance(value, tuple | list | frozenset):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, float, bool)

    assert plain(tables)
    json.dumps(dataclasses.asdict(tables.runs[0]))


def test_runs_that_broke_down_are_said_with_what_is_left_without_them():
    runs = pair(ours=[*OURS[:5], 0.40])
    lost = dataclasses.replace(runs[-1].result, train_sample={"accuracy": 0.43})
    learnt = [
        dataclasses.replace(run, result=dataclasses.replace(run.result, train_sample={
            "accuracy": 0.97}))
        for run in runs[:-1]
    ]  # fmt: skip
    broken = [*learnt, dataclasses.replace(runs[-1], result=lost)]
    (table,) = tabulate(broken).scopes[0].tasks
    note = next(note for note in table.notes if "Broke down" in note)
    assert "hiddenkey at seed 5 (0.430, the median of its seeds is 0.970)" in note
    assert "hiddenkey +0.030 in 5 pairs" in note  # the mean of 0.01 to 0.05
    assert cell(tabulate(broken), "hiddenkey").comparison.count == 6  # it counts all the same
    (table,) = tabulate(learnt).scopes[0].tasks
    assert not any("Broke down" in note for note in table.notes)


def test_ties_on_few_evaluation_examples_are_inconclusive():
    runs = [
        dataclasses.replace(run, result=dataclasses.replace(run.result, eval_examples=2))
        for run in pair(ours=[0.5] * 6, theirs=[0.5] * 6)
    ]
    (table,) = tabulate(runs).scopes[0].tasks
    assert table.verdict.answer == "inconclusive"
    assert table.advice.action == "give up"
    assert "or judge on more evaluation examples: On so few" in table.advice.words


def test_steps_are_compared_seed_by_seed():
    """One run of the baseline stopped early: the other seeds are unequal all the same."""
    base = [record(method="lora", seed=s, max_steps=90 if s == 4 else 200) for s in range(6)]
    own = [record(method="hiddenkey", seed=s, max_steps=90) for s in range(6)]
    (table,) = tabulate([*base, *own]).scopes[0].tasks
    assert "Not the same number of steps as lora: hiddenkey (seeds 0, 1, 2, 3 and 5)." in " ".join(
        table.notes
    )

"""The plan, the rows and the picture of benchmarks/cost_gain.py, from hand-made results."""

import json
import statistics

import pytest

import cost_gain
import cost_gain_report
import demo_runs as demo
from hiddenkey.lab.run.method import dropout_config
from hiddenkey.lab.run.result import Result, Summary
from hiddenkey.lab.run.rules import validate

SEEDS = 3
COSTS = {
    setting.name: 1 + 0.09 * index  # LoRA is first
    for index, setting in enumerate(cost_gain.settings())
}


def make_result(accuracy, loss, seed, steps):
    return Result(
        task="headlines", model="minilm", method="any", seed=seed, main_metric="accuracy",
        metrics={"accuracy": Summary(accuracy, steps, accuracy)},
        eval_loss=Summary(loss, steps, loss), train_loss=None, train_sample={}, gap={},
        steps=steps, seconds_per_step=0.2, seconds=0.2 * steps, trainable_parameters=1,
        lora_parameters=1, total_parameters=1, peak_memory_mib=1.0, peak_device_memory_mib=None,
        data_fingerprint="",
    )  # fmt: skip


@pytest.fixture
def results():
    """The n-th setting is 0.01 n better than LoRA with each seed, and in equal time 0.005 n."""
    found = {}
    for comparison, gain in (("equal steps", 0.01), ("equal time", 0.005)):
        for index, (name, cost) in enumerate(COSTS.items()):
            steps = cost_gain.steps_in_equal_time(140, cost) if gain == 0.005 else 140
            for seed in range(SEEDS):
                better = gain * index * (1 + 0.1 * seed)
                made = make_result(0.8 + 0.02 * seed + better, 0.6 - better, seed, steps)
                found[comparison, name, seed] = made
    return found


def test_there_are_thirteen_settings_with_valid_options(tmp_path):
    runs = cost_gain.plan(tmp_path, COSTS, SEEDS, 140)
    assert len(cost_gain.settings()) == 14
    assert len(runs) == 2 * 14 * SEEDS
    for options in runs.values():
        assert validate(options) == []
        assert options.learning_rate == 2e-3
        assert (options.train_size, options.eval_size) == (200, 500)
        assert options.batch_size == demo.BUDGET["batch_size"]


def test_the_plan_varies_the_consistency_loss_and_the_layers(tmp_path):
    runs = cost_gain.plan(tmp_path, COSTS, 1, 140)
    config = {s.name: dropout_config(runs["equal steps", s.name, 0]) for s in cost_gain.settings()}
    losses = {name: found.consistency for name, found in config.items()}
    assert losses["lora"] is None
    assert losses["minus"] is None
    grid = {(losses[n].every, losses[n].fraction) for n in COSTS if n.startswith("every")}
    assert grid == {(every, fraction) for every in (1, 2, 4) for fraction in (1.0, 0.5, 0.25)}
    assert [name for name, loss in losses.items() if loss and loss.backward == "both"] == ["both"]
    assert [name for name, found in config.items() if found.layers] == ["top-half"]
    assert config["top-half"].layers == (3, 4, 5)
    assert {drop.rate for drop in config["every1-fraction1"].drops} == {0.1}


def test_folders_are_shared_by_equal_runs_alone(tmp_path):
    runs = cost_gain.plan(tmp_path, COSTS, SEEDS, 140)
    kept = {}
    for options in runs.values():
        assert kept.setdefault(options.output, options) == options
    assert len(kept) == len(runs) - SEEDS  # LoRA's runs serve both comparisons
    assert {key[2] for key in list(runs)[:26]} == {0}  # seed by seed


@pytest.mark.parametrize(
    ("cost", "steps"), [(1.0, 140), (0.97, 140), (1.004, 139), (1.6, 88), (2.0, 70), (1000, 1)]
)
def test_steps_follow_from_the_cost(cost, steps):
    assert cost_gain.steps_in_equal_time(140, cost) == steps


def test_cost_of_a_cycle_is_the_mean_over_its_phases():
    base = [1.0, 2.0, 1.0, 2.0] * 2
    own = [1.6, 2.0, 1.0, 2.0] * 2
    assert cost_gain.cost_of(own, base, 4).relative == pytest.approx(1.15)
    own[4] = 100.0  # a slow moment in one of three turns
    assert cost_gain.cost_of([*own, 1.6], [*base, 1.0], 4).relative == pytest.approx(1.15)


def test_rows_hold_differences_to_lora_and_to_the_exact_loss(results):
    rows = cost_gain_report.tabulate(cost_gain.settings(), COSTS, results)
    assert len(rows) == 28
    by_key = {(row.comparison, row.setting.name): row for row in rows}
    index = list(COSTS).index("both")
    row = by_key["equal time", "both"]
    gains = [0.005 * index * (1 + 0.1 * seed) for seed in range(SEEDS)]
    assert row.accuracy.to_lora.difference == pytest.approx(statistics.mean(gains))
    assert row.loss.to_lora.difference == pytest.approx(-statistics.mean(gains))
    assert row.loss.to_lora.wins == SEEDS  # a smaller loss is better
    half_width = 4.302653 * statistics.stdev(gains) / SEEDS**0.5  # Student's t, 2 degrees
    width = row.accuracy.to_lora.high - row.accuracy.to_lora.difference
    assert half_width < width < 1.1 * half_width  # the steps of the gains widen it
    share = (index - list(COSTS).index("every1-fraction1")) / index
    assert row.accuracy.to_exact.difference == pytest.approx(share * statistics.mean(gains))
    assert row.steps == round(140 / COSTS["both"])
    assert row.accuracy.deviation == pytest.approx(statistics.stdev(row.accuracy.values))
    assert by_key["equal steps", "lora"].accuracy.to_lora is None
    assert by_key["equal steps", "every1-fraction1"].loss.to_exact is None


def test_tables_have_a_line_for_each_setting(results):
    rows = cost_gain_report.tabulate(cost_gain.settings(), COSTS, results)
    lines = cost_gain_report.table(rows, "equal steps").splitlines()
    assert len(lines) == 2 + 14
    assert lines[3].startswith("| HiddenKey⁻, no consistency loss | 1.09 | 140 | 0.831 ± 0.021 |")
    assert "+0.011 (+0.008 to +0.014)" in lines[3]
    assert "over 3 seeds" in cost_gain_report.note(rows)


def test_the_picture_is_written_with_its_text(results, tmp_path):
    rows = cost_gain_report.tabulate(cost_gain.settings(), COSTS, results)
    cost_gain_report.draw(rows, tmp_path / "new" / "curve.svg")
    svg = (tmp_path / "new" / "curve.svg").read_text(encoding="utf-8")
    for text in ("equal steps (140 each)", "every 4th step", "both branches", "95 % interval"):
        assert text in svg
    assert (tmp_path / "new" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_only_whole_seeds_are_reported(results, tmp_path):
    runs = cost_gain.plan(tmp_path, COSTS, SEEDS, 140)
    for key, options in runs.items():
        if key != ("equal time", "both", 1):
            options.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(results[key].to_dict())
            (options.folder / "result.json").write_text(text, encoding="utf-8")
    found = cost_gain.finished_results(runs)
    assert {seed for _, _, seed in found} == {0, 2}
    assert found["equal steps", "both", 2] == results["equal steps", "both", 2]


def test_stored_costs_are_not_measured_again(tmp_path, monkeypatch):
    asked = []

    def measure(settings):
        asked.append([setting.name for setting in settings])
        return {n: cost_gain.Cost(COSTS[n], 1.0, 1.0, 1.0, 1.0) for n in asked[-1]}

    monkeypatch.setattr(cost_gain, "measure_costs", measure)
    assert cost_gain.stored_costs(tmp_path) == COSTS
    assert cost_gain.stored_costs(tmp_path) == COSTS
    path = tmp_path / "costs.json"
    stored = json.loads(path.read_text())
    del stored["costs"]["bfloat16"]
    path.write_text(json.dumps(stored))
    assert cost_gain.stored_costs(tmp_path) == COSTS
    assert asked == [list(COSTS), ["lora", "bfloat16"]]

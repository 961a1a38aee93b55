"""Steps that take turns with the baseline's, once the runs are done."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.compare import probe as step_costs
from hiddenkey.lab.compare.probe import measure, time_missing_steps
from hiddenkey.lab.evidence.costs import FILE, read_step_times
from hiddenkey.lab.plans.data import check
from hiddenkey.lab.run.preparation import prepare
from hiddenkey.lab.run.training import train


@pytest.fixture
def timed(monkeypatch):
    """What was timed; a step of ours takes twice as long as the baseline's."""
    seen = []

    def times(ours, baseline, rounds):
        seen.append((ours[0].method, ours[0].rate, baseline[0].method))
        return [(2.0, 1.0)] * rounds

    monkeypatch.setattr("hiddenkey.lab.run.step_times.times_in_turns", times)
    return seen


def test_each_method_is_timed_once_whatever_its_rates(plan, timed):
    plan = replace(plan, rates=(0.1, 0.3))
    time_missing_steps(plan, check(plan), print)
    assert timed == [("hiddenkey", 0.1, "lora")]
    (found,) = read_step_times(Path(plan.output))
    assert found.place == ("file", plan.models[0], 4, "hiddenkey")
    assert found.ratio.value == pytest.approx(2)
    assert found.ratio.logarithm.count == plan.timed_steps


def test_only_what_is_new_is_timed_again(plan, timed, monkeypatch):
    time_missing_steps(plan, check(plan), print)
    larger = replace(plan, methods=("lora", "dropkey", "hiddenkey"))
    time_missing_steps(larger, check(larger), print)
    assert [method for method, _, _ in timed] == ["hiddenkey", "dropkey"]
    monkeypatch.setattr(step_costs, "versions", lambda: {"torch": "another"})
    time_missing_steps(plan, check(plan), print)
    assert [method for method, _, _ in timed] == ["hiddenkey", "dropkey", "hiddenkey"]


def test_none_are_timed_on_request(plan, timed):
    plan = replace(plan, timed_steps=0)
    time_missing_steps(plan, check(plan), print)
    assert timed == []
    assert read_step_times(Path(plan.output)) == []


def test_a_method_that_cannot_be_timed_is_named(plan, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory\nmore")

    monkeypatch.setattr("hiddenkey.lab.run.step_times.times_in_turns", fail)
    said = []
    time_missing_steps(plan, check(plan), said.append)
    assert said == ["hiddenkey on file: its steps could not be timed (out of memory)"]
    assert read_step_times(Path(plan.output)) == []


@pytest.mark.parametrize("text", ["{", "[1]", '[{"task": "a"}]', "null"])
def test_a_damaged_file_is_refused(text, tmp_path):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match=r"step_times.json must hold the times of steps.*delete"):
        read_step_times(tmp_path)


def test_steps_of_two_models_take_turns(plan):
    plan = replace(plan, timed_steps=4, common={**plan.common, "gradient_accumulation": 2})
    time_missing_steps(plan, check(plan), print)
    (row,) = json.loads((Path(plan.output) / FILE).read_text())
    assert len(row["seconds"]) == len(row["baseline_seconds"]) == 4
    assert min(*row["seconds"], *row["baseline_seconds"]) > 0


def test_timing_a_few_steps_reports_nothing_of_a_training(tiny_options, caplog):
    """Too few steps to see an example twice, which a user's training would be told of."""
    options = replace(tiny_options, method="temporal")
    with caplog.at_level("INFO", "hiddenkey"):
        assert measure(options, prepare(options), steps=2).step > 0
        assert caplog.text == ""
        train(replace(options, max_steps=2))
    assert "compared nothing" in caplog.text

"""Runs of a study are stored once, found again by their settings alone, and told beforehand."""

import json

import pytest

import study_runs
from study_runs import StudyRuns, extrapolated


def test_a_run_is_measured_once_and_then_read(tmp_path):
    calls = []

    def measure():
        calls.append(1)
        return {"accuracy": 0.5}

    for _ in range(2):
        run = StudyRuns(tmp_path).run({"seed": 1, "rates": (0.1, 0.2)}, measure)
        assert run.values == {"accuracy": 0.5}
    assert len(calls) == 1
    assert "torch" in run.environment
    assert run.seconds >= 0
    StudyRuns(tmp_path).run({"seed": 2, "rates": (0.1, 0.2)}, measure)
    assert len(calls) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_broken_record_is_measured_again(tmp_path):
    runs = StudyRuns(tmp_path)
    runs.run({"seed": 1}, lambda: {"x": 1})
    (path,) = tmp_path.iterdir()
    for text in ("{", "[]", json.dumps({"settings": {"seed": 1}})):
        path.write_text(text)
        assert runs.find({"seed": 1}) is None
    assert runs.run({"seed": 1}, lambda: {"x": 2}).values == {"x": 2}


def test_what_comes_before_the_steps_is_counted_once(monkeypatch):
    """A start of 30 seconds, and 2 seconds for each step."""
    clock = [0.0]
    monkeypatch.setattr(study_runs.time, "perf_counter", lambda: clock[0])

    def take(steps):
        clock[0] += 30 + 2 * steps

    assert extrapolated(take, 5, 100) == pytest.approx(230)
    assert extrapolated(take, 5, 12) == pytest.approx(54)


def test_an_error_leaves_no_record(tmp_path):
    with pytest.raises(ZeroDivisionError):
        StudyRuns(tmp_path).run({"seed": 1}, lambda: {"x": 1 / 0})
    assert not list(tmp_path.iterdir())


def test_the_time_is_told_by_estimates_and_then_by_the_stored_runs(tmp_path):
    runs = StudyRuns(tmp_path)
    planned = [{"seed": seed} for seed in range(4)]
    said = runs.told(planned, lambda settings: 60.0 * (1 + settings["seed"]))
    assert said.startswith("4 runs, 0 stored; the others take about 10 min")
    assert runs.told(planned, None) == "4 runs, none stored"
    runs.run(planned[0], dict)
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"seconds": 120.0}))
    said = runs.told(planned, lambda settings: pytest.fail("a stored run tells it"))
    assert said.startswith("4 runs, 1 stored; the others take about 6 min")
    for settings in planned:
        runs.run(settings, dict)
    assert runs.told(planned, lambda settings: 1.0) == "4 runs, all of them stored"

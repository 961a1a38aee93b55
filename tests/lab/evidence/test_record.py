"""What a record says of its run's time, and that records of earlier versions are read."""

import dataclasses

import pytest

from hiddenkey.lab.evidence.record import Record
from lab.report.synthetic import record


def test_the_wall_time_is_that_of_the_run():
    run = record()
    assert run.wall_seconds == 245  # 03:00:00 to 03:04:05
    paused = dataclasses.replace(run, attempts=2)
    assert paused.wall_seconds == pytest.approx(run.result.seconds + 5 * 0.2)
    unknown = dataclasses.replace(run, started="", ended="")
    assert unknown.wall_seconds == paused.wall_seconds
    assert record(error="no").wall_seconds is None


def test_a_record_without_the_numbers_of_examples_is_read():
    stored = record().to_dict()
    for name in ("train_examples", "eval_examples"):
        del stored["result"][name]
    assert Record.from_dict(stored).result.train_examples is None
    stored["result"] |= {"train_examples": 200, "eval_examples": 300}
    assert Record.from_dict(stored).result.eval_examples == 300


def test_a_result_without_its_main_metric_is_no_record():
    stored = record().to_dict()
    stored["result"]["main_metric"] = "politics"
    with pytest.raises(ValueError, match="metrics must hold the main metric 'politics'"):
        Record.from_dict(stored)

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiddenkey.lab.run.result import Result, Summary, evaluation_steps, summarise

LINES = [
    {"step": 2, "eval_loss": 0.5, "eval_accuracy": 0.7},
    {"step": 4, "eval_loss": 0.4, "eval_accuracy": 0.9},
    {"step": 6, "eval_loss": 0.6, "eval_accuracy": 0.9},
]


def test_best_is_the_first_of_the_largest_and_last_is_the_last():
    assert summarise(LINES, "eval_accuracy") == Summary(best=0.9, best_step=4, last=0.9)
    assert summarise(LINES, "eval_loss", smaller=True) == Summary(best=0.4, best_step=4, last=0.6)


def test_values_that_were_no_numbers_are_passed_over():
    diverged = [*LINES, {"step": 8, "eval_loss": None}]
    assert summarise(diverged, "eval_loss", smaller=True) == Summary(0.4, 4, None)
    assert summarise([{"step": 8, "eval_loss": None}], "eval_loss") == Summary(None, 8, None)


def test_result_survives_its_file():
    values = {field.name: 1 for field in dataclasses.fields(Result)}
    summary = Summary(best=1.0, best_step=2, last=0.5)
    texts = ("task", "model", "method", "main_metric", "data_fingerprint")
    values |= dict.fromkeys(texts, "accuracy")
    values |= {"metrics": {"accuracy": summary}, "eval_loss": summary, "gap": {"loss": None}}
    values |= {"train_sample": {"loss": 1.5}, "peak_device_memory_mib": None}
    values |= {"calibration": {"ece": 0.1, "brier": None}}
    result = Result(**values)
    plain = json.loads(json.dumps(result.to_dict()))
    assert Result.from_dict(plain) == result
    for name, wrong in (("seed", "1"), ("steps", None), ("gap", {"loss": "x"}), ("seconds", True)):
        with pytest.raises(ValueError, match=rf"{name}.* must be .*, got {wrong!r}|must be .*'x'"):
            Result.from_dict(plain | {name: wrong})
    with pytest.raises(ValueError, match="lacks or does not know colour"):
        Result.from_dict(plain | {"colour": 1})
    before = {name: value for name, value in plain.items() if name != "calibration"}
    assert Result.from_dict(before) == dataclasses.replace(result, calibration={})


def test_a_result_without_a_loss_diverged():
    summary = Summary(best=1.0, best_step=2, last=0.5)
    values = {field.name: 1 for field in dataclasses.fields(Result)} | {"eval_loss": summary}
    result = Result(**values)
    assert result.diverged is None
    lost = dataclasses.replace(result, eval_loss=Summary(0.4, 2, None))
    assert "diverged: the evaluation loss at step 1" in lost.diverged


@given(st.integers(1, 500), st.integers(1, 50))
def test_looks_are_even_and_end_at_the_last_step(steps, evaluations):
    found = evaluation_steps(steps, evaluations)
    assert len(found) == len(set(found)) == min(steps, evaluations)
    assert found[-1] == steps
    assert min(found) >= 1
    gaps = [after - before for before, after in zip([0, *found], found, strict=False)]
    assert max(gaps) - min(gaps) <= 1

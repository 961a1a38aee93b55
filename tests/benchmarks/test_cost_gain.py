"""The plans of benchmarks/cost_gain.py, and the controls that follow from its records."""

import argparse

import pytest

import cost_gain
from hiddenkey.lab.plans.data import check
from hiddenkey.lab.plans.validation import validate
from hiddenkey.lab.run.dropout import dropout_config
from lab.report.synthetic import record


@pytest.fixture
def arguments(tmp_path):
    return argparse.Namespace(output=tmp_path, workers=1, seeds=3, steps=140)


def configs(arguments):
    """The dropout configurations that are compared with LoRA."""
    return [dropout_config(plan.settings()[1]) for plan in cost_gain.plans(arguments)]


def test_every_configuration_is_a_valid_comparison_with_lora(arguments):
    plans = list(cost_gain.plans(arguments))
    assert len(plans) == 13
    for plan in plans:
        assert validate(plan) == []
        lora, other = plan.settings()
        assert (lora.method, lora.rate) == ("lora", None)
        assert (other.learning_rate, other.rate) == (lora.learning_rate, 0.1) == (2e-3, 0.1)
        assert (other.max_steps, other.train_size, other.eval_size) == (140, 200, 500)
        assert (plan.equal_time, plan.seeds, plan.output) == (
            True,
            (0, 1, 2),
            str(arguments.output),
        )


def test_the_bundled_data_and_model_fit_the_plans(arguments):
    check(next(iter(cost_gain.plans(arguments))))


def test_the_plans_vary_the_consistency_loss_and_the_layers(arguments):
    minus, *others = configs(arguments)
    assert minus.consistency is None
    losses = [config.consistency for config in others]
    assert {(loss.every, loss.fraction) for loss in losses} == {
        (every, fraction) for every in (1, 2, 4) for fraction in (1.0, 0.5, 0.25)
    }
    assert [loss.backward for loss in losses].count("both") == 1
    assert [config.layers for config in others].count((3, 4, 5)) == 1
    assert {drop.rate for config in others for drop in config.drops} == {0.1}


def test_controls_are_at_the_steps_of_the_time_matched_runs(arguments):
    for every, steps in ((1, 89), (2, 107), (4, 140)):
        loss = {"consistency_every": every, "consistency_fraction": 1.0}
        record(method="hiddenkey", budget="time", max_steps=steps, **loss).save(arguments.output)
    found = list(cost_gain.controls(arguments))
    assert [plan.common["max_steps"] for plan in found] == [89, 107]
    assert [plan.equal_time for plan in found] == [False, False]
    assert found[0].output == str(arguments.output / "control_89")
    assert all(validate(plan) == [] for plan in found)

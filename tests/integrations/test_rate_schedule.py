"""A schedule of the rate in Trainer: set, logged, felt and resumed."""

import re

import pytest

import hiddenkey
from hiddenkey import ConfigError, Consistency, DropoutConfig
from hiddenkey.framework.schedule import RateSchedule
from hiddenkey.integrations.trainer import watch
from integrations.trainers import assert_same_weights, logs, tiny_trainer, weights
from models import lora_model

NOISE = hiddenkey.method("hiddenkey-minus", rate=0.4).drops
WARM_UP = RateSchedule(warmup=2, decay="linear", depth="growing")


def train(folder, config, *schedules, resume=None, per_layer=True, **settings):
    model = lora_model("bert", feed_forward=True)
    attachment = hiddenkey.attach(model, config)
    made = tiny_trainer(model, folder, **{"max_steps": 6, **settings})
    watch(made, attachment, *schedules, per_layer=per_layer)
    made.train(resume_from_checkpoint=resume)
    return logs(made), weights(model), attachment


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("consistency", [None, Consistency()])
def test_rates_are_logged_and_felt(consistency, accumulation, tmp_path):
    config = DropoutConfig(NOISE, consistency)
    found, _, attachment = train(
        tmp_path, config, WARM_UP, gradient_accumulation_steps=accumulation
    )
    factors = [WARM_UP.factor(step, 6) for step in range(6)]
    for log, factor in zip(found, factors, strict=True):
        for position in ("hidden", "attention_logits"):
            assert log[f"rate/{position}"] == pytest.approx(0.4 * factor * 0.75, abs=1e-6)
        assert log["dropped/hidden/1"] == pytest.approx(0.4 * factor, abs=0.08)
        assert log["dropped/hidden/0"] == pytest.approx(0.2 * factor, abs=0.08)
    assert found[0]["dropped/attention_logits/0"] == 0
    assert found[3]["dropped/attention_logits/1"] > 0.1
    assert ("consistency_loss" in found[3]) is (consistency is not None)
    assert attachment.rates["hidden/1"] == pytest.approx(0)  # the decay's end


def test_by_default_a_positions_drop_rate_is_the_mean_over_its_layers(tmp_path):
    config = DropoutConfig(NOISE)
    by_layer, _, _ = train(tmp_path / "layers", config, WARM_UP)
    found, _, _ = train(tmp_path / "mean", config, WARM_UP, per_layer=False)
    for log, layers in zip(found, by_layer, strict=True):
        assert {key for key in log if key.startswith("dropped/")} == {
            "dropped/hidden", "dropped/attention_logits",
        }  # fmt: skip
        for position in ("hidden", "attention_logits"):
            rates = [layers[f"dropped/{position}/{layer}"] for layer in (0, 1)]
            assert log[f"dropped/{position}"] == pytest.approx(sum(rates) / 2, abs=2e-6)


def test_coto_brings_its_schedule_and_a_later_one_counts(tmp_path):
    """The chance to stay grows linearly from 0.1 to 1 in the first three quarters."""
    found, _, _ = train(tmp_path / "own", "coto", max_steps=8)
    expected = [0.9 * (1 - step / 6) for step in range(6)] + [0, 0]
    assert [log["rate/update"] for log in found] == pytest.approx(expected, abs=1e-6)
    last = [share for name, share in found[-1].items() if name.startswith("dropped/update/")]
    assert last == [0] * 8
    found, _, _ = train(tmp_path / "other", "coto", RateSchedule(), max_steps=3)
    assert [log["rate/update"] for log in found] == [0.9] * 3


def test_a_later_schedule_counts_for_its_positions(tmp_path):
    still = RateSchedule(positions=("hidden",))
    found, _, _ = train(tmp_path, DropoutConfig(NOISE), RateSchedule(warmup=5), still)
    assert [log["rate/hidden"] for log in found] == [0.4] * 6
    assert [log["rate/attention_logits"] for log in found] == pytest.approx(
        [0, 0.08, 0.16, 0.24, 0.32, 0.4]
    )


def test_a_schedule_that_changes_nothing_trains_as_none(tmp_path):
    config = DropoutConfig(NOISE, Consistency())
    expected, trained, _ = train(tmp_path, config)
    found, ours, _ = train(tmp_path, config, RateSchedule())
    assert [log["loss"] for log in found] == [log["loss"] for log in expected]
    assert not any(name.startswith("rate/") for log in expected for name in log)
    assert_same_weights(trained, ours, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*non-tuple sequence for multidimensional")
def test_a_resumed_run_goes_on_with_its_rates(tmp_path):
    config = DropoutConfig(NOISE, Consistency(every=2))
    settings = {"save_strategy": "steps", "save_steps": 3}
    whole, trained, _ = train(tmp_path, config, WARM_UP, **settings)
    resumed, ours, _ = train(
        tmp_path, config, WARM_UP, resume=str(tmp_path / "checkpoint-3"), **settings
    )
    for log, wanted in zip(resumed[3:], whole[3:], strict=True):
        for name in wanted:
            if re.match("rate/|dropped/|loss|task_loss|consistency_loss", name):
                assert log[name] == pytest.approx(wanted[name], rel=1e-5), name
    assert_same_weights(trained, ours)


def test_a_schedule_of_another_position_is_refused_when_watching(tmp_path):
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, "hiddenkey")
    made = tiny_trainer(model, tmp_path)
    with pytest.raises(ConfigError, match=r"schedule.positions must be among .*got 'output'"):
        watch(made, attachment, RateSchedule(positions=("output",)))

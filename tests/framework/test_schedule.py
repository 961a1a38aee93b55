"""The factor of the rates as a function of the step."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hiddenkey
from hiddenkey import ConfigError
from hiddenkey.framework.schedule import RateSchedule, by_position
from hiddenkey.framework.site import Site
from models import lora_model

SCHEDULES = st.builds(
    RateSchedule,
    warmup=st.one_of(st.integers(0, 30), st.floats(0, 0.9)),
    decay=st.sampled_from(("constant", "linear", "cosine")),
    floor=st.floats(0, 1),
)


def sites(layers=4):
    attachment = hiddenkey.attach(lora_model("bert", layers=layers), "hiddenkey-minus")
    return attachment.sites


def test_warm_up_by_steps_and_by_share():
    for schedule in (RateSchedule(warmup=4), RateSchedule(warmup=0.2)):
        factors = [schedule.factor(step, 20) for step in range(6)]
        assert factors == [0, 0.25, 0.5, 0.75, 1, 1]
    assert RateSchedule().factor(0, 20) == 1


def test_linear_decay_reaches_its_floor_in_the_last_step():
    schedule = RateSchedule(decay="linear", floor=0.2, warmup=2)
    assert schedule.factor(2, 12) == 1
    assert schedule.factor(11, 12) == pytest.approx(0.2)
    steps = [schedule.factor(step, 12) for step in range(2, 12)]
    assert [a - b for a, b in itertools.pairwise(steps)] == pytest.approx([0.8 / 9] * 9)


def test_a_decay_may_end_before_the_training():
    schedule = RateSchedule(decay="linear", floor=0.1, end=0.5)
    expected = [1 - 0.9 * step / 5 for step in range(5)] + [0.1] * 5
    assert [schedule.factor(step, 10) for step in range(10)] == pytest.approx(expected)
    words = "rate of all positions: linear decay to 0.1 of it over the first 50% of the steps"
    assert schedule.described() == words
    for end in (0, -1, 1.5, True, "x", float("nan")):
        with pytest.raises(ConfigError, match=r"schedule.end must be in \(0, 1\]"):
            RateSchedule(end=end)


def test_cosine_decay_is_half_a_cosine():
    schedule = RateSchedule(decay="cosine")
    for step in range(21):
        expected = 0.5 * (1 + math.cos(math.pi * step / 20))
        assert schedule.factor(step, 21) == pytest.approx(expected, abs=1e-12)


@given(schedule=SCHEDULES, steps=st.integers(1, 60))
def test_factors_lie_between_zero_and_one_and_fall_after_the_warm_up(schedule, steps):
    factors = [schedule.factor(step, steps) for step in range(steps + 3)]
    assert all(0 <= factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_rates_by_depth_and_by_position():
    flat = RateSchedule().rates(sites(), 0, 10)
    assert set(flat.values()) == {0.1}
    growing = RateSchedule(depth="growing", positions=("hidden",)).rates(sites(), 0, 10)
    assert growing == pytest.approx(
        {"hidden/0": 0.025, "hidden/1": 0.05, "hidden/2": 0.075, "hidden/3": 0.1}
    )
    falling = RateSchedule(depth="falling").rates(sites(), 0, 10)
    assert [falling[f"attention_logits/{n}"] for n in range(4)] == pytest.approx(
        [0.1, 0.075, 0.05, 0.025]
    )
    half = RateSchedule(warmup=2, depth="falling").rates(sites(), 1, 10)
    assert half == {key: pytest.approx(rate / 2) for key, rate in falling.items()}


def test_a_position_without_layers_has_no_depth():
    site = Site("embeddings", None, "input", "span", 0.2, "none", "hook")
    assert RateSchedule(depth="growing").rates([site], 0, 10) == {"input": 0.2}


def test_the_mean_of_a_position():
    rates = RateSchedule(depth="growing").rates(sites(), 0, 10)
    assert by_position(rates, sites()) == pytest.approx(
        {"attention_logits": 0.0625, "hidden": 0.0625}
    )


def test_a_schedule_drives_an_attachment():
    attachment = hiddenkey.attach(lora_model("bert"), "hiddenkey-minus")
    schedule = RateSchedule(warmup=2, decay="linear")
    seen = []
    for step in range(5):
        attachment.set_rates(schedule.rates(attachment.sites, step, 5))
        seen.append(attachment.rates["hidden/1"])
    assert seen == pytest.approx([0, 0.05, 0.1, 0.05, 0])


def test_every_fault_is_named():
    with pytest.raises(ConfigError) as caught:
        RateSchedule(warmup=1.5, decay="lineal", floor=2, depth="deep", positions=("hidde",))
    assert len(caught.value.faults) == 5
    for message in (
        "schedule.decay must be one of constant, linear, cosine, got 'lineal'; did you mean",
        "schedule.warmup must be a whole number of steps or a share of them in [0, 1), got 1.5",
        "schedule.floor must be in [0, 1], got 2; 0 decays to no noise",
        "schedule.depth must be one of flat, growing, falling, got 'deep'",
        "schedule.positions must be one of",
    ):
        assert message in str(caught.value)
    for warmup in (True, -1, "2", None):
        with pytest.raises(ConfigError, match=r"schedule\.warmup"):
            RateSchedule(warmup=warmup)


def test_a_position_without_a_site_is_refused():
    with pytest.raises(
        ConfigError, match=r"acts on, attention_logits, hidden, got 'output'; leave it out"
    ):
        RateSchedule(positions=("output",)).rates(sites(), 0, 10)

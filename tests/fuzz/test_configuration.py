"""Configurations, methods and schedules from anything at all."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hiddenkey
from fuzz.values import TEXTS, damaged, fuzzed, mutated, odd_values, plain_values, refusal
from hiddenkey import Consistency, Drop, DropoutConfig
from hiddenkey.framework.catalogue import methods
from hiddenkey.framework.patterns import PATTERNS
from hiddenkey.framework.positions import POSITIONS
from hiddenkey.framework.schedule import RateSchedule

NAMES = (
    *POSITIONS,
    *PATTERNS,
    "inverse",
    "kl",
    "js",
    "mixture",
    "both",
    "one",
    "self",
    0.1,
    0,
    1,
    True,
)
ODD = odd_values(NAMES)
RATES = st.one_of(ODD, st.dictionaries(st.one_of(st.sampled_from(NAMES), TEXTS), ODD))
TREES = [method.config.to_dict() for method in methods().values()]


def fields(kind):
    """Some of a dataclass's fields, each with anything."""
    names = [field.name for field in dataclasses.fields(kind)]
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, ODD))


def taken_is_sound(config):
    """What was accepted survives its own file, and means something."""
    assert DropoutConfig.from_dict(config.to_dict()) == config
    assert all(0 <= drop.rate < 1 for drop in config.drops)
    assert all(drop.pattern not in POSITIONS[drop.position].refused for drop in config.drops)


@fuzzed()
@given(fields(Drop))
def test_a_drop(values):
    drop = Drop(**{"position": "hidden", "pattern": "element", "rate": 0.1, **values})
    if refusal(DropoutConfig, drops=(drop,)) is None:
        taken_is_sound(DropoutConfig(drops=(drop,)))


@fuzzed()
@given(fields(Consistency))
def test_a_consistency_loss(values):
    if refusal(DropoutConfig, consistency=Consistency(**values)) is None:
        taken_is_sound(DropoutConfig(consistency=Consistency(**values)))


@fuzzed()
@given(fields(DropoutConfig))
def test_a_configuration(values):
    if refusal(DropoutConfig, **values) is None:
        taken_is_sound(DropoutConfig(**values))


@fuzzed(300)
@given(st.one_of(st.sampled_from(TREES).flatmap(mutated), plain_values()))
def test_a_dictionary(values):
    if refusal(DropoutConfig.from_dict, values) is None:
        taken_is_sound(DropoutConfig.from_dict(values))


@fuzzed(300)
@given(st.sampled_from([json.dumps(tree, indent=1).encode() for tree in TREES]).flatmap(damaged))
def test_a_file(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "hiddenkey_config.json"
    path.write_bytes(content)
    if refusal(DropoutConfig.from_pretrained, path) is None:
        taken_is_sound(DropoutConfig.from_pretrained(path))


@fuzzed()
@given(name=odd_values((*methods(),)), rate=ODD, rates=RATES)
def test_a_method(name, rate, rates):
    refusal(hiddenkey.method, name, rate, rates=rates)


@fuzzed()
@given(fields(RateSchedule))
def test_a_schedule(values):
    if refusal(RateSchedule, **values) is None:
        factors = [RateSchedule(**values).factor(step, 10) for step in range(10)]
        assert all(0 <= factor <= 1 for factor in factors)


@pytest.fixture(scope="module")
def model():
    from models import plain_model

    return plain_model("bert")


@fuzzed(60)
@given(
    config=st.one_of(ODD, st.just("hiddenkey")),
    named=st.fixed_dictionaries(
        {}, optional={"kernel": ODD, "lm_loss": ODD, "data_parallel_rank": ODD}
    ),
)
def test_attach(model, config, named):
    refusal(lambda: hiddenkey.attach(model, config, **named).detach())
    assert not any(module._forward_hooks for module in model.modules())


@fuzzed(60)
@given(odd_values())
def test_attach_to_no_model(model):
    assert refusal(hiddenkey.attach, model, "hiddenkey") is not None

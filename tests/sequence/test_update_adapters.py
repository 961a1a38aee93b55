"""Noise on the updates of adapters that take turns, on other modules each."""

import dataclasses
import math

import pytest
from peft import LoraConfig

import hiddenkey
from hiddenkey import AttachError
from models import batch, lora_model, step

METHODS = pytest.mark.parametrize("method", ["droplora", "coto", "two-sided-lora-dropout"])


def with_other(model, *targets):
    model.add_adapter("other", LoraConfig(target_modules=list(targets), init_lora_weights=False))
    model.train()


def acting(attachment):
    """The modules at whose sites something was drawn since the last reading."""
    shares = attachment.shares().items()
    return {key.rpartition("/")[2] for key, share in shares if not math.isnan(share)}


@METHODS
def test_each_adapter_drops_where_it_acts(method):
    model = lora_model("bert")
    with_other(model, "query")
    attachment = hiddenkey.attach(model, method)
    for name, modules in (("default", {"key", "value"}), ("other", {"query"})) * 2:
        model.set_adapter(name)
        step(model, batch())
        assert acting(attachment) == modules, name


@METHODS
@pytest.mark.parametrize("targets", [["query"], ["query", "key"]])
def test_an_adapter_that_came_later_is_refused_when_it_acts(method, targets):
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, method)
    step(model, batch())
    with_other(model, *targets)
    model.set_adapter("default")
    step(model, batch())  # it does not act yet
    assert acting(attachment) == {"key", "value"}
    model.set_adapter("other")
    with pytest.raises(AttachError, match="attach again after add_adapter"):
        step(model, batch())
    attachment = hiddenkey.attach(model, method)
    step(model, batch())
    assert acting(attachment) == set(targets)


def test_layers_that_are_left_out_may_have_adapters_that_came_later():
    model = lora_model("bert")
    config = hiddenkey.method("droplora", rate=0.5)
    attachment = hiddenkey.attach(model, dataclasses.replace(config, layers=(1,)))
    with_other(model, "key")
    model.set_adapter("default")
    step(model, batch())
    assert set(attachment.shares()) == {"update/1/key", "update/1/value"}

"""A detached attachment can be read, and keeps nothing of its model in memory."""

import gc
import weakref
from contextlib import contextmanager, suppress

import pytest
import torch

import hiddenkey
from models import batch, lora_model, step

METHODS = ["hiddenkey-minus", "hiddenkey", "temporal", "two-sided-lora-dropout", "label-smoothing"]
FAMILY_TASKS = [("llama", "causal"), ("bert", "classification")]


@contextmanager
def without_collector():
    """Free what no name refers to, and no cycles."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def weights(model) -> list[weakref.ref]:
    return [weakref.ref(parameter) for parameter in model.parameters()]


@pytest.mark.parametrize(("family", "task"), FAMILY_TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_a_model_is_freed_at_once(family, task, method):
    with without_collector():
        model = lora_model(family, task)
        kept = weights(model)
        attachment = hiddenkey.attach(model, method)
        step(model, batch(task))
        attachment.detach()
        del model
        assert not any(weight() is not None for weight in kept)
        assert attachment.config == hiddenkey.method(method)


@pytest.mark.parametrize("lm_loss", ["chunked", "full"])
def test_a_model_is_freed_whose_last_pass_failed(lm_loss):
    def fail(*_):
        raise ZeroDivisionError

    with without_collector():
        model = lora_model("llama", "causal")
        kept = weights(model)
        with suppress(ZeroDivisionError), hiddenkey.attach(model, "hiddenkey", lm_loss=lm_loss):
            step(model, batch("causal"))
            model.base_model.model.model.norm.register_forward_hook(fail)
            model(**batch("causal"))
        del model
        assert not any(weight() is not None for weight in kept)


def test_a_model_is_freed_that_never_trained():
    with without_collector():
        model = lora_model("bert")
        kept = weights(model)
        hiddenkey.attach(model, "dropkey")
        hiddenkey.attach(model, "hiddenkey").detach()
        del model
        assert not any(weight() is not None for weight in kept)


def test_what_was_counted_can_still_be_read():
    model, same = lora_model("bert"), lora_model("bert")
    attachment, other = (hiddenkey.attach(each, "hiddenkey") for each in (model, same))
    for each in (model, same):
        step(each, batch())
    attachment.set_rates({"hidden": 0.0})
    rates = attachment.rates
    attachment.detach()
    assert str(attachment).splitlines()[:2] == str(other).splitlines()[:2]
    assert attachment.losses == other.losses
    assert attachment.sites == other.sites
    assert attachment.rates == rates
    shares, expected = attachment.shares(), other.shares()
    assert {key: shares[key] for key in shares if "attention" in key} == {
        key: expected[key] for key in shares if "attention" in key
    }
    attachment.set_rates({"hidden": 0.1})
    assert attachment.rates["hidden/0"] == 0.1
    assert attachment.consistency_passes == 0
    assert attachment.history is attachment.lm_sums is None
    with pytest.raises(hiddenkey.AttachError, match="was detached"):
        _ = attachment.called_module


def test_a_loss_of_ones_own_is_refused_in_training_and_free_outside():
    attachment = hiddenkey.attach(model := lora_model("bert"), "hiddenkey")
    attachment.detach()
    loss = torch.ones(())
    with torch.no_grad(), attachment.own_loss() as own:
        assert own.total(loss) is loss
    with attachment.own_loss() as own:
        model(**batch())
        with pytest.raises(
            hiddenkey.ConsistencyError, match="no training pass of the attached mod"
        ):
            own.total(loss)

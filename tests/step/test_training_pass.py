"""A training pass is the call whose hooks know its padding, whoever makes that call."""

import inspect

import pytest
import torch
from peft.tuners.tuners_utils import BaseTuner

import hiddenkey
from hiddenkey import Drop, DropoutConfig
from hiddenkey.anatomy import code
from models import CACHE, batch, lora_model, plain_model, seeded, step

SPAN = DropoutConfig((Drop("hidden", "span", 0.3),))


@pytest.fixture
def old_peft(monkeypatch):
    """PEFT before 0.21 runs the model by its ``forward``, which no hook sees."""
    code._calls.cache_clear()
    monkeypatch.setattr(BaseTuner, "forward", _forward)
    yield
    code._calls.cache_clear()


def _forward(self, *args, **kwargs):
    return self.model.forward(*args, **kwargs)


@pytest.mark.usefixtures("old_peft")
@pytest.mark.parametrize("by_place", [False, True])
def test_padding_is_known_where_peft_goes_past_the_models_call(by_place):
    model, inputs = lora_model("bert"), batch("classification", "right")
    attachment = hiddenkey.attach(model, SPAN)
    dropped = []
    dense = model.get_base_model().get_submodule(attachment.sites[0].name)
    dense.register_forward_hook(lambda *call: dropped.append((call[2] == 0).all(-1)))
    if by_place:
        model.base_model(inputs.pop("input_ids"), **inputs)
    else:
        model(**inputs)
    visible = inputs["attention_mask"].bool()
    assert not (dropped[0] & ~visible).any()
    lengths = visible.sum(-1)
    assert ((dropped[0].sum(-1) - 0.3 * lengths).abs() <= 0.5).all()


def test_the_same_masks_and_losses_whichever_way_peft_goes(request):
    config = hiddenkey.method("hiddenkey", rate=0.3)
    model = lora_model("llama", "causal")
    attachment = hiddenkey.attach(model, config)
    expected, gradients = step(model, batch("causal", "left"))
    parts = attachment.losses
    request.getfixturevalue("old_peft")
    model = lora_model("llama", "causal")
    attachment = hiddenkey.attach(model, config)
    loss, others = step(model, batch("causal", "left"))
    assert (loss, attachment.losses) == (expected, parts)
    assert all(torch.equal(others[name], gradients[name]) for name in gradients)


@pytest.mark.parametrize(
    "config", [SPAN, hiddenkey.method("dropkey", rate=0.3)], ids=["hidden", "key"]
)
def test_a_pass_around_the_hooks_is_refused(config):
    model, inputs = plain_model("bert"), batch("classification", "right")
    hiddenkey.attach(model, config)
    with pytest.raises(hiddenkey.AttachError, match="goes around the call of BertFor"):
        model.forward(**inputs)
    model(**inputs).loss.backward()
    with torch.no_grad():
        model.eval().forward(**inputs)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_cache_that_is_passed_in_holds_the_batch_once(family):
    """Each of the two passes lengthens a cache of its own."""
    from transformers import DynamicCache

    model, inputs = plain_model(family, "causal", dropout=0.0), batch("causal", "none")
    del inputs["attention_mask"]
    tokens = inputs["input_ids"].shape[1]
    prompt = inputs["input_ids"][:, :3]

    def filled():
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model.eval()(input_ids=prompt, **{CACHE: cache})
        model.train()
        return cache

    cache = filled()
    expected = model(**inputs, **{CACHE: cache}).loss
    hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=1e-12))
    cache = filled()
    with seeded(0):
        loss = model(**inputs, **{CACHE: cache}).loss
    assert cache.get_seq_length() == tokens + 3
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("given", ["cache", "past_key_values"])
def test_the_second_pass_gets_the_cache_by_the_name_of_the_model(given):
    """PEFT hands over the old name; transformers warns of it in each call."""
    from hiddenkey.step.caches import renamed

    for known in ("cache", "past_key_values"):
        assert renamed({given: 1, "use_cache": True}, ("use_cache", known)) == {
            known: 1,
            "use_cache": True,
        }
    assert renamed({given: 1}, ("input_ids",)) == {given: 1}
    assert CACHE in inspect.signature(plain_model("llama", "causal").forward).parameters

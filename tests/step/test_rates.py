"""Rates that change during training: what falls, what it costs, and what is refused."""

import pytest
import torch
from torch._dynamo.utils import counters

import hiddenkey
from hiddenkey import AttachError, ConfigError, Drop, DropoutConfig
from hiddenkey.framework.patterns import draws
from models import assert_same_gradients, batch, gradients, lora_model, plain_model, seeded, step

METHODS = (
    "dropkey", "dropkey-element", "dropattention", "dropattention-span", "hiddencut",
    "hiddencut-element", "cutoff", "output-dropout", "hiddenkey",
)  # fmt: skip
BOTH_ATTENTIONS = DropoutConfig(
    (Drop("attention_logits", "element", 0.4), Drop("attention_weights", "element", 0.4))
)


@pytest.mark.parametrize("method", [*METHODS, BOTH_ATTENTIONS])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_changed_rate_is_the_method_with_that_rate(family, method):
    def built(rate):
        if isinstance(method, str):
            return hiddenkey.method(method, rate=rate)
        return DropoutConfig(tuple(Drop(d.position, d.pattern, rate) for d in method.drops))

    found, shares = [], []
    for configured in (0.3, 0.1):
        model = lora_model(family)
        attachment = hiddenkey.attach(model, built(configured))
        step(model, batch())
        attachment.shares()
        attachment.set_rates(dict.fromkeys(attachment.rates, 0.3))
        found.append(step(model, batch(), seed=4))
        shares.append(attachment.shares())
    assert found[0][0] == found[1][0]
    assert_same_gradients(found[0][1], found[1][1], rtol=0, atol=0)
    assert shares[0] == shares[1]
    assert all(share > 0.1 for share in shares[0].values())


@pytest.mark.parametrize("method", [*METHODS, BOTH_ATTENTIONS])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_at_rate_zero_nothing_is_drawn_and_the_model_is_as_without_noise(
    family, method, monkeypatch
):
    plain = lora_model(family)
    hiddenkey.attach(plain, "lora")
    expected = step(plain, batch())
    model = lora_model(family)
    attachment = hiddenkey.attach(model, method)
    attachment.set_rates(dict.fromkeys(attachment.rates, 0))
    monkeypatch.setattr(draws, "kept", lambda *_: pytest.fail("something was drawn"))
    loss, found = step(model, batch())
    assert attachment.losses["task"] == expected[0]
    assert loss == pytest.approx(expected[0], rel=1e-5)
    assert_same_gradients(found, expected[1], rtol=1e-4, atol=1e-6)
    assert attachment.shares() == dict.fromkeys(attachment.rates, 0.0)


def test_rates_by_position_and_by_site():
    attachment = hiddenkey.attach(lora_model("bert"), "hiddenkey-minus")
    assert attachment.rates == {site.key: site.rate for site in attachment.sites}
    attachment.set_rates({"hidden": 0.5, "hidden/0": 0.25})
    assert attachment.rates == {
        "attention_logits/0": 0.1, "attention_logits/1": 0.1, "hidden/0": 0.25, "hidden/1": 0.5,
    }  # fmt: skip
    assert all(site.rate == 0.1 for site in attachment.sites)
    attachment.rates["hidden/0"] = 0.9
    assert attachment.rates["hidden/0"] == 0.25


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_a_recomputed_pass_has_the_rates_that_it_had(reentrant):
    """The rate changes between the forward and the backward pass."""
    found = []
    for checkpointing in (False, True):
        model = plain_model("bert")
        if checkpointing:
            model.activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": reentrant}
            )
            model.enable_input_require_grads()
        attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey-minus", rate=0.4))
        losses = []
        for rate in (0.4, 0.0, 0.2):
            attachment.set_rates({"hidden": rate, "attention_logits": rate})
            with seeded(2):
                losses.append(model(**batch()).loss)
        sum(losses).backward()
        found.append(gradients(model))
        assert attachment.rates["hidden/0"] == 0.2
        found.append(step(model, batch())[1])
    assert_same_gradients(found[0], found[2], rtol=1e-4, atol=1e-6)
    assert_same_gradients(found[1], found[3], rtol=1e-4, atol=1e-6)


def test_a_module_that_code_goes_past_is_found_when_the_warm_up_has_begun():
    model = plain_model("llama")
    mlp = model.model.layers[0].mlp
    mlp.forward = lambda states: torch.nn.functional.linear(
        mlp.act_fn(mlp.gate_proj(states)) * mlp.up_proj(states), mlp.down_proj.weight
    )
    attachment = hiddenkey.attach(model, "hiddenkey-minus")
    attachment.set_rates({"hidden": 0.0, "attention_logits": 0.0})
    step(model, batch())
    attachment.set_rates({"hidden": 0.1, "attention_logits": 0.1})
    with pytest.raises(AttachError, match=r"past model.layers.0.mlp.down_proj"):
        step(model, batch())


def test_evaluation_is_untouched():
    model = lora_model("bert").eval()
    expected = model(**batch()).logits
    attachment = hiddenkey.attach(model, "hiddenkey")
    attachment.set_rates({"hidden": 0.9})
    assert torch.equal(model(**batch()).logits, expected)


def test_every_fault_is_named():
    attachment = hiddenkey.attach(lora_model("bert"), "hiddenkey-minus")
    before = attachment.rates
    with pytest.raises(ConfigError) as caught:
        attachment.set_rates({"hiden": 0.1, "hidden/7": 0.1, "hidden": 1.0})
    assert len(caught.value.faults) == 3
    assert "a key of rates must be one of" in str(caught.value)
    assert "got 'hiden'; did you mean 'hidden'?" in str(caught.value)
    assert "hidden must be in [0, 1), got 1.0; 0.1 drops a tenth of the units" in str(caught.value)
    assert attachment.rates == before


@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_compiled_code_follows_the_rate(monkeypatch):
    monkeypatch.setattr(draws, "_by_bits", draws._by_uniform)  # as compiled code does
    torch._dynamo.reset()
    model = lora_model("bert", layers=1)
    attachment = hiddenkey.attach(model, "hiddenkey-minus")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    counters.clear()
    for seed, rate in enumerate((0.0, 0.1, 0.2, 0.25, 0.3, 0.35)):
        attachment.set_rates({"hidden": rate, "attention_logits": rate})
        expected = step(model, batch(), seed)[0]
        shares = attachment.shares()
        assert step(compiled, batch(), seed)[0] == pytest.approx(expected, rel=1e-5)
        assert attachment.shares() == pytest.approx(shares)
    # rate 0 draws nothing, the first draws have no counts to add to, then the rate is a variable
    assert counters["stats"]["unique_graphs"] <= 4
    torch._dynamo.reset()

"""torch.compile: no graph break in attention, one graph for all steps, and the same numbers."""

import dataclasses

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import BloomConfig, BloomForSequenceClassification

import hiddenkey
from hiddenkey import Consistency
from hiddenkey.framework.patterns import draws
from models import assert_same_gradients, batch, lora_model, seeded, step


@pytest.fixture(autouse=True)
def _compiler_as_new(monkeypatch):
    torch._dynamo.reset()
    counters.clear()
    # compiled code draws by rand, so the other draws must too if numbers are to be equal
    monkeypatch.setattr(draws, "_by_bits", draws._by_uniform)
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("bert", "hiddenkey"),
        ("bert", "dropattention"),
        ("llama", "hiddenkey-minus"),
        ("bert", "two-sided-lora-dropout"),
        ("llama", "coto"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_a_training_step_is_one_graph_and_keeps_its_numbers(family, method):
    model = lora_model(family)
    attachment = hiddenkey.attach(model, method)
    inputs = [batch(seed=seed) for seed in range(4)]
    plain = [step(model, each, seed) for seed, each in enumerate(inputs)]
    shares = attachment.shares()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for seed, each in enumerate(inputs):
        loss, gradients = step(compiled, each, seed)
        assert loss == pytest.approx(plain[seed][0], rel=1e-5)
        gradients = {name.removeprefix("_orig_mod."): g for name, g in gradients.items()}
        assert_same_gradients(gradients, plain[seed][1], rtol=1e-4, atol=1e-5)
    assert attachment.shares() == pytest.approx(shares)
    assert counters["stats"]["unique_graphs"] <= 2  # the first step has no counts to add to


def intercepted_model():
    """BLOOM computes its attention outside transformers' interface."""
    config = BloomConfig(
        vocab_size=60, hidden_size=32, n_head=4, n_layer=1, pad_token_id=0, num_labels=3,
        initializer_range=0.2,
    )  # fmt: skip
    with seeded(0):
        return BloomForSequenceClassification(config).train()


@pytest.mark.parametrize(
    ("build", "method", "kernel"),
    [
        (lambda: lora_model("bert"), "dropkey-element", "reference"),
        (lambda: lora_model("bert", attention="eager"), "dropattention-span", "fused"),
        (intercepted_model, "dropkey", "intercepted"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_the_first_step_of_all_may_be_compiled(build, method, kernel):
    """On every attention path, without a step before that was not."""
    model = build()
    attachment = hiddenkey.attach(model, method)
    assert {site.kernel for site in attachment.sites} == {kernel}
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    loss, gradients = step(compiled, batch(), 3)
    shares = attachment.shares()
    expected, plain = step(model, batch(), 3)
    assert loss == pytest.approx(expected, rel=1e-5)
    gradients = {name.removeprefix("_orig_mod."): g for name, g in gradients.items()}
    assert_same_gradients(gradients, plain, rtol=1e-4, atol=1e-5)
    assert attachment.shares() == pytest.approx(shares)
    assert all(share > 0.02 for share in shares.values())


@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_noise_is_not_lost_to_what_was_compiled_for_a_model_without():
    """A temporal loss breaks the graph, and the parts are shared by all models of a class."""
    before = lora_model("bert", layers=1)
    hiddenkey.attach(before, "temporal")
    step(torch.compile(before, backend="eager"), batch())
    noise = hiddenkey.method("droplora", rate=0.4)
    config = dataclasses.replace(noise, consistency=Consistency(target="history"))
    model = lora_model("bert", layers=1)
    attachment = hiddenkey.attach(model, config)
    loss, _ = step(torch.compile(model, backend="eager"), batch(), 3)
    assert all(share > 0 for share in attachment.shares().values())
    hiddenkey.attach(model, config)
    assert loss == pytest.approx(step(model, batch(), 3)[0], rel=1e-5)

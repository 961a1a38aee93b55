"""torch.compile: no graph break in attention, one graph for all steps, and the same numbers."""

import pytest
import torch
from torch._dynamo.utils import counters

import hiddenkey
from hiddenkey.patterns import draws
from models import assert_same_gradients, batch, lora_model, step


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

"""A training step where CUDA differs: number formats, compilers, recomputation, random numbers."""

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import hiddenkey
from hiddenkey.framework.patterns import column, draws, element
from models import assert_same_gradients, batch, gradients, lora_model, plain_model, with_lora

FAMILIES = pytest.mark.parametrize("family", ["bert", "llama"])
METHODS = pytest.mark.parametrize("method", ["hiddenkey", "dropattention"])


def task_of(family):
    return "causal" if family == "llama" else "classification"


def made(family, device, **more):
    return lora_model(family, task_of(family), **more).to(device)


def inputs_of(family, device):
    return {name: each.to(device) for name, each in batch(task_of(family)).items()}


def trained(model, inputs, seed=0):
    """Loss and gradients of one step from a seed of every device."""
    torch.manual_seed(seed)
    loss = model(**inputs).loss
    loss.backward()
    return loss.item(), gradients(model)


def likeness(one, other):
    """The cosine between two sets of gradients."""
    flat = [torch.cat([each.float().flatten() for each in g.values()]) for g in (one, other)]
    return torch.cosine_similarity(*flat, dim=0).item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@METHODS
@FAMILIES
def test_autocast_is_near_single_precision(family, method, dtype, device):
    model = made(family, device)
    attachment = hiddenkey.attach(model, hiddenkey.method(method, rate=0.3))
    inputs = inputs_of(family, device)
    loss, expected = trained(model, inputs)
    with torch.autocast(device, dtype=dtype):
        found, gradient = trained(model, inputs)
    assert found == pytest.approx(loss, rel=0.05)
    assert likeness(gradient, expected) > 0.98
    assert all(0.1 < share < 0.5 for share in attachment.shares().values())


@METHODS
@FAMILIES
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_a_compiled_step_keeps_its_numbers(family, method, device, monkeypatch):
    """By Inductor on a GPU; on a CPU, where that takes minutes, as far as its graphs."""
    torch._dynamo.reset()
    for pattern in (column, element):  # as compiled code draws
        monkeypatch.setattr(pattern, "kept", draws._by_uniform)
    model = made(family, device)
    hiddenkey.attach(model, hiddenkey.method(method, rate=0.3))
    inputs = inputs_of(family, device)
    loss, expected = trained(model, inputs)
    if device == "cuda":
        from torch._inductor import config

        with config.patch(fallback_random=True):  # the same numbers as without a compiler
            found, gradient = trained(torch.compile(model), inputs)
    else:
        found, gradient = trained(torch.compile(model, backend="eager"), inputs)
    torch._dynamo.reset()
    assert found == pytest.approx(loss, rel=1e-3)
    gradient = {name.removeprefix("_orig_mod."): each for name, each in gradient.items()}
    assert_same_gradients(gradient, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("reentrant", [False, True], ids=["saved tensors", "reentrant"])
@METHODS
@FAMILIES
def test_recomputed_activations_draw_the_same(family, method, reentrant, device):
    model = made(family, device)
    attachment = hiddenkey.attach(model, hiddenkey.method(method, rate=0.3))
    inputs = inputs_of(family, device)
    loss, expected = trained(model, inputs)
    shares = attachment.shares()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    found, gradient = trained(model, inputs)
    assert found == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(gradient, expected, rtol=1e-3, atol=1e-5)
    assert attachment.shares() == pytest.approx(shares)


def test_the_chunked_loss_is_the_full_one(device):
    found = []
    for how in ("full", "chunked"):
        model = made("llama", device)
        hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3), lm_loss=how)
        found.append(trained(model, inputs_of("llama", device)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert_same_gradients(found[1][1], found[0][1], rtol=1e-3, atol=1e-5)


def generator_states(device):
    states = [torch.get_rng_state()]
    return states + ([torch.cuda.get_rng_state()] if device == "cuda" else [])


@FAMILIES
def test_each_process_has_random_numbers_of_its_own_and_puts_the_generators_back(family, device):
    found, states = [], []
    for rank in (0, 0, 1):
        model = made(family, device)
        hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3), data_parallel_rank=rank)
        torch.manual_seed(3)
        found.append(model(**inputs_of(family, device)).loss.item())
        states.append(generator_states(device))
    assert found[0] == found[1] != found[2]
    torch.manual_seed(3)
    torch.empty((), dtype=torch.int64).random_()  # the one number that a pass takes
    for one in states:
        assert all(a.equal(b) for a, b in zip(one, generator_states(device), strict=True))


@FAMILIES
def test_evaluation_and_rate_nought_draw_nothing_and_are_bit_equal(family, device):
    model = made(family, device, dropout=0.0)
    inputs = inputs_of(family, device)
    plain = model(**inputs).logits, model.eval()(**inputs).logits
    attachment = hiddenkey.attach(model, hiddenkey.method("dropkey", rate=0.3))
    before = generator_states(device)
    assert model(**inputs).logits.equal(plain[1])
    attachment.set_rates(dict.fromkeys(attachment.rates, 0.0))
    assert model.train()(**inputs).logits.equal(plain[0])
    assert all(a.equal(b) for a, b in zip(before, generator_states(device), strict=True))


def test_four_bits(device, tmp_path):
    """Frozen weights in 4 bits: the drops act, and LoRA alone gets gradients."""
    pytest.importorskip("bitsandbytes")
    plain_model("llama", "causal").save_pretrained(tmp_path)
    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=how, device_map={"": device}
    )
    model = with_lora(model, "llama", "causal").train()
    inputs = inputs_of("llama", device)
    plain = model.eval()(**inputs).logits
    attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3))
    assert model(**inputs).logits.equal(plain)
    loss, gradient = trained(model.train(), inputs)
    assert torch.isfinite(torch.tensor(loss))
    assert gradient
    assert all("lora_" in name and torch.isfinite(each).all() for name, each in gradient.items())
    assert all(0.1 < share < 0.6 for share in attachment.shares().values())

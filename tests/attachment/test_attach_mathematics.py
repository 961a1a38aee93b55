"""The hooked model against computations written by hand, with the drawn masks fixed."""

import math

import pytest
import torch
from torch import Tensor

import hiddenkey
from hiddenkey import Drop, DropoutConfig
from hiddenkey.attention import site as attention_site
from hiddenkey.framework.patterns import PATTERNS
from models import (
    ATTENTION,
    ATTENTIONS,
    FAMILIES,
    LAYER_STACK,
    SECOND_DENSE,
    batch,
    lora_model,
    plain_model,
    run,
    seeded,
    transformer_in,
)

RATE = 0.4


class Tap:
    """Keeps what goes into and comes out of a module."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.input: Tensor
        self.output: Tensor
        module.register_forward_hook(self._keep, with_kwargs=True)

    def _keep(self, module, args, kwargs, output) -> None:
        self.input = args[0] if args else kwargs["hidden_states"]
        self.output = output[0] if isinstance(output, tuple) else output


def heads_of(states: Tensor) -> Tensor:
    """[batch, tokens, n · 8] → [batch, n, tokens, 8]."""
    return states.unflatten(-1, (-1, 8)).transpose(1, 2)


def rotate(states: Tensor, positions: Tensor) -> Tensor:
    """Rotary embedding as in arXiv 2104.09864, base 10000, halves instead of neighbours."""
    frequencies = 10000.0 ** -(torch.arange(0, 8, 2) / 8)
    angles = positions[:, None] * frequencies
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    one, two = states.chunk(2, -1)
    return states * cos + torch.cat([-two, one], -1) * sin


def query_key_value(family: str, attention, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project by hand, with the module's own (LoRA) projections."""
    if family in ("bert", "roberta"):
        return tuple(heads_of(getattr(attention, n)(states)) for n in ("query", "key", "value"))
    if family == "gpt2":
        return tuple(heads_of(part) for part in attention.c_attn(states).chunk(3, -1))
    positions = torch.arange(states.shape[1])
    query = rotate(heads_of(attention.q_proj(states)), positions)
    key = rotate(heads_of(attention.k_proj(states)), positions).repeat_interleave(2, 1)
    return query, key, heads_of(attention.v_proj(states)).repeat_interleave(2, 1)


def attend_by_hand(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Tensor,
    causal: bool,
    keep: Tensor,
    method: str,
) -> Tensor:
    """DropKey: softmax over visible and kept keys. DropAttention: w' = m w / NoGrad(Σ m w)."""
    see = visible[:, None, None, :].expand(-1, 1, query.shape[2], -1)
    if causal:
        see = see & torch.ones(see.shape[-2:], dtype=torch.bool).tril()
    blind = ~see.any(-1, keepdim=True)  # queries under left padding; their outputs are not compared
    see = see | blind
    logits = query.double() @ key.double().mT / math.sqrt(8)
    kept = see & keep
    kept = torch.where(kept.any(-1, keepdim=True), kept, see)
    if method == "dropkey":
        exponentials = logits.exp() * kept
        weights = exponentials / exponentials.sum(-1, keepdim=True)
    else:
        exponentials = logits.exp() * see
        weights = exponentials / exponentials.sum(-1, keepdim=True) * kept
        weights = weights / weights.sum(-1, keepdim=True).detach()
    return (weights @ value.double()).transpose(1, 2).flatten(2)


def fixed_keep(pattern: str, heads: int = 4, tokens: int = 9) -> Tensor:
    draws = torch.Generator().manual_seed(3)
    queries = tokens if pattern == "element" else 1
    keep = torch.rand(4, heads, queries, tokens, generator=draws) > RATE
    keep[0, 0] = False  # a head that would lose everything
    return keep


def fix_draws(monkeypatch, keep: Tensor) -> None:
    monkeypatch.setattr(attention_site, "draw_entries", lambda *a, **k: keep)

    def draw_keys(pattern, rate, seen, heads, *, protect_first, share_heads):
        keys, visible = keep.squeeze(-2), seen.visible
        if protect_first:  # what the fused path relies on
            return keys | (visible & visible.cumsum(-1).eq(1)).unsqueeze(1)
        return keys | ~(keys & visible.unsqueeze(1)).any(-1, keepdim=True)

    monkeypatch.setattr(attention_site, "draw_keys", draw_keys)


@pytest.mark.parametrize("kernel", ["auto", "reference"])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize(
    ("method", "pattern", "keep_first"),
    [
        ("dropkey", "column", True),
        ("dropkey", "column", False),
        ("dropkey", "element", False),
        ("dropattention", "column", True),
        ("dropattention", "column", False),
        ("dropattention", "element", False),
    ],
)
def test_attention_in_a_model_is_attention_by_hand(
    family, attention, padding, method, pattern, keep_first, kernel, monkeypatch
):
    """Values, and gradients to the layer's input and to every adapter matrix."""
    model = lora_model(family, attention=attention, layers=1)
    transformer = transformer_in(model)
    module = transformer.get_submodule(f"{LAYER_STACK[family]}.0.{ATTENTION[family]}")
    causal = family in ("gpt2", "llama")
    keep = fixed_keep(pattern)
    inputs = batch(padding=padding)
    visible = inputs["attention_mask"].bool()
    fix_draws(monkeypatch, keep)
    config = DropoutConfig(
        hiddenkey.method(f"{method}-{pattern}", rate=RATE).drops, keep_first=keep_first
    )
    hiddenkey.attach(model, config, kernel=kernel)
    if causal and keep_first:
        keep = keep | (visible & visible.cumsum(-1).eq(1))[:, None, None, :]

    tap = Tap(module)
    projected = None
    if causal:  # the output projection is inside the module: look at what enters it
        projection = module.c_proj if family == "gpt2" else module.o_proj
        projected = Tap(projection)
    run(model, inputs)
    mixed = tap.output if projected is None else projected.input

    adapters = [p for n, p in module.named_parameters() if "lora_" in n]
    states = tap.input
    by_hand = attend_by_hand(
        *query_key_value(family, module, states), visible, causal, keep, method
    )
    torch.testing.assert_close(mixed[visible].double(), by_hand[visible], rtol=1e-4, atol=1e-5)

    direction = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(4))
    direction = direction * visible.unsqueeze(-1)
    found = torch.autograd.grad((mixed * direction).sum(), adapters)
    expected = torch.autograd.grad((by_hand * direction).sum(), adapters)
    assert adapters
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rescale", ["inverse", "none"])
@pytest.mark.parametrize("lora", [False, True])
def test_hidden_drops_the_second_dense_layers_output(family, rescale, lora, monkeypatch):
    """m · x / (1 − p) directly after the second dense layer; then residual and LayerNorm."""
    keep = torch.rand(4, 9, 32, generator=torch.Generator().manual_seed(3)) > RATE
    monkeypatch.setitem(PATTERNS, "element", lambda shape, rate, visible: keep)
    model = lora_model(family, feed_forward=True) if lora else plain_model(family)
    transformer = transformer_in(model)
    layer = transformer.get_submodule(f"{LAYER_STACK[family]}.0")
    dense = layer.get_submodule(SECOND_DENSE[family])
    before = Tap(dense)  # its hook runs before the attachment's
    attachment = hiddenkey.attach(
        model, DropoutConfig((Drop("hidden", "element", RATE, rescale),), layers=(0,))
    )
    after, whole = Tap(dense), Tap(layer)
    if family in ("bert", "roberta"):
        residual = Tap(layer.intermediate)
    else:
        residual = Tap(layer.ln_2 if family == "gpt2" else layer.post_attention_layernorm)
    run(model, batch(padding="none"))

    dropped = before.output * keep
    if rescale == "inverse":
        dropped = dropped / (1 - RATE)
    torch.testing.assert_close(after.output, dropped)
    expected = dropped + residual.input
    if family in ("bert", "roberta"):
        norm = layer.output.LayerNorm
        centred = expected - expected.mean(-1, keepdim=True)
        expected = centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
        expected = expected * norm.weight + norm.bias
    torch.testing.assert_close(whole.output, expected)
    share = 1 - keep.float().mean().item()
    assert attachment.shares() == {"hidden/0": pytest.approx(share, abs=1e-6)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rescale", [None, "inverse"])
def test_input_drops_what_enters_the_first_layer(family, rescale, monkeypatch):
    keep = torch.rand(4, 9, 1, generator=torch.Generator().manual_seed(3)) > RATE
    monkeypatch.setitem(PATTERNS, "column", lambda shape, rate, visible: keep)
    model = plain_model(family)
    stack = model.get_submodule(LAYER_STACK[family])
    clean = Tap(stack[0])
    model.eval()
    inputs = batch(padding="none")
    model(**inputs)
    embedded = clean.input
    model.train()
    hiddenkey.attach(model, DropoutConfig((Drop("input", "column", RATE, rescale),)))
    noisy, second = Tap(stack[0]), Tap(stack[1])
    run(model, inputs)
    factor = 1.0 if rescale is None else 1 / (1 - RATE)
    torch.testing.assert_close(noisy.input, embedded * keep * factor)
    assert torch.equal(second.input, noisy.output)


@pytest.mark.parametrize(("family", "task", "head"), [
    ("bert", "classification", "classifier"),
    ("bert", "regression", "classifier"),
    ("roberta", "classification", "classifier"),
    ("gpt2", "classification", "score"),
    ("gpt2", "causal", "lm_head"),
    ("llama", "regression", "score"),
    ("llama", "causal", "lm_head"),
])  # fmt: skip
def test_output_drops_what_enters_the_head(family, task, head, monkeypatch):
    draws = torch.Generator().manual_seed(3)
    drawn = {}

    def fixed(shape, rate, visible):
        drawn["keep"] = torch.rand(shape, generator=draws) > rate
        return drawn["keep"]

    monkeypatch.setitem(PATTERNS, "element", fixed)
    model = plain_model(family, task)
    inputs = batch(task, "none")
    tap = Tap(getattr(model, head))
    model.eval()
    model(**inputs)
    clean = tap.input
    model.train()
    hiddenkey.attach(model, hiddenkey.method("output-dropout", rate=RATE))
    noisy = Tap(getattr(model, head))
    run(model, inputs)
    torch.testing.assert_close(noisy.input, clean * drawn["keep"].reshape(clean.shape) / (1 - RATE))
    assert clean.shape == ((4, 32) if family == "bert" else (4, 9, 32))


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_noise_keeps_the_expectation(family):
    """The mean over many draws approaches the clean output of the second dense layer."""
    model = plain_model(family)
    dense = model.get_submodule(f"{LAYER_STACK[family]}.0.{SECOND_DENSE[family]}")
    clean = Tap(dense)
    hiddenkey.attach(model, DropoutConfig((Drop("hidden", "element", 0.5),), layers=(0,)))
    noisy = Tap(dense)
    inputs = batch(padding="none")
    total = torch.zeros(4, 9, 32)
    with torch.no_grad():
        for seed in range(200):
            run(model, inputs, seed)
            total += noisy.output
    error = (total / 200 - clean.output) / clean.output.abs()
    # one draw deviates by 100 % of the value, the mean of 200 by 7 %
    assert error.std() == pytest.approx(200**-0.5, rel=0.1)
    assert error.mean() == pytest.approx(0.0, abs=0.01)


def test_dropkey_gives_a_dropped_key_no_gradient_and_dropattention_does():
    """Equations 7 to 9 in a model: the gradient to the key projection at a dropped key."""
    found = {}
    for method in ("dropkey", "dropattention"):
        model = plain_model("bert", layers=1)
        attention = model.bert.encoder.layer[0].attention.self
        keys = []
        attention.key.register_forward_hook(
            lambda m, a, output, keys=keys: (output.retain_grad(), keys.append(output))[0]
        )
        keep = torch.ones(4, 4, 9, dtype=torch.bool)
        keep[..., 5] = False
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attention_site, "draw_keys", lambda *a, keep=keep, **k: keep)
            hiddenkey.attach(model, method)
            run(model, batch(padding="none")).loss.backward()
        found[method] = keys[0].grad
    assert found["dropkey"][:, 5].abs().max() == 0
    assert found["dropkey"][:, 4].abs().max() > 1e-6
    assert found["dropattention"][:, 5].abs().max() > 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_functional_gradients_are_those_of_backward(family):
    model = plain_model(family)
    hiddenkey.attach(model, hiddenkey.method("hiddenkey-minus", rate=RATE), kernel="reference")
    inputs = batch()

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, parameters, kwargs=inputs).loss

    with seeded(1):
        found = torch.func.grad(loss)({n: p.detach() for n, p in model.named_parameters()})
    with seeded(1):
        model(**inputs).loss.backward()
    for name, parameter in model.named_parameters():
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found[name], wanted, msg=name)

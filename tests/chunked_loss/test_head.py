"""Heads that are more than W h + b: caps, scales, adapters, wrappers."""

import copy
import warnings

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from hiddenkey.chunked_loss import (
    Factors,
    LinearHead,
    ModuleHead,
    PostHead,
    Scaled,
    SoftCapped,
    chunked_loss,
    reference_loss,
)

ROWS, HIDDEN, VOCABULARY = 30, 16, 120
ONE, BOTH, JS = Factors(0.7), Factors(0.7, 0.5, 0.4), Factors(0.7, kind="js")
FACTORS = pytest.mark.parametrize("factors", [ONE, BOTH, JS], ids=["one", "both", "js"])
POSTS = {
    "times": Scaled(0.25),
    "over": Scaled(8.0, divides=True),
    "cap": SoftCapped(3.0),
}


class Body(nn.Module):
    """Something with a head that PEFT can adapt."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=bias)
        nn.init.normal_(self.lm_head.weight, std=2 / HIDDEN**0.5)

    def forward(self, states: Tensor) -> Tensor:
        return self.lm_head(states)


def adapted(**settings) -> nn.Module:
    body = Body()
    config = LoraConfig(r=4, target_modules=["lm_head"], **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, body)
    for name, parameter in body.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return body.lm_head


def two_passes(step: float = 0.1, dtype=torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    states = torch.randn(ROWS, HIDDEN)
    other = states + step * torch.randn(ROWS, HIDDEN)
    labels = torch.randint(0, VOCABULARY, (ROWS,))
    labels[::4] = -100
    return states.to(dtype), other.to(dtype), labels


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def assert_agrees(head, module: nn.Module, post, factors, tolerance, dtype=torch.float32, step=0.1):
    """Compare a head's chunked loss with the reference over ``module`` in float64."""
    states, other, labels = two_passes(step, dtype)
    both = factors.other_task != 0
    leaves = [states.clone().requires_grad_(), other.clone().requires_grad_(both)]
    sums = chunked_loss(leaves[0], labels, head, leaves[1], factors, chunk_rows=7)
    sums.loss.backward()
    found = {n: p.grad for n, p in module.named_parameters() if p.requires_grad}

    exact = copy.deepcopy(module).double()
    exact.zero_grad()
    doubles = [t.detach().to(torch.float64, copy=True).requires_grad_() for t in (states, other)]
    one, two = (post.apply(exact(h)) if post else exact(h) for h in doubles)
    reference = reference_loss(one, labels, two if both else two.detach(), factors)
    reference.loss.backward()
    assert relative_error(sums.loss, reference.loss) < tolerance
    assert relative_error(leaves[0].grad, doubles[0].grad) < tolerance
    if both:
        assert relative_error(leaves[1].grad, doubles[1].grad) < tolerance
    expected = {n: p.grad for n, p in exact.named_parameters() if p.requires_grad}
    assert found.keys() == expected.keys()
    for name in found:
        assert relative_error(found[name], expected[name]) < tolerance, name


@FACTORS
@pytest.mark.parametrize("step", [1e-3, 0.1, 2.0])
@pytest.mark.parametrize("post", POSTS)
def test_a_function_behind_the_head(post, step, factors):
    module = Body().lm_head
    head = PostHead(LinearHead(module.weight, module.bias), POSTS[post])
    assert_agrees(head, module, POSTS[post], factors, 1e-5, step=step)


@pytest.mark.parametrize("post", POSTS)
def test_a_small_divergence_behind_a_function(post):
    """A KL alone, of about 1e-6 nats."""
    module = Body().lm_head.requires_grad_(False)
    head = PostHead(LinearHead(module.weight, module.bias), POSTS[post])
    step = {"times": 3e-3, "over": 6e-3, "cap": 1.5e-3}[post]
    assert_agrees(head, module, POSTS[post], Factors(1.0, 0.0), 1e-5, step=step)


@FACTORS
@pytest.mark.parametrize("post", [None, "cap"])
def test_an_adapted_head_goes_through_the_module(post, factors):
    module = adapted()
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trained == {"lora_A.default.weight", "lora_B.default.weight"}
    function = POSTS.get(post)
    head = ModuleHead(module, VOCABULARY)
    head = head if function is None else PostHead(head, function)
    assert_agrees(head, module, function, factors, 1e-5)


@FACTORS
def test_an_adapted_head_in_bfloat16_runs_in_float32(factors):
    module = adapted().to(torch.bfloat16)
    assert_agrees(ModuleHead(module, VOCABULARY), module, None, factors, 1e-2, torch.bfloat16)
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("factors", [ONE, BOTH, JS], ids=["one", "both", "js"])
def test_a_plain_head_as_a_module_gives_what_it_gives_as_a_matrix(factors):
    module = Body().lm_head
    states, other, labels = two_passes()
    found = []
    for head in (LinearHead(module.weight, module.bias), ModuleHead(module, VOCABULARY)):
        module.zero_grad()
        leaf = states.clone().requires_grad_()
        chunked_loss(leaf, labels, head, other, factors, chunk_rows=8).loss.backward()
        found.append([leaf.grad, module.weight.grad, module.bias.grad])
    for one, two in zip(*found, strict=True):
        assert relative_error(one, two) < 1e-5


def test_dropout_in_an_adapted_head_is_drawn_once_for_value_and_gradient():
    module = adapted(lora_dropout=0.5)
    states, _, labels = two_passes()
    draws = []
    module.lora_dropout["default"].register_forward_hook(
        lambda m, args, output: draws.append(len(output))
    )
    leaf = states.clone().requires_grad_()
    chunked_loss(leaf, labels, ModuleHead(module, VOCABULARY), chunk_rows=8).loss.backward()
    assert sum(draws) == (labels != -100).sum()


@pytest.mark.parametrize("kind", ["module", "post"])
def test_without_gradients_nothing_is_recorded(kind):
    module = adapted() if kind == "module" else Body().lm_head
    head = (
        ModuleHead(module, VOCABULARY)
        if kind == "module"
        else PostHead(LinearHead(module.weight, module.bias), POSTS["cap"])
    )
    states, other, labels = two_passes()
    with torch.no_grad():
        alone = chunked_loss(states.requires_grad_(), labels, head, other)
    assert not alone.loss.requires_grad
    assert torch.equal(alone.loss, chunked_loss(states, labels, head, other).loss.detach())


@pytest.mark.parametrize("rows", [0, 5])
def test_no_labels(rows):
    for module, head in ((m := adapted(), ModuleHead(m, VOCABULARY)),):
        states = torch.randn(rows, HIDDEN, requires_grad=True)
        sums = chunked_loss(states, torch.full((rows,), -100), head, states.detach())
        sums.loss.backward()
        assert sums.loss == 0
        assert all(not p.grad.any() for p in module.parameters() if p.requires_grad)

"""The chunked loss against its definition in float64, values and gradients."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hiddenkey.chunked_loss import Factors, LinearHead, chunked_loss, reference_loss
from hiddenkey.chunked_loss.chunked import rows_of_a_chunk

ROWS, HIDDEN, VOCABULARY = 40, 32, 300
KL, BOTH, JS = Factors(0.7), Factors(0.7, 0.5, 0.4), Factors(0.7, kind="js")
FACTORS = pytest.mark.parametrize("factors", [KL, BOTH, JS], ids=["one", "both", "js"])


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-300))


def draw(step: float, *, bias: bool = True, dtype=torch.float32, spread: float = 2.0) -> dict:
    """Inputs of two passes ``step`` apart; the logits' standard deviation is ``spread``."""
    states = torch.randn(ROWS, HIDDEN)
    inputs = {
        "states": states,
        "other": states + step * torch.randn(ROWS, HIDDEN),
        "weight": torch.randn(VOCABULARY, HIDDEN) * spread / HIDDEN**0.5,
    }
    if bias:
        inputs["bias"] = torch.randn(VOCABULARY)
    inputs = {name: tensor.to(dtype) for name, tensor in inputs.items()}
    labels = torch.randint(0, VOCABULARY, (ROWS,))
    labels[::7] = -100
    return {**inputs, "labels": labels}


def by_definition(inputs: dict, factors: Factors) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss, divergence of a row and all gradients in float64, by the textbook formulas."""
    leaf = {
        name: tensor.to(torch.float64, copy=True).requires_grad_()
        for name, tensor in inputs.items()
        if name != "labels"
    }
    labelled = inputs["labels"] != -100
    labels = inputs["labels"][labelled]
    bias = leaf.get("bias", torch.zeros(()))
    z1 = leaf["states"][labelled] @ leaf["weight"].T + bias
    z2 = leaf["other"][labelled] @ leaf["weight"].T + bias
    if factors.other_task == 0:
        z2 = z2.detach()

    def cross_entropy(z: Tensor) -> Tensor:
        return (z.exp().sum(-1).log() - z[torch.arange(len(z)), labels]).sum()

    p, q = z1.softmax(-1), z2.softmax(-1)
    one = (p * (p.log() - q.log())).sum(-1)
    two = (q * (q.log() - p.log())).sum(-1)
    rows = one if factors.kind == "js" else 0.5 * (one + two)
    loss = factors.task * cross_entropy(z1) + factors.divergence * rows.sum()
    loss = loss + factors.other_task * cross_entropy(z2)
    loss.backward()
    return loss.detach(), rows.mean().detach(), {n: t.grad for n, t in leaf.items()}


def chunked(inputs: dict, factors: Factors, **settings) -> tuple[Tensor, dict[str, Tensor | None]]:
    leaf = {n: t.clone().requires_grad_() for n, t in inputs.items() if n != "labels"}
    other = leaf["other"] if factors.other_task else leaf["other"].detach()
    head = LinearHead(leaf["weight"], leaf.get("bias"))
    sums = chunked_loss(leaf["states"], inputs["labels"], head, other, factors, **settings)
    sums.loss.backward()
    return sums, {name: tensor.grad for name, tensor in leaf.items()}


def assert_agrees(inputs: dict, factors: Factors, tolerance: float, **settings) -> None:
    loss, _, expected = by_definition(inputs, factors)
    sums, found = chunked(inputs, factors, **settings)
    assert relative_error(sums.loss, loss) < tolerance
    if factors.other_task == 0:
        assert found.pop("other") is None
    for name, gradient in found.items():
        assert gradient.dtype == inputs[name].dtype
        assert relative_error(gradient, expected[name]) < tolerance, name


# ---------------------------------------------------------------- agreement


@FACTORS
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("step", [1e-3, 1e-2, 0.3, 5.0])
def test_loss_and_gradients_agree_with_the_definition(step, bias, factors):
    assert_agrees(draw(step, bias=bias), factors, 1e-5, chunk_rows=9)


@pytest.mark.parametrize(("kind", "tolerance"), [("kl", 1e-5), ("js", 1e-4)])
def test_the_divergence_alone_agrees_down_to_a_millionth_of_a_nat(kind, tolerance):
    """Where log-softmaxes in float32, subtracted, are off by a part in a thousand."""
    inputs = draw(7e-4)
    factors = Factors(1.0, 0.0, 0.0, kind)
    loss, row, expected = by_definition(inputs, factors)
    assert 2e-7 < row < 2e-6
    sums, found = chunked(inputs, factors)
    assert relative_error(sums.divergence, loss) < tolerance
    for name in ("states", "weight", "bias"):
        assert relative_error(found[name], expected[name]) < 1e-5, name


@pytest.mark.parametrize("branch", ["states", "other"])
def test_both_branches_of_the_divergence_alone_agree(branch):
    inputs = draw(7e-4, bias=False)
    leaf = {n: t.double().requires_grad_() for n, t in inputs.items() if n != "labels"}
    weight = leaf["weight"].detach()
    labels = inputs["labels"]
    reference = reference_loss(
        leaf["states"] @ weight.T, labels, leaf["other"] @ weight.T, Factors(1.0, 0.0)
    )
    reference.loss.backward()
    states, other = (inputs[n].clone().requires_grad_() for n in ("states", "other"))
    chunked_loss(
        states, labels, LinearHead(inputs["weight"]), other, Factors(1.0, 0.0)
    ).loss.backward()
    found = {"states": states, "other": other}[branch].grad
    assert relative_error(found, leaf[branch].grad) < 1e-5


@FACTORS
@pytest.mark.parametrize("step", [0.02, 0.3, 1.0])
def test_bfloat16_agrees_to_a_hundredth(step, factors):
    """With logits as large as a trained model's, which bfloat16 would round by 6 %."""
    assert_agrees(draw(step, dtype=torch.bfloat16, spread=6.0), factors, 1e-2, chunk_rows=16)


@given(
    rows=st.integers(0, 20),
    compared=st.integers(0, 20),
    vocabulary=st.integers(1, 40),
    chunk=st.integers(1, 25),
    ignored=st.floats(0, 1),
    step=st.sampled_from([0.0, 1e-4, 0.1, 30.0]),
    factors=st.sampled_from([KL, BOTH, JS, Factors(0.0), Factors(0.0, 0.5, 0.5), Factors(1e-6)]),
    seed=st.integers(0, 99),
)
def test_any_shape_agrees_with_the_reference(
    rows, compared, vocabulary, chunk, ignored, step, factors, seed
):
    draws = torch.Generator().manual_seed(seed)
    compared = min(rows, compared)
    states = torch.randn(rows, 8, generator=draws)
    other = states[:compared] + step * torch.randn(compared, 8, generator=draws)
    weight = torch.randn(vocabulary, 8, generator=draws)
    labels = torch.randint(0, vocabulary, (rows,), generator=draws)
    labels[torch.rand(rows, generator=draws) < ignored] = -100
    both = factors.other_task != 0

    found, expected = [], []
    for leaves, into in (([states, other, weight], found), ([states, other, weight], expected)):
        double = into is expected
        h1, h2, w = (t.to(torch.float64 if double else torch.float32, copy=True) for t in leaves)
        h1, w = h1.requires_grad_(), w.requires_grad_()
        h2 = h2.requires_grad_(both)
        if double:
            z2 = h2 @ w.T if both else (h2 @ w.T).detach()
            sums = reference_loss(h1 @ w.T, labels, z2, factors)
        else:
            sums = chunked_loss(
                h1, labels, LinearHead(w), h2, factors, entropy=True, chunk_rows=chunk
            )
        sums.loss.backward()
        into += [sums.loss, sums.task, sums.entropy, h1.grad, w.grad]
        into += [sums.correct, sums.other_task] + ([h2.grad] if both else [])
        into += [sums.divergence] if factors.divergence else []
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), two.double(), rtol=1e-4, atol=1e-5 * (1 + step))


def test_far_apart_passes_stay_finite():
    """Logits a thousand apart: probabilities underflow, the loss does not overflow."""
    states = torch.zeros(2, 2, requires_grad=True)
    other = torch.tensor([[1.0, 0.0], [0.0, -1.0]], requires_grad=True)
    weight = torch.tensor([[1000.0, 0.0], [0.0, 1000.0], [-1000.0, 500.0]])
    labels = torch.tensor([2, 1])
    sums = chunked_loss(states, labels, LinearHead(weight), other, BOTH)
    sums.loss.backward()
    expected = reference_loss(states.double() @ weight.double().T, labels,
                              other.double() @ weight.double().T, BOTH)  # fmt: skip
    assert sums.loss.item() == pytest.approx(expected.loss.item(), rel=1e-6)
    assert states.grad.isfinite().all()
    assert other.grad.isfinite().all()


# ---------------------------------------------------------------- rows


@FACTORS
def test_unlabelled_rows_count_for_nothing(factors):
    inputs = draw(0.1)
    labelled = inputs["labels"] != -100
    fewer = {
        name: tensor[labelled] if name in ("states", "other", "labels") else tensor
        for name, tensor in inputs.items()
    }
    sums, found = chunked(inputs, factors)
    alone, expected = chunked(fewer, factors)
    assert torch.equal(sums.loss, alone.loss)
    assert not found["states"][~labelled].any()
    torch.testing.assert_close(found["states"][labelled], expected["states"])
    torch.testing.assert_close(found["weight"], expected["weight"])


@FACTORS
@pytest.mark.parametrize("rows", [0, 3], ids=["no-rows", "no-labels"])
def test_a_batch_without_labels_has_a_loss_of_zero_and_gradients_of_zero(rows, factors):
    states = torch.randn(rows, HIDDEN, requires_grad=True)
    other = torch.randn(rows, HIDDEN, requires_grad=factors.other_task != 0)
    weight = torch.randn(VOCABULARY, HIDDEN, requires_grad=True)
    labels = torch.full((rows,), -100)
    sums = chunked_loss(states, labels, LinearHead(weight), other, factors, entropy=True)
    sums.loss.backward()
    assert all(value == 0 for value in sums)
    assert not states.grad.any()
    assert not weight.grad.any()


def test_values_do_not_depend_on_the_chunks():
    inputs = draw(0.1)
    whole, expected = chunked(inputs, BOTH, chunk_rows=1000)
    for rows in (1, 7, 34, 35):
        sums, found = chunked(inputs, BOTH, chunk_rows=rows)
        assert relative_error(sums.loss, whole.loss) < 1e-6
        for name in found:
            assert relative_error(found[name], expected[name]) < 2e-6


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("vocabulary", [60, 49_152, 128_256, 10**9])
def test_a_chunk_is_bounded_and_never_of_no_rows(vocabulary, device):
    rows = rows_of_a_chunk(vocabulary, device)
    assert rows >= 16
    assert rows == 16 or rows * vocabulary <= 2**24
    assert rows <= 128 or device == "cuda"


def test_sums_say_how_good_the_predictions_are():
    inputs = draw(0.1)
    sums, _ = chunked(inputs, KL, entropy=True)
    labelled = inputs["labels"] != -100
    logits = (inputs["states"] @ inputs["weight"].T + inputs["bias"])[labelled].double()
    labels = inputs["labels"][labelled]
    p = logits.softmax(-1)
    assert sums.rows == labelled.sum()
    assert sums.correct == (logits.argmax(-1) == labels).sum()
    assert sums.entropy.item() == pytest.approx(-(p * p.log()).sum().item(), rel=1e-5)
    expected = nn.functional.cross_entropy(logits, labels, reduction="sum")
    assert sums.task.item() == pytest.approx(expected.item(), rel=1e-6)


# ---------------------------------------------------------------- what holds nothing


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Records the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().size():
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("trainable", [True, False], ids=["trainable", "frozen"])
def test_no_tensor_is_larger_than_two_chunks_or_the_weight(trainable):
    states = torch.randn(300, 8, requires_grad=True)
    other = torch.randn(300, 8, requires_grad=True)
    weight = torch.randn(1000, 8, requires_grad=trainable)
    labels = torch.randint(0, 1000, (300,))
    with Largest() as largest:
        chunked_loss(states, labels, LinearHead(weight), other, BOTH, chunk_rows=10).loss.backward()
    assert largest.elements == 2 * 10 * 1000
    assert (weight.grad is not None) is trainable


def test_a_frozen_head_gets_no_gradient_and_a_tied_one_its_sum():
    embedding = nn.Embedding(50, 16)
    ids, labels = torch.randint(0, 50, (2, 12))
    noise = 0.1 * torch.randn(12, 16)

    def gradient(loss_of) -> Tensor:
        embedding.weight.grad = None
        states = embedding(ids).tanh()
        loss_of(states, states + noise).backward()
        return embedding.weight.grad

    tied = gradient(
        lambda one, two: chunked_loss(one, labels, LinearHead(embedding.weight), two, BOTH).loss
    )
    plain = gradient(
        lambda one, two: (
            reference_loss(one @ embedding.weight.T, labels, two @ embedding.weight.T, BOTH).loss
        )
    )
    assert relative_error(tied, plain) < 1e-5
    frozen = gradient(
        lambda one, two: (
            chunked_loss(one, labels, LinearHead(embedding.weight.detach()), two, BOTH).loss
        )
    )
    assert relative_error(frozen, plain) > 0.1


# ---------------------------------------------------------------- autograd


def test_the_backward_pass_only_scales():
    inputs = draw(0.1)
    _, plain = chunked(inputs, BOTH)
    states = inputs["states"].clone().requires_grad_()
    head = LinearHead(inputs["weight"], inputs["bias"])
    loss = chunked_loss(states, inputs["labels"], head, inputs["other"], BOTH).loss
    (loss / 8).backward(retain_graph=True)
    torch.testing.assert_close(states.grad, plain["states"] / 8)
    loss.backward()  # what was kept is as it was
    torch.testing.assert_close(states.grad, plain["states"] * 1.125)


def test_differentiating_twice_is_refused():
    states = torch.randn(4, HIDDEN, requires_grad=True)
    head = LinearHead(torch.randn(VOCABULARY, HIDDEN))
    loss = chunked_loss(states**2, torch.arange(4), head).loss
    with pytest.raises(RuntimeError, match=r"no second derivative; leave create_graph=False, or"):
        torch.autograd.grad(loss, states, create_graph=True)


def test_without_gradients_values_are_the_same_and_nothing_is_pulled_back(monkeypatch):
    inputs = draw(0.1)
    expected, _ = chunked(inputs, BOTH)
    head = LinearHead(inputs["weight"].requires_grad_(), inputs["bias"])
    from hiddenkey.chunked_loss import head as heads

    monkeypatch.setattr(heads._LinearProjection, "pull", None)
    states = inputs["states"].requires_grad_()
    with torch.no_grad():
        sums = chunked_loss(states, inputs["labels"], head, inputs["other"], BOTH)
    assert not sums.loss.requires_grad
    torch.testing.assert_close(sums.loss, expected.loss.detach())


def test_only_the_loss_carries_gradient():
    inputs = draw(0.1)
    head = LinearHead(inputs["weight"].requires_grad_(), inputs["bias"])
    sums = chunked_loss(inputs["states"].requires_grad_(), inputs["labels"], head, inputs["other"])
    assert [value.requires_grad for value in sums[:6]] == [True] + [False] * 5


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_recomputes_the_same(reentrant):
    inputs = draw(0.1)
    layer = nn.Linear(HIDDEN, HIDDEN)
    found = []
    for checkpoints in (False, True):
        weight = inputs["weight"].clone().requires_grad_()
        states = inputs["states"].clone().requires_grad_()
        layer.zero_grad()

        def loss(states: Tensor, weight: Tensor = weight) -> Tensor:
            deep = layer(states)
            head = LinearHead(weight, inputs["bias"])
            return chunked_loss(deep, inputs["labels"], head, deep.detach() * 1.1).loss

        value = checkpoint(loss, states, use_reentrant=reentrant) if checkpoints else loss(states)
        value.backward()
        found.append([value.detach(), states.grad, weight.grad, layer.weight.grad.clone()])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


@FACTORS
def test_under_autocast_the_head_multiplies_in_bfloat16(factors):
    inputs = draw(0.2)
    loss, _, expected = by_definition(inputs, factors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums, found = chunked(inputs, factors)
    assert sums.loss.dtype == torch.float32
    assert relative_error(sums.loss, loss) < 1e-2
    for name in ("states", "weight", "bias"):
        assert found[name].dtype == torch.float32
        assert relative_error(found[name], expected[name]) < 1e-2, name
    exact, _ = chunked(inputs, factors)
    assert sums.loss.item() != exact.loss.item()


def test_float64_is_computed_in_float64():
    inputs = draw(1e-3, dtype=torch.float64)
    loss, _, expected = by_definition(inputs, BOTH)
    sums, found = chunked(inputs, BOTH)
    assert sums.loss.dtype == torch.float64
    assert relative_error(sums.loss, loss) < 1e-12
    assert all(relative_error(found[name], expected[name]) < 1e-10 for name in found)


def test_numerical_derivatives():
    inputs = draw(0.3, dtype=torch.float64)
    labels = inputs["labels"][:4]

    def loss(states: Tensor, other: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return chunked_loss(states, labels, LinearHead(weight, bias), other, BOTH).loss

    arguments = (inputs["states"][:4], inputs["other"][:3], inputs["weight"][:, :].clone(),
                 inputs["bias"])  # fmt: skip
    leaves = [copy.deepcopy(tensor).requires_grad_() for tensor in arguments]
    assert torch.autograd.gradcheck(loss, leaves, fast_mode=True)


# ---------------------------------------------------------------- refusals


def test_what_does_not_fit_is_refused():
    head = LinearHead(torch.randn(VOCABULARY, HIDDEN))
    states, labels = torch.randn(4, HIDDEN), torch.arange(4)
    with pytest.raises(ValueError, match=r"got \[2, 2, 32\] and labels \[4\]; flatten batch and"):
        chunked_loss(states.view(2, 2, HIDDEN), labels, head)
    with pytest.raises(ValueError, match=r"other must hold the first rows of states .* \[5, 32\]"):
        chunked_loss(states, labels, head, torch.randn(5, HIDDEN))
    with pytest.raises(ValueError, match="kind 'js' compares with an inference pass"):
        chunked_loss(states, labels, head, states.clone().requires_grad_(), JS)

"""Earlier predictions of tokens, compared chunk by chunk, against autograd in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hiddenkey.chunked_loss.chunked import labelled_loss
from hiddenkey.chunked_loss.head import LinearHead, ModuleHead
from hiddenkey.chunked_loss.past import Past
from hiddenkey.chunked_loss.sums import Factors
from hiddenkey.framework.compensation.kl import bidirectional_kl
from hiddenkey.framework.compensation.temporal import LEAST_LOG_MASS, shortened

ROWS, HIDDEN, VOCABULARY, TOP = 11, 6, 29, 4
UNSEEN = [2, 7]


def scene(scale: float = 1.0):
    draws = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draws, dtype=torch.float64)

    states = normal(ROWS, HIDDEN) * scale
    weight = normal(VOCABULARY, HIDDEN).requires_grad_()
    labels = torch.randint(0, VOCABULARY, (ROWS,), generator=draws)
    earlier = (normal(ROWS, VOCABULARY) * scale).log_softmax(-1)
    classes = earlier.topk(TOP).indices
    log_q = shortened(earlier, classes)
    log_q[UNSEEN] = torch.nan
    is_compared = torch.ones(ROWS, 1, dtype=torch.bool)
    return states.requires_grad_(), weight, labels, Past(log_q, classes, is_compared, 1.5)


@pytest.mark.parametrize("scale", [1.0, 40.0], ids=["flat", "all-mass-on-one"])
@pytest.mark.parametrize("kind", ["linear", "module"])
@pytest.mark.parametrize("chunk", [3, 64])
def test_value_gradient_and_what_is_kept(kind, chunk, scale):
    states, weight, labels, past = scene(scale)
    log_q, classes = past.log_q.clone(), past.classes.clone()
    logits = states @ weight.t()
    now = logits.log_softmax(-1)
    rows = bidirectional_kl(shortened(now, classes), torch.nan_to_num(log_q))
    rows = torch.where(torch.isnan(log_q).any(-1), 0, rows)
    expected = F.cross_entropy(logits, labels, reduction="sum") + 1.5 * rows.sum()
    wanted = torch.autograd.grad(expected, [states, weight])

    if kind == "linear":
        head = LinearHead(weight)
    else:
        module = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False, dtype=torch.float64)
        module.weight = torch.nn.Parameter(weight.detach().clone())
        head, weight = ModuleHead(module, VOCABULARY), module.weight
    factors = Factors(past.factor)
    sums = labelled_loss(states, labels, head, None, factors, past=past, chunk_rows=chunk)
    torch.testing.assert_close(sums.loss, expected)
    torch.testing.assert_close(sums.divergence, rows.sum().detach())
    found = torch.autograd.grad(sums.loss, [states, weight])
    torch.testing.assert_close(found, wanted)
    kept = now.detach().topk(TOP).indices
    assert torch.equal(past.classes, kept)
    torch.testing.assert_close(past.log_q, shortened(now.detach(), kept))


def test_a_mean_is_kept_of_all_rows_and_of_the_first_classes():
    states, weight, labels, past = scene()
    log_q, known = past.log_q.clone(), past.classes.clone()
    past.momentum, past.is_compared[[0, 2]] = 0.75, False
    now = (states @ weight.t()).log_softmax(-1).detach()
    head, factors = LinearHead(weight), Factors(past.factor)
    sums = labelled_loss(states, labels, head, None, factors, past=past, chunk_rows=3)
    rows = bidirectional_kl(shortened(now, known), torch.nan_to_num(log_q))
    rows[[0, *UNSEEN]] = 0
    torch.testing.assert_close(sums.divergence, rows.sum())
    mean = 0.75 * log_q.exp() + 0.25 * shortened(now, known).exp()
    latest = now.topk(TOP).indices
    mean[UNSEEN] = shortened(now, latest)[UNSEEN].exp()
    known[UNSEEN] = latest[UNSEEN]
    torch.testing.assert_close(past.log_q.exp(), mean)
    assert torch.equal(past.classes, known)


def test_a_rest_without_mass_has_a_least_logarithm():
    log_p = torch.tensor([[0.0, -200.0, -200.0]]).log_softmax(-1)
    found = shortened(log_p, torch.tensor([[0]]))
    assert found.tolist() == [[0.0, LEAST_LOG_MASS]]


def test_fewer_classes_never_are_further_apart():
    """Data processing: the shortened KL is at most the whole one, and grows with the classes."""
    draws = torch.Generator().manual_seed(1)
    p, q = torch.randn(2, 50, 40, generator=draws, dtype=torch.float64).log_softmax(-1)
    order = q.argsort(-1, descending=True)
    before = torch.zeros(50, dtype=torch.float64)
    for top in (1, 4, 16, 39):
        classes = order[:, :top]
        found = bidirectional_kl(shortened(p, classes), shortened(q, classes))
        assert (found >= before - 1e-12).all()
        before = found
    torch.testing.assert_close(before, bidirectional_kl(p, q))

"""benchmarks/lm_loss.py: methods that are compared compute the same loss and gradients."""

import argparse

import pytest
import torch

import lm_loss

VOCABULARY, TOKENS, HIDDEN = 40, 7, 12
# Liger's loss is another one, as its name says
SAME = [
    (name, branches)
    for name, method in lm_loss.METHODS.items()
    for branches in ("one", "both")
    if method is not lm_loss.liger and (branches == "one" or method not in lm_loss.ONE_BRANCH_ONLY)
]


def evaluate(name, **changes):
    """Loss, and its gradients to hidden states, the other branch and the head where asked for."""
    options = {"device": "cpu", "dtype": "float32", "hidden": HIDDEN, "branches": "one",
               "trainable_head": False, "chunk_rows": 3}  # fmt: skip
    x = lm_loss.make_inputs(VOCABULARY, TOKENS, argparse.Namespace(**{**options, **changes}))
    loss = lm_loss.METHODS[name](x)
    loss.backward()
    return [loss.detach()] + [torch.zeros(()) if t.grad is None else t.grad for t in x.leaves]


@pytest.mark.parametrize("trainable_head", [False, True], ids=["frozen", "trainable"])
@pytest.mark.parametrize(("name", "branches"), SAME)
def test_methods_agree_with_their_baseline(name, branches, trainable_head):
    method = lm_loss.METHODS[name]
    if method in lm_loss.NEEDS:
        pytest.importorskip(lm_loss.NEEDS[method])
    setting = {"branches": branches, "trainable_head": trainable_head}
    found = evaluate(name, **setting)
    exact = evaluate(lm_loss.BASE_OF[name], **setting)
    assert len(found) == 2 + (branches == "both") + trainable_head
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6)


def test_the_two_groups_are_different_losses():
    usual, plain = evaluate(lm_loss.USUAL), evaluate(lm_loss.PLAIN)
    assert usual[0] > plain[0] + 1e-4


def test_a_pass_leaves_no_gradient_behind():
    options = argparse.Namespace(device="cpu", dtype="float32", hidden=HIDDEN, branches="both",
                                 trainable_head=True, chunk_rows=None)  # fmt: skip
    x = lm_loss.make_inputs(VOCABULARY, TOKENS, options)
    first, second = (lm_loss.run(lm_loss.ours, x) for _ in range(2))
    assert first == second
    assert all(leaf.grad is None for leaf in x.leaves)


@pytest.mark.parametrize(
    ("chosen", "missing"),
    [([lm_loss.OURS], lm_loss.USUAL), ([lm_loss.USUAL, lm_loss.PLAIN_OURS], lm_loss.PLAIN)],
)
def test_methods_without_their_baseline_are_refused(chosen, missing, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["lm_loss.py", "--methods", *chosen])
    with pytest.raises(SystemExit) as stopped:
        lm_loss.read_arguments()
    assert stopped.value.code == 2
    assert f"{chosen[-1]!r} is judged relative to {missing!r}" in capsys.readouterr().err


def test_quick_keeps_what_was_asked_for_in_so_many_words(monkeypatch):
    monkeypatch.setattr("sys.argv", ["lm_loss.py", "--quick", "--tokens", "64"])
    arguments = lm_loss.read_arguments()
    assert arguments.tokens == [64]
    assert arguments.vocabulary == [49152]
    assert {lm_loss.USUAL, lm_loss.PLAIN} <= set(arguments.methods)


def test_a_baseline_that_fails_is_not_left_out(monkeypatch):
    monkeypatch.setattr("sys.argv", ["lm_loss.py", "--methods", lm_loss.PLAIN])

    def broken(x):
        raise ArithmeticError("no loss")

    monkeypatch.setitem(lm_loss.METHODS, lm_loss.PLAIN, broken)
    with pytest.raises(ArithmeticError, match="no loss"):
        lm_loss.runnable(lm_loss.read_arguments())

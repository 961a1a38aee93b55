"""benchmarks/attention.py: every case computes what its name says, and wrong ones are refused."""

import argparse

import pytest
import torch

import attention
import attention_cases
from attention_inputs import QUERY_HEADS_PER_KEY_HEAD, Setting, make_inputs
from hiddenkey.attention import reference, site

ON_A_CPU = [name for name, case in attention_cases.CASES.items() if not case.is_gpu_only]
SHAPES = [(kind, layout) for kind in ("encoder", "causal") for layout in QUERY_HEADS_PER_KEY_HEAD]
# the drop that a case draws itself; the others have a mask drawn beforehand, or none
DRAWN = {
    "dropkey": "logits_keep",
    "dropkey-span": "logits_keep",
    "dropkey-reference": "logits_keep",
    "dropkey-element": "logits_keep",
    "dropattention": "weights_keep",
    "dropattention-element": "weights_keep",
}


def inputs_of(kind, layout, *, padding, rate=0.3):
    arguments = argparse.Namespace(
        device="cpu", dtype="float32", batch=2, heads=4, rate=rate, padding=padding
    )
    return make_inputs(Setting(kind, layout, 8, 12), arguments)


@pytest.fixture
def drawn(monkeypatch):
    """The masks that attention sites draw, each broadcast to ``[.., queries, keys]``."""
    masks = []

    def remembering(name, is_for_entries):
        draw = getattr(site, name)

        def remember(*args, **kwargs):
            keep = draw(*args, **kwargs)
            masks.append(keep if is_for_entries else keep.unsqueeze(-2))
            return keep

        monkeypatch.setattr(site, name, remember)

    remembering("draw_keys", is_for_entries=False)
    remembering("draw_entries", is_for_entries=True)
    return masks


def expected(name, x, masks):
    """The reference's output for what the case drew; dropout of entries draws from the same seed.

    ``eager-dropout`` and ``sdpa-dropout`` drop entries of the weights and rescale by 1/(1 − p).
    """
    if attention_cases.CASES[name].is_checked:
        return x.exact()
    torch.manual_seed(1)
    return reference.attention(
        x.query,
        *x.repeated(),
        allowed=x.allowed(),
        scaling=x.scaling,
        dropout=x.rate if name.endswith("-dropout") else 0.0,
        **({DRAWN[name]: masks[0]} if name in DRAWN else {}),
    )


@pytest.mark.parametrize("padding", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize(("kind", "layout"), SHAPES)
@pytest.mark.parametrize("name", ON_A_CPU)
def test_every_case_agrees_with_the_reference(name, kind, layout, padding, drawn):
    x = inputs_of(kind, layout, padding=padding)
    torch.manual_seed(1)
    output = attention_cases.CASES[name].prepare(x)()
    assert len(drawn) == (name in DRAWN)
    if drawn:
        assert not drawn[0].all()
    torch.testing.assert_close(output, expected(name, x, drawn), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "layout"), SHAPES)
def test_every_pass_reaches_query_key_and_value(kind, layout, monkeypatch):
    x = inputs_of(kind, layout, padding=True)
    found = []
    backward = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args: found.append(backward(*args)))
    for name in ON_A_CPU:
        attention_cases.pass_of(attention_cases.CASES[name], x)()
    assert len(found) == len(ON_A_CPU)
    for gradients in found:
        shapes = [gradient.shape for gradient in gradients]
        assert shapes == [x.query.shape, x.key.shape, x.value.shape]
        assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_a_wrong_case_is_refused():
    x = inputs_of("causal", "mha", padding=False)
    cases = attention_cases.CASES
    for name in (n for n in ON_A_CPU if cases[n].is_checked):
        attention_cases.check(cases[name], x)
    with pytest.raises(ArithmeticError, match="differs from the reference by"):
        attention_cases.check(cases[attention_cases.BASELINE], x)  # it drops nothing


def test_a_wrong_case_is_named_and_left_out(monkeypatch, capsys):
    wrong = attention_cases.Case(attention_cases.direct(attention_cases.sdpa), is_checked=True)
    monkeypatch.setattr(attention, "CASES", {**attention.CASES, "masked": wrong})
    arguments = argparse.Namespace(
        device="cpu", dtype="float32", batch=1, heads=2, rate=0.3, padding=False,
        cases=["masked", "key-mask"],
    )  # fmt: skip
    names = attention.runnable(Setting("encoder", "mha", 8, 12), arguments)
    assert names == ["sdpa", "key-mask"]
    told = capsys.readouterr().err
    assert told.startswith("left out: masked (encoder, mha): ArithmeticError: differs from")


def test_cases_whose_maps_do_not_fit_are_left_out(capsys):
    arguments = argparse.Namespace(batch=2, heads=8, limit_gib=1)
    names = ["sdpa", "dropkey", "masked", "dropkey-element"]
    fitting = attention.fitting(names, Setting("encoder", "mha", 64, 2048), arguments)
    assert fitting == ["sdpa", "dropkey", "masked"]
    assert "dropkey-element (2048 keys): needs about 1.1 GiB" in capsys.readouterr().err


def test_cases_with_whole_maps_take_turns_of_their_own(monkeypatch):
    turns = []
    original = attention.by_turns

    def by_turns(cases, *args, **kwargs):
        turns.append(list(cases))
        return original(cases, *args, **kwargs)

    monkeypatch.setattr(attention, "by_turns", by_turns)
    arguments = argparse.Namespace(
        device="cpu", dtype="float32", batch=1, heads=2, rate=0.3, padding=False,
        seconds=0.001, turns=5,
    )  # fmt: skip
    setting = Setting("encoder", "mha", 8, 12)
    found = attention.timings(["sdpa", "dropkey", "masked"], setting, arguments)
    assert turns == [["sdpa", "dropkey"]] * 2 + [["sdpa", "masked"]] * 2
    assert list(found) == ["sdpa", "dropkey", "masked"]
    assert {timing["turns"] for timing in found.values()} <= {3, 4, 5}
    assert found["sdpa"]["ratio"] == 1


def test_rows_become_cells_with_memory_only_where_it_was_measured():
    row = {"keys": 128, "case": "dropkey", "turns": 5, "median_ms": 1.234, "ratio": 1.1,
           "low": 1.0, "high": 1.2}  # fmt: skip
    assert attention.cells(row) == ["128", "dropkey", "5", "1.23", "1.10×", "1.00 to 1.20"]
    row |= {"transient_mib": 2.0, "transient_ratio": 1.5, "peak_mib": 4.0, "peak_ratio": 1.2}
    assert attention.cells(row)[6:] == ["2.0", "1.50×", "4.0", "1.20×"]

"""LoRA on quantised weights, where the packages that quantise are installed."""

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import hiddenkey
from adapters.every import METHODS, NOISE, adapted, batch_for, peft_may_warn
from model_tables.adapters.checks import consistency_fault, examine_adapter
from models import seeded, transformer_in

# LoftQ needs a GPU, and torchao's 4-bit weights a package for one.
QUANTISED = sorted(
    key
    for key, method in METHODS.items()
    if method.needs and "LoftQ" not in key[0] and "int4" not in key[0]
)


def require(key: tuple[str, str]) -> None:
    pytest.importorskip(METHODS[key].needs)


@pytest.mark.parametrize("key", QUANTISED, ids=str)
def test_consistency_evaluation_and_detaching(key, tmp_path: Path):
    require(key)
    batch = batch_for(*key)
    with peft_may_warn():
        shifts = key[1] == "llama"
        fault = consistency_fault(lambda: adapted(*key, tmp_path), batch, shifts=shifts)
        assert fault is None
        model = adapted(*key, tmp_path)
        quiet = model.eval()(**batch).logits
        attachment = hiddenkey.attach(model, NOISE)
        assert len(attachment.sites) == 4
        assert torch.equal(model(**batch).logits, quiet)
        losses = []
        for seed in (0, 1):
            with seeded(seed):
                losses.append(model.train()(**batch).loss.item())
        assert losses[0] != losses[1]
        attachment.detach()
        assert torch.equal(model.eval()(**batch).logits, quiet)


@pytest.mark.parametrize("key", QUANTISED, ids=str)
def test_noise_on_the_update(key, tmp_path: Path):
    require(key)
    batch = batch_for(*key)
    with peft_may_warn():
        model = adapted(*key, tmp_path)
        quiet = model.eval()(**batch).logits
        with hiddenkey.attach(model, hiddenkey.method("two-sided-lora-dropout", 0.5)) as attachment:
            assert torch.equal(model(**batch).logits, quiet)
            with seeded(0):
                model.train()(**batch).loss.backward()
            assert all(0.2 < share < 0.8 for share in attachment.shares().values())


@pytest.mark.parametrize("key", QUANTISED, ids=str)
def test_weights_are_quantised_at_all(key, tmp_path: Path):
    require(key)
    with peft_may_warn():
        inner = transformer_in(adapted(*key, tmp_path))
    name = "q_proj" if key[1] == "llama" else "query"
    weight = next(p for n, p in inner.named_parameters() if f"{name}.base_layer.weight" in n)
    assert type(weight).__name__ in {"Params4bit", "Int8Params", "Int8Tensor"}


def test_the_table_says_which_package_is_missing():
    key = ("LORA (on bitsandbytes int8)", "bert")
    absent = dataclasses.replace(METHODS[key], needs="no_such_package")
    assert find_spec("no_such_package") is None
    row = examine_adapter(absent, "bert")
    assert (row.verdict, row.reason) == (
        "not tried",
        "needs no_such_package, which is not installed",
    )

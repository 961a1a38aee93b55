"""Every adapter that the installed PEFT has, on tiny models of each family."""

import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch

import hiddenkey
from adapters.every import METHODS, NOISE, adapted, batch_for, method_of, peft_may_warn
from hiddenkey import ConfigError
from model_tables.adapters.bases import PLACES, TASKS, tiny_model
from model_tables.adapters.checks import consistency_fault, examine_adapter
from models import gradients, seeded, snapshot

# What PEFT itself refuses or lacks here, in the words of its error.
PEFT_CANNOT = {
    ("ADAPTION_PROMPT", "bert"): "Unsupported model type",
    ("CPT", "bert"): "only supports task_type",
    ("SHADOW", "bert"): "Unable to automatically find",
    ("XLORA", "bert"): "Got unexpected keys",
}
NEED_PACKAGES = {key for key, method in METHODS.items() if method.needs}
SUPPORTED = sorted(METHODS.keys() - PEFT_CANNOT.keys() - NEED_PACKAGES)


def passes(model, batch, seed=0):
    with seeded(seed):
        return model.train()(**batch)


def reached(model, batch) -> set[str]:
    model.zero_grad(set_to_none=True)
    passes(model, batch).loss.backward()
    return {name for name, gradient in gradients(model).items() if gradient.any()}


def test_no_peft_type_is_left_out():
    assert {method.peft_type for method in METHODS.values()} == {t.value for t in peft.PeftType}


@pytest.mark.parametrize(("name", "base"), SUPPORTED)
def test_noise_gradients_evaluation_and_detaching(name, base, tmp_path: Path):
    model, batch = adapted(name, base, tmp_path), batch_for(name, base)
    with peft_may_warn():
        expected, before = reached(model, batch), snapshot(model)
        plain = passes(model, batch).loss.detach()
        with torch.no_grad():
            quiet = model.eval()(**batch).logits

        attachment = hiddenkey.attach(model.train(), NOISE)
        assert len({site.key for site in attachment.sites}) == PLACES[base]
        with torch.no_grad():
            assert torch.equal(model.eval()(**batch).logits, quiet)
        losses = [passes(model, batch, seed).loss.item() for seed in (0, 1)]
        assert losses[0] != losses[1]
        assert set.union(*(reached(model, batch) for _ in range(2))) >= expected
        assert all(0.1 < share < 0.5 for share in attachment.shares().values())

        attachment.detach()
        assert snapshot(model.train()) == before
        if "MonteCLoRA" not in name:  # draws from a buffer of its own
            assert torch.equal(passes(model, batch).loss, plain)


@pytest.mark.parametrize(("name", "base"), [key for key in SUPPORTED if key[0] != "CPT"])
def test_the_consistency_loss_is_that_of_two_passes_by_hand(name, base, tmp_path: Path):
    with peft_may_warn():
        fault = consistency_fault(
            lambda: adapted(name, base, tmp_path),
            batch_for(name, base),
            shifts=TASKS[base] == "CAUSAL_LM",
        )
    assert fault is None


@pytest.mark.parametrize("key", sorted(PEFT_CANNOT), ids=str)
def test_what_peft_refuses_without_the_library(key, tmp_path: Path):
    with pytest.raises((ValueError, AttributeError), match=PEFT_CANNOT[key]):
        adapted(*key, tmp_path)


def test_a_loss_that_peft_replaces_is_refused(tmp_path: Path):
    model = adapted("CPT", "llama", tmp_path)
    message = "PEFT's CPT replaces the model's loss by one of its own"
    with pytest.raises(ConfigError, match=message):
        hiddenkey.attach(model, "hiddenkey")


@pytest.mark.parametrize(
    ("name", "base", "expected"),
    [
        ("LORA", "llama", {"verdict": "pass", "gradients": "16", "reason": ""}),
        ("PREFIX_TUNING", "bert", {"verdict": "pass", "checkpointing": "PEFT cannot"}),
        ("ADALORA", "bert", {"verdict": "pass", "consistency": "exact", "saved": "same"}),
        ("LOKR", "llama", {"verdict": "pass", "reason": "its own draws stay on"}),
        ("CPT", "llama", {"verdict": "noise only", "consistency": "refused"}),
        ("LORA (CorDA)", "bert", {"verdict": "pass", "saved": "PEFT cannot"}),
        ("CPT", "bert", {"verdict": "PEFT cannot", "sites": ""}),
    ],
)
def test_rows_of_the_table(name, base, expected, tmp_path: Path):
    if name == "PREFIX_TUNING":
        adapted(name, base, tmp_path)  # skips where versions do not fit
    row = examine_adapter(method_of(name, base), base)
    assert {field: getattr(row, field) for field in expected} == expected
    if row.sites:
        assert row.sites == "4 of 4"


LOAD = """
import sys, warnings
sys.modules["hiddenkey"] = None
warnings.simplefilter("ignore")
import torch
from pathlib import Path
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)
torch.set_num_threads(1)
classes = {
    "llama": AutoModelForCausalLM,
    "bert": AutoModelForSequenceClassification,
    "bart": AutoModelForSeq2SeqLM,
}
root = Path(sys.argv[1])
for folder in sorted(root.glob("*-*")):
    base = folder.name.rpartition("-")[2]
    model = classes[base].from_pretrained(root / base, attn_implementation="sdpa")
    model = PeftModel.from_pretrained(model, folder).eval()
    with torch.no_grad():
        torch.save(model(**torch.load(folder / "batch.pt")).logits, folder / "logits.pt")
print("done")
"""
# PEFT does not load X-LoRA's classifier, and some variants need what moved the base's weights.
SAVED = [
    (name, base)
    for name, base in SUPPORTED
    if "(" not in name
    and name != "XLORA"
    and (base == "llama" or name in ("LORA", "PREFIX_TUNING"))
]


def test_saved_adapters_agree_where_the_library_cannot_be_imported(tmp_path: Path):
    expected = {}
    for base in ("llama", "bert", "bart"):
        tiny_model(base).save_pretrained(tmp_path / base)
    for name, base in SAVED:
        model, batch = adapted(name, base, tmp_path), batch_for(name, base)
        folder = tmp_path / f"{name}-{base}"
        with peft_may_warn(), hiddenkey.attach(model, NOISE):
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            passes(model, batch).loss.backward()
            torch.optim.SGD(trained, lr=0.1).step()
            model.save_pretrained(folder)
            del batch["labels"]
            with torch.no_grad():
                expected[folder] = model.eval()(**batch).logits
        assert not any("hiddenkey" in path.name for path in folder.iterdir())
        assert "hiddenkey" not in (folder / "adapter_config.json").read_text()
        torch.save(batch, folder / "batch.pt")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    for folder, logits in expected.items():
        torch.testing.assert_close(
            torch.load(folder / "logits.pt"), logits, rtol=1e-4, atol=1e-4, msg=folder.name
        )

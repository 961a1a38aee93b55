"""Frozen weights in 4 and 8 bits: with bitsandbytes where it is installed, else with a stand-in."""

import dataclasses
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from hiddenkey import ConfigError
from hiddenkey.cli.main import main
from hiddenkey.lab.plans.identity import Run
from hiddenkey.lab.run import models, quantised
from hiddenkey.lab.run.building import build_model
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import prepare
from hiddenkey.lab.run.training import train

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
IS_INSTALLED = find_spec("bitsandbytes") is not None
BITS = {"4bit": "Params4bit", "8bit": "Int8Params"}


def with_bits(options: TrainOptions, quantize: Any, **changes: Any) -> TrainOptions:
    return dataclasses.replace(options, quantize=quantize, **changes)


# ---------------------------------------------------------------- without the package


@pytest.mark.skipif(IS_INSTALLED, reason="bitsandbytes is installed")
def test_a_missing_package_is_told_before_anything_is_loaded(tiny_options, capsys, monkeypatch):
    monkeypatch.setattr(models, "load_model", None)
    words = ["--train-file", tiny_options.train_file, "--eval-file", tiny_options.eval_file]
    words += ["--task", "file", "--text-columns", "text", "--model", tiny_options.model]
    assert main(["train", *words, "--quantize", "4bit"]) == 2
    said = capsys.readouterr().err
    assert "quantize='4bit' needs package 'bitsandbytes', which is missing; run: pip" in said
    assert "[quantize]" in said


def test_what_cannot_be_quantised_is_refused_together(monkeypatch):
    monkeypatch.setattr(quantised, "find_spec", lambda name: object())
    options = TrainOptions(model="smollm2", adapter="full", quantize="8bit")
    trains, reads = quantised.quantisation_faults(options)
    assert trains.startswith(
        "quantize must be 'none' with adapter 'full', which trains the weights"
    )
    assert reads.endswith("got '8bit'; name a folder of safetensors")
    assert quantised.quantisation_faults(TrainOptions(quantize="8bit")) == []
    (takes,) = quantised.quantisation_faults(TrainOptions(adapter="dora", quantize="8bit"))
    assert takes.startswith("quantize must be '4bit' or 'none' with adapter 'dora'")
    assert quantised.quantisation_faults(TrainOptions(model="a.gguf", adapter="full")) == []


def test_it_is_part_of_what_a_run_is():
    plain = TrainOptions(quantize="none")
    assert len({Run(with_bits(plain, bits), "data").id for bits in ("none", "4bit", "8bit")}) == 3
    assert with_bits(plain, "4bit").recorded()["quantize"] == "4bit"


class _Settings:
    """Stands in for transformers' BitsAndBytesConfig, which asks for the package's version."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields


@pytest.fixture
def stand_in(monkeypatch):
    """Record what ``from_pretrained`` is to quantise, and load the weights as they are."""
    given: list[dict[str, Any]] = []
    load = AutoModelForSequenceClassification.from_pretrained

    def from_pretrained(*names: Any, quantization_config: Any = None, **how: Any) -> Any:
        given.append({} if quantization_config is None else quantization_config.fields)
        return load(*names, **how)

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", from_pretrained)
    monkeypatch.setattr("transformers.BitsAndBytesConfig", _Settings)
    monkeypatch.setattr(quantised, "find_spec", lambda name: object())
    monkeypatch.setattr(quantised, "refuse_unserved_devices", lambda quantize: None)
    monkeypatch.setattr(models, "refuse_unserved_devices", lambda quantize: None)
    return given


def test_the_head_is_never_quantised_and_an_adapter_is_trained(stand_in, tiny_options):
    """transformers would quantise BERT's new head, which is trained."""
    for bits in ("none", "8bit", "4bit"):
        options = with_bits(tiny_options, bits, precision="bfloat16")
        model, _ = build_model(options, prepare(options))
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert {"lora_", "classifier"} == {
            "lora_" if "lora_" in name else name.split(".")[2] for name in trained
        }
    assert stand_in == [
        {},
        {"llm_int8_skip_modules": ["dropout", "classifier"], "load_in_8bit": True},
        {
            "llm_int8_skip_modules": ["dropout", "classifier"],
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": torch.bfloat16,
        },
    ]


def test_a_machine_without_a_device_for_it(monkeypatch, tiny_options, stand_in):
    def refuse(quantize: str) -> None:
        raise ConfigError(f"quantize={quantize!r} needs a device")

    monkeypatch.setattr(models, "refuse_unserved_devices", refuse)
    options = with_bits(tiny_options, "4bit")
    with pytest.raises(ConfigError, match=r"^quantize='4bit' needs a device$"):
        build_model(options, prepare(options))
    assert stand_in == []


# ---------------------------------------------------------------- with it


@pytest.mark.skipif(not IS_INSTALLED, reason="needs bitsandbytes, which is not installed")
@pytest.mark.parametrize(
    ("bits", "adapter"),
    [(b, a) for b in BITS for a in ("lora", "dora", "ia3", "prefix") if (b, a) != ("8bit", "dora")],
)
def test_each_adapter_trains_beside_quantised_weights_also_after_an_evaluation(
    bits, adapter, tiny_options
):
    rank = {"rank": 4} if adapter in ("lora", "dora") else {"rank": TrainOptions.rank}
    options = with_bits(tiny_options, bits, adapter=adapter, evaluations=4, **rank)
    model, _ = build_model(options, prepare(options))
    query = next(p for n, p in model.named_parameters() if "0.attention.self.query" in n)
    assert type(query).__name__ == BITS[bits]
    heads = [m for n, m in model.named_modules() if "classifier" in n and isinstance(m, nn.Linear)]
    assert {type(head) for head in heads} == {nn.Linear}
    inputs = {"input_ids": torch.arange(4, 12).view(2, 4), "labels": torch.tensor([0, 1])}
    with torch.no_grad():
        model.eval()(**inputs)
    model.train()(**inputs).loss.backward()
    marks = ("lora_", "ia3_", "prompt_encoder")
    adapted = [p for n, p in model.named_parameters() if any(mark in n for mark in marks)]
    assert sum(p.grad.norm() for p in adapted) > 0
    result = train(options)
    assert result.steps == 8
    assert result.eval_loss.last < 1.5

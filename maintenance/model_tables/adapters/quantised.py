"""LoRA on bases whose weights are quantised, as far as that runs on a CPU."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch

from model_tables.adapters.bases import TASKS, tiny_model
from model_tables.adapters.recipe import AdapterMethod
from tiny_models import auto_class

# What PEFT trains in full must keep its floating-point weights.
_HEADS = ("lm_head", "classifier")
_WIDTH = 64  # bitsandbytes quantises blocks of 64 weights


# On processors with AVX512-BF16 an evaluation repacks 4-bit weights for good, in a form that gives
# no gradient any more.
_REPACKS = "support_avx512bf16_for_cpu"
_REPACKING = (
    f"with {_REPACKS}=False on its layers, which otherwise do not train after an evaluation"
)


def _bitsandbytes(settings: dict[str, Any], base: str) -> Any:
    """Load a tiny model's weights as transformers quantises them with bitsandbytes."""
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs each conversion
    config = BitsAndBytesConfig(llm_int8_skip_modules=list(_HEADS), **settings)
    with tempfile.TemporaryDirectory() as folder:
        tiny_model(base, _WIDTH).save_pretrained(folder)
        model = auto_class(TASKS[base]).from_pretrained(
            folder, quantization_config=config, device_map="cpu", dtype=torch.float32
        )
    for module in model.modules():
        if hasattr(module, _REPACKS):
            setattr(module, _REPACKS, False)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False).train()


def _torchao(name: str, settings: dict[str, Any], base: str) -> Any:
    """Quantise a tiny model's linear layers with torchao."""
    quantization = import_module("torchao.quantization")

    def is_wanted(module: torch.nn.Module, path: str) -> bool:
        return isinstance(module, torch.nn.Linear) and not path.endswith(_HEADS)

    model = tiny_model(base, _WIDTH)
    quantization.quantize_(model, getattr(quantization, name)(**settings), filter_fn=is_wanted)
    return model


def _method(
    variant: str, package: str, base_model: Callable[[str], Any], note: str = ""
) -> AdapterMethod:
    return AdapterMethod("LORA", f"on {variant}", base_model=base_model, needs=package, note=note)


def _four_bit(**settings: Any) -> Callable[[str], Any]:
    fields = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32, **settings}
    return partial(_bitsandbytes, fields)


QUANTISED = (
    _method("bitsandbytes nf4", "bitsandbytes", _four_bit(bnb_4bit_quant_type="nf4"), _REPACKING),
    _method(
        "bitsandbytes fp4, scales quantised too",
        "bitsandbytes",
        _four_bit(bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True),
        _REPACKING,
    ),
    _method("bitsandbytes int8", "bitsandbytes", partial(_bitsandbytes, {"load_in_8bit": True})),
    _method("torchao int8 weights", "torchao", partial(_torchao, "Int8WeightOnlyConfig", {})),
    _method(
        "torchao int8 weights and activations",
        "torchao",
        partial(_torchao, "Int8DynamicActivationInt8WeightConfig", {}),
    ),
    _method(
        "torchao int4 weights",
        "torchao",
        partial(_torchao, "Int4WeightOnlyConfig", {"group_size": 32}),
    ),
)

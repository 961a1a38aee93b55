"""Frozen weights in 4 or 8 bits, by bitsandbytes, beside an adapter that is trained.

4 bits are those of QLoRA (arXiv 2305.14314): normal floats whose scales are quantised too. 8 bits
are those of LLM.int8() (arXiv 2208.07339). Heads, norms and embeddings keep their precision.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from hiddenkey.errors import ConfigError
from hiddenkey.installation import install_command
from hiddenkey.lab.assets import BUNDLED_MODELS

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from hiddenkey.lab.run.options import TrainOptions

Quantize = Literal["none", "4bit", "8bit"]

BYTES: Final = {"4bit": 0.516, "8bit": 1.0}
"""Bytes of a quantised weight; in 4 bits, 64 weights share a scale of 8 bits."""

# An evaluation on processors with AVX512-BF16 repacks 4-bit weights for good, in a form that gives
# no gradient any more.
_REPACKS: Final = "support_avx512bf16_for_cpu"


def quantisation_faults(options: TrainOptions) -> list[str]:
    """Return why the weights cannot be quantised, before anything is loaded."""
    if options.quantize == "none":
        return []
    faults = []
    if options.adapter == "full":
        faults.append(
            f"quantize must be 'none' with adapter 'full', which trains the weights themselves, got"
            f" {options.quantize!r}; take another adapter"
        )
    if options.adapter == "dora" and options.quantize == "8bit":
        faults.append(
            "quantize must be '4bit' or 'none' with adapter 'dora', since PEFT's DoRA takes the"
            " scales of 8-bit weights away, got '8bit'; change one of them"
        )
    bundled = BUNDLED_MODELS.get(options.model)
    if Path(options.model).suffix.lower() == ".gguf" or (bundled and bundled.gguf):
        faults.append(
            f"quantize must be 'none' with model {options.model!r}, whose file is quantised (GGUF)"
            f" and read at full precision, got {options.quantize!r}; name a folder of safetensors"
        )
    return faults + _missing(options.quantize)


def refuse_unserved_devices(quantize: Quantize) -> None:
    """Refuse to go on where bitsandbytes is missing or serves no device of this machine.

    Raises:
        ConfigError: if so.
    """
    if missing := _missing(quantize):
        raise ConfigError(missing)
    from transformers.integrations.bitsandbytes import validate_bnb_backend_availability

    if not validate_bnb_backend_availability(raise_exception=False):
        raise ConfigError(
            f"quantize={quantize!r} needs a device that the installed bitsandbytes serves, this"
            " machine has none; install a newer one, or leave it out"
        )


def loading_arguments(
    auto: Any, config: PretrainedConfig, quantize: Quantize, precision: str, *, trusted: bool
) -> dict[str, Any]:
    """Return what ``from_pretrained`` takes to quantise the linear layers below the head.

    Args:
        auto: transformers' class that loads the model.
        config: of the model.
        quantize: the number format; ``none`` returns nothing.
        precision: number format that is computed in, ``float32`` or ``bfloat16``.
        trusted: whether to run code that the model brings along.
    """
    if quantize == "none":
        return {}
    import torch
    from transformers import BitsAndBytesConfig

    with torch.device("meta"):
        shape = auto.from_config(config, trust_remote_code=trusted)
    # a new head is trained, and transformers leaves only some classifiers' alone
    heads = [name for name, _ in shape.named_children() if name != shape.base_model_prefix]
    bits: dict[str, Any] = {"load_in_8bit": True}
    if quantize == "4bit":
        bits = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": getattr(torch, precision),
        }
    return {"quantization_config": BitsAndBytesConfig(llm_int8_skip_modules=heads, **bits)}


def prepare_quantised(model: PreTrainedModel) -> PreTrainedModel:
    """Freeze a quantised model, its other weights in float32, for an adapter to be put on."""
    from peft import prepare_model_for_kbit_training

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs each conversion
    for module in model.modules():
        if hasattr(module, _REPACKS):
            setattr(module, _REPACKS, False)
    prepared: PreTrainedModel = prepare_model_for_kbit_training(
        model, use_gradient_checkpointing=False
    )
    return prepared


def _missing(quantize: str) -> list[str]:
    if find_spec("bitsandbytes") is not None:
        return []
    return [
        f"quantize={quantize!r} needs package 'bitsandbytes', which is missing; run:"
        f" {install_command('quantize')}"
    ]

"""Every adapter of the installed PEFT, as small as it goes.

A method is the fields of a configuration and, for a few, what PEFT wants done around
``get_peft_model``. Types that a later PEFT brings along are found by themselves and tried with
their defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from model_tables.adapters.bases import EMBEDDINGS, LINEARS, seeded, tiny_model
from model_tables.adapters.lora import LORA_VARIANTS
from model_tables.adapters.quantised import QUANTISED
from model_tables.adapters.recipe import AdapterMethod, Settings

_TASKS = {"task_ids": torch.tensor([0, 1, 0, 1])}
# Also on an encoder-decoder: what works on projections, and what hands prompts to both halves.
_ENCODER_DECODER = (
    "LORA",
    "ADALORA",
    "IA3",
    "PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
)
_NORMS = {"llama": r".*layernorm", "bert": r".*LayerNorm", "gpt2": r".*\.ln_[12]"}


def _xlora(base: str, folder: Path) -> dict[str, Any]:
    """Two saved LoRA adapters, which X-LoRA mixes."""
    from peft import LoraConfig, get_peft_model

    adapters = {}
    for index in range(2):
        config = LoraConfig(r=2, target_modules=LINEARS[base], init_lora_weights=False)
        with seeded(index):
            get_peft_model(tiny_model(base), config).save_pretrained(str(folder / f"{index}"))
        adapters[str(index)] = str(folder / f"{index}")
    return {"adapters": adapters, "hidden_size": 32, "xlora_depth": 1}


_RECIPES: dict[str, Settings] = {
    "ADALORA": {"init_r": 4, "target_r": 2, "total_step": 10},
    "ADAPTION_PROMPT": {"adapter_len": 3, "adapter_layers": 2, "target_modules": None},
    "C3A": {"block_size": 8},
    "CPT": {
        "num_virtual_tokens": 4,
        "cpt_token_ids": [3, 4, 5, 6],
        "cpt_mask": [1, 1, 1, 1],
        "cpt_tokens_type_mask": [1, 2, 3, 4],
    },
    "FOURIERFT": {"n_frequency": 20},
    "FROD": {"progressbar": False},
    "LN_TUNING": lambda base, _: {"target_modules": _NORMS[base]},
    "MULTITASK_PROMPT_TUNING": {"num_tasks": 2},
    "OFT": {"r": 0, "oft_block_size": 8},
    "POLY": {"n_tasks": 2, "n_skills": 2},
    "ROAD": {"group_size": 8},
    "SHADOW": {"target_modules": None, "r": 4},
    "TRAINABLE_TOKENS": lambda base, _: {
        "token_indices": [3, 4, 5, 6, 7],
        "target_modules": [EMBEDDINGS[base]],
    },
    "VBLORA": {"vector_length": 8, "num_vectors": 16},
    "WAVEFT": {"n_frequency": 20},
    "XLORA": _xlora,
}
_INPUTS = dict.fromkeys(("MULTITASK_PROMPT_TUNING", "POLY"), _TASKS)
_VARIANTS = (
    AdapterMethod("BOFT", "two factors", {"boft_block_size": 4, "boft_n_butterfly_factor": 2}),
    AdapterMethod("OFT", "coft", {"r": 0, "oft_block_size": 8, "coft": True}),
    AdapterMethod("P_TUNING", "LSTM", {"encoder_reparameterization_type": "LSTM"}),
    AdapterMethod(
        "PREFIX_TUNING", "projection", {"prefix_projection": True, "encoder_hidden_size": 16}
    ),
    AdapterMethod("MISS", "bat", {"init_weights": "bat"}),
    AdapterMethod("LOKR", "dropout 0.2", {"rank_dropout": 0.2, "module_dropout": 0.2}),
    AdapterMethod("HRA", "orthogonalised", {"apply_GS": True}),
)


def all_methods() -> list[AdapterMethod]:
    """Return a method for each ``PeftType`` of the installed PEFT, and the variants after it."""
    from peft import PeftType

    found = []
    for kind in PeftType:
        name = str(kind.value)
        bases = ("llama", "bert", "bart") if name in _ENCODER_DECODER else ("llama", "bert")
        settings, inputs = _RECIPES.get(name, {}), _INPUTS.get(name)
        found.append(AdapterMethod(name, settings=settings, bases=bases, inputs=inputs))
        found += [m for m in (*LORA_VARIANTS, *QUANTISED, *_VARIANTS) if m.peft_type == name]
    return found

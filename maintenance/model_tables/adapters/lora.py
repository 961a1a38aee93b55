"""LoRA's variants and initialisations, and what else its configuration can do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_tables.adapters.bases import EMBEDDINGS, LINEARS, tiny_batch
from model_tables.adapters.recipe import AdapterMethod, Settings

_HEADS = {"llama": "lm_head", "bert": "classifier"}
_KEY_VALUE = {"llama": ["k_proj", "v_proj"], "bert": ["key", "value"]}
_DECODERS = ("llama",)
_LOFTQ = {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 1}}


def _corda(model: Any, config: Any, batch: Mapping[str, Tensor]) -> None:
    from peft.tuners.lora.corda import preprocess_corda

    def run() -> None:
        with torch.no_grad():
            for row in batch["input_ids"]:  # CorDA takes one sequence at a time
                model(row[None])

    preprocess_corda(model, config, run_model=run)


def _lora_ga(model: Any, config: Any, batch: Mapping[str, Tensor]) -> None:
    from peft.tuners.lora.loraga import preprocess_loraga

    preprocess_loraga(model, config, train_step=lambda: model(**batch).loss.backward())


def _eva(model: Any, config: Any, batch: Mapping[str, Tensor]) -> None:
    from peft import initialize_lora_eva_weights

    ids = batch["input_ids"]
    batches = [
        {"input_ids": (ids + i) % 50 + 3, "attention_mask": batch["attention_mask"]}
        for i in range(4)
    ]
    initialize_lora_eva_weights(model, batches, show_progress_bar=False)


def _alora(base: str, folder: Path) -> dict[str, Any]:
    return {"alora_invocation_tokens": tiny_batch(base)["input_ids"][0, 2:4].tolist()}


def _sub_config(name: str, **fields: Any) -> Any:
    from peft.tuners.lora import config

    return getattr(config, name)(**fields)


def _with_head_and_embeddings(base: str, folder: Path) -> dict[str, Any]:
    linears = LINEARS[base].removeprefix(r".*\.")
    return {"target_modules": rf".*({EMBEDDINGS[base]}|{_HEADS[base]}|{linears})"}


def _lora(variant: str, settings: Settings | None = None, **more: Any) -> AdapterMethod:
    return AdapterMethod("LORA", variant, settings or {}, **more)


LORA_VARIANTS = (
    _lora("on Conv1D", bases=("gpt2",)),
    _lora("DoRA", {"use_dora": True}),
    _lora("rsLoRA", {"use_rslora": True}),
    _lora("PiSSA", {"init_lora_weights": "pissa"}),
    _lora("PiSSA, fast SVD", {"init_lora_weights": "pissa_niter_4"}),
    _lora("OLoRA", {"init_lora_weights": "olora"}),
    _lora("Gaussian", {"init_lora_weights": "gaussian"}),
    _lora("orthogonal", {"init_lora_weights": "orthogonal"}),
    _lora("EVA", {"init_lora_weights": "eva"}, after=_eva),
    _lora("LoftQ", _LOFTQ, needs="bitsandbytes"),
    _lora(
        "CorDA",
        lambda *_: {
            "init_lora_weights": "corda",
            "corda_config": _sub_config("CordaConfig", corda_method="kpm", verbose=False),
        },
        before=_corda,
    ),
    _lora(
        "LoRA-GA",
        lambda *_: {
            "init_lora_weights": "lora_ga",
            "lora_ga_config": _sub_config("LoraGAConfig"),
        },
        before=_lora_ga,
    ),
    _lora("MiCA", {"init_lora_weights": "mica"}),
    _lora("KaSA", lambda *_: {"kasa_config": _sub_config("KasaConfig")}),
    _lora("VeLoRA", lambda *_: {"velora_config": _sub_config("VeloraConfig", num_groups=4)}),
    _lora("MonteCLoRA", lambda *_: {"monteclora_config": _sub_config("MontecloraConfig")}),
    _lora(
        "BD-LoRA",
        lambda *_: {
            "use_bdlora": _sub_config(
                "BdLoraConfig", target_modules_bd_a=["q_proj"], nblocks=2, match_strict=False
            )
        },
        bases=_DECODERS,
    ),
    _lora("QALoRA", {"use_qalora": True, "qalora_group_size": 8}),
    _lora("aLoRA", _alora, bases=_DECODERS),
    _lora("own dropout 0.3", {"lora_dropout": 0.3}),
    _lora("bias", {"bias": "all", "lora_bias": True}),
    _lora(
        "patterns of rank and layer",
        lambda base, _: {
            "target_modules": _KEY_VALUE[base],
            "rank_pattern": {_KEY_VALUE[base][1]: 2},
            "layers_to_transform": [1],
        },
    ),
    _lora("on embeddings and head", _with_head_and_embeddings),
    _lora(
        "trained tokens",
        lambda base, _: {"trainable_token_indices": {EMBEDDINGS[base]: [3, 4, 5, 6]}},
    ),
    _lora(
        "head and embeddings saved",
        lambda base, _: {"modules_to_save": [_HEADS[base], EMBEDDINGS[base]]},
    ),
)

"""Tiny random models of a few architectures, for checks that train in a second.

Nothing but torch and transformers is needed, and both are imported when a model is built.
"""

from __future__ import annotations

from typing import Any, Final

AUTO_CLASSES: Final = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "IMAGE": "AutoModelForImageClassification",
}
"""Transformers' class for each task; all but the last are PEFT's names."""
VOCABULARY: Final = 60
FIRST_WORD: Final = 3
"""The ids before it are special tokens."""
CLASSES: Final = 3
_LAYERS, _HEADS, _POSITIONS = 2, 4, 48


def tiny_model(
    kind: str, task: str, *, width: int = 32, attention: str | None = None, **settings: Any
) -> Any:
    """Build a model of two layers in training mode from PyTorch's global generator.

    Args:
        kind: one of bert, llama, gemma2, gpt2, bart, vit.
        task: a key of :data:`AUTO_CLASSES`.
        width: of its hidden states.
        attention: the attention implementation; ``None``: the one that transformers chooses.
        settings: further fields of its configuration.
    """
    from transformers import AutoConfig

    config = AutoConfig.for_model(kind, **{**_sizes(kind, width), **settings})
    config.num_labels = CLASSES
    chosen = {"attn_implementation": attention} if attention else {}
    return auto_class(task).from_config(config, **chosen).train()


def auto_class(task: str) -> Any:
    """Return transformers' class that builds and loads models for a task."""
    import transformers

    return getattr(transformers, AUTO_CLASSES[task])


def _sizes(kind: str, width: int) -> dict[str, Any]:
    """The fields of a configuration, under the names that the architecture has for them."""
    words = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    body = {
        "hidden_size": width,
        "num_attention_heads": _HEADS,
        "num_hidden_layers": _LAYERS,
        "intermediate_size": 2 * width,
        "initializer_range": 0.2,  # weights wide enough for noise to be felt
    }
    if kind == "vit":
        return {**body, "image_size": 8, "patch_size": 2}
    if kind == "gpt2":
        sizes = {"n_embd": width, "n_head": _HEADS, "n_layer": _LAYERS, "n_positions": _POSITIONS}
        return {**words, **sizes, "initializer_range": 0.2}
    positions = {"max_position_embeddings": _POSITIONS}
    if kind == "bart":
        # its dropout is given as numbers of its modules, which would pass for draws of an adapter
        own = {"d_model": width, "init_std": 0.2, "dropout": 0.0, "decoder_start_token_id": 0}
        for half in ("encoder", "decoder"):
            own |= {f"{half}_layers": _LAYERS, f"{half}_attention_heads": _HEADS}
            own |= {f"{half}_ffn_dim": 2 * width}
        return {**words, **own, **positions}
    heads = {} if kind == "bert" else {"num_key_value_heads": 2, "head_dim": width // _HEADS}
    return {**words, **body, **positions, **heads}

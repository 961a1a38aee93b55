"""Models in the format GGUF: what reading them needs, and their conversion."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hiddenkey.errors import ConfigError
from hiddenkey.installation import install_command

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def need_reader(what: str) -> None:
    """Refuse a model in the format GGUF where the package that reads it is missing.

    Args:
        what: the model, for the message.

    Raises:
        ConfigError: with the command that installs the package.
    """
    if find_spec("gguf") is None:
        raise ConfigError(
            f"{what} is in the format GGUF, package 'gguf' is missing; run:"
            f" {install_command('gguf')}"
        )


def forget_quantisation(model: PreTrainedModel) -> None:
    """GGUF's weights are ordinary numbers once they are read, yet Trainer would refuse them."""
    model.is_quantized = False
    for name in ("hf_quantizer", "quantization_method"):
        vars(model).pop(name, None)
    vars(model.config).pop("quantization_config", None)


def convert(file: Path, folder: Path) -> None:
    """Save a causal language model and its tokenizer as transformers does, in float32.

    Args:
        file: in the format GGUF.
        folder: that is written.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(**source)
    forget_quantisation(model)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)

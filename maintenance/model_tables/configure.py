"""The tiny configuration of a type for a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from model_tables.batch import LABELS
from model_tables.exceptions import COMPOSITES
from model_tables.model_types import Task
from model_tables.shrink import shrink
from model_tables.sizes import IMAGE

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def small_config(model_type: str, task: Task, *, fill: bool = False) -> PretrainedConfig:
    """Return the tiny configuration of a type for a task.

    Args:
        model_type: transformers' name of the architecture.
        task: what it is built for.
        fill: give a small size also to the fields that have none by default.
    """
    from transformers import CONFIG_MAPPING

    made = COMPOSITES.get(model_type)
    config = shrink(CONFIG_MAPPING[model_type](), fill=fill) if made is None else made()
    return _for_task(config, task)


def default_config(model_type: str, task: Task) -> PretrainedConfig:
    """Return the whole configuration of a type, for an image model whose sizes are tied."""
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[model_type]()
    if isinstance(getattr(config, "image_size", None), list | tuple):
        config.image_size = IMAGE
    return _for_task(config, task)


def _for_task(config: PretrainedConfig, task: Task) -> PretrainedConfig:
    if task in ("classification", "image"):
        config.num_labels = LABELS
        config.problem_type = "single_label_classification"
    for part in _parts(config):
        if getattr(part, "pad_token_id", None) is None:
            part.pad_token_id = 0
        if part.is_encoder_decoder and getattr(part, "decoder_start_token_id", None) is None:
            part.decoder_start_token_id = 0
        if task == "causal" and getattr(part, "is_decoder", None) is False:
            part.is_decoder = True
        if hasattr(part, "use_cache"):
            part.use_cache = False
    return config


def _parts(config: PretrainedConfig) -> list[PretrainedConfig]:
    """Return a configuration and those within it."""
    within = [getattr(config, name, None) for name in config.sub_configs]
    return [config, *(part for part in within if hasattr(part, "to_dict"))]


def part_for(kind: Any, config: PretrainedConfig) -> PretrainedConfig:
    """Return the part of a configuration that a class is built from, often the text part."""
    fitting = [part for part in _parts(config) if type(part) is kind.config_class]
    return fitting[0] if fitting else config

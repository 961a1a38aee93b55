"""Whether texts fit a model's positions; from its ``config.json`` before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hiddenkey.errors import ConfigError
from hiddenkey.lab.assets import BUNDLED_MODELS, locate
from hiddenkey.lab.tasks import TASKS

if TYPE_CHECKING:
    from hiddenkey.lab.run.options import TrainOptions


def position_faults(options: TrainOptions) -> list[str]:
    """Return which lengths no text and no prompt leaves room for, as far as a folder says it.

    Args:
        options: settings of a run. A model on the hub or in GGUF is looked at when it is loaded.
    """
    places, task = _positions(options.model), TASKS.get(options.task)
    if places is None:
        return []
    return too_long(options, places, 1 if task is not None and task.kind == "generation" else None)


def too_long(options: TrainOptions, places: int, prompt: int | None) -> list[str]:
    """Return a sentence for each sum of lengths that is above a model's positions.

    Args:
        options: settings of a run.
        places: positions of the model.
        prompt: tokens of the longest prompt; ``None`` if nothing is generated.
    """
    prefix = {"prefix_tokens": options.prefix_tokens} if options.adapter == "prefix" else {}
    needs = [{**prefix, "max_length": options.max_length}]
    if prompt is not None:
        made = options.max_new_tokens
        needs.append({**prefix, "the longest prompt": prompt, "max_new_tokens": made})
    return [
        f"{' and '.join(need)} must be at most the model's {places} positions together, got"
        f" {' and '.join(map(str, need.values()))}; make one of them smaller"
        for need in needs
        if sum(need.values()) > places
    ]


def _positions(model: str) -> int | None:
    """The positions that the ``config.json`` of a local folder names; ``None`` if it names none."""
    try:
        folder = locate(BUNDLED_MODELS[model]) if model in BUNDLED_MODELS else Path(model)
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        values = values.get("text_config") or values
        name = "n_positions" if values.get("model_type") == "gpt2" else "max_position_embeddings"
        found = values.get(name)
    except (ConfigError, OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, int) and found > 0 else None

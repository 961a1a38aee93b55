"""The name of a run's folder: what the run is, and how its settings differ from the defaults."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_NAMED: Final = ("task", "model", "adapter", "method", "also", "seed", "rates")
_SHORT: Final = {
    "rate": "rate",
    "consistency_weight": "weight",
    "learning_rate": "lr",
    "rank": "rank",
    "epochs": "epochs",
    "max_steps": "steps",
    "batch_size": "batch",
    "max_length": "length",
    "train_size": "n",
    "holdout": "holdout",
}
_UNNAMED: Final = ("data", "train_file", "eval_file", "text_columns")
"""Where the data lies, of which the task or the training file's name says enough."""
_LONGEST_PART: Final = 40


def run_name(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Return a name such as ``sst2-minilm-hiddenkey-rate0.2-lr0.0005-seed0``.

    Settings without a short form stand together as six hexadecimal digits at the end, so that two
    runs with different settings have different names.

    Args:
        settings: of the run, as ``config.yaml`` holds them.
        defaults: of the same settings.
    """
    changed = {name: value for name, value in settings.items() if value != _plain(defaults[name])}
    own = settings["train_file"]
    adapter = [] if settings["adapter"] == "lora" else [settings["adapter"]]
    words = [
        Path(own).stem[:_LONGEST_PART] if own else settings["task"],
        _model(settings["model"]),
        *adapter,
        "+".join((settings["method"], *settings["also"])),
        *(f"{short}{changed[name]:g}" for name, short in _SHORT.items() if changed.get(name)),
        *(f"{position}{rate:g}" for position, rate in settings["rates"].items()),
        f"seed{settings['seed']}",
    ]
    shown = {*_NAMED, *_UNNAMED, *(name for name in _SHORT if changed.get(name))}
    rest = {name: value for name, value in changed.items() if name not in shown}
    if rest:
        words.append(hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:6])
    return re.sub(r"[^\w.+-]+", "_", "-".join(map(str, words)))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _model(name: str) -> str:
    """``user-name`` for a model on the hub, the last part of the path for one in a folder."""
    parts = Path(name).parts
    is_on_hub = len(parts) == 2 and not name.startswith((".", "/"))
    return "-".join(parts) if is_on_hub else Path(name).name[-_LONGEST_PART:]

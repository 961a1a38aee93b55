"""The adapter's folder that a run leaves: the weights, and what whoever loads them has to know.

PEFT's ``adapter_config.json`` names the base model, but neither classes nor lengths.
``hiddenkey_run.json`` has these: the settings of the run, its kind of task and its label names.
Nothing but the name of a base model in a local folder says anything of this machine.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import hiddenkey
from hiddenkey.errors import ConfigError
from hiddenkey.lab.assets import BUNDLED_MODELS
from hiddenkey.lab.run.checkpoints import WEIGHTS
from hiddenkey.lab.run.choice import Used
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import Prepared, model_faults
from hiddenkey.lab.run.stored import build, hints_of
from hiddenkey.lab.tasks import Kind

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RUN: Final = "hiddenkey_run.json"
CARD: Final = "README.md"
LAST: Final = "last"
"""Folder in the adapter's, for the last weights where others are used."""
_PEFT: Final = "adapter_config.json"
_LOCAL: Final = ("data", "train_file", "eval_file", "model")


@dataclass(frozen=True)
class Origin:
    """What ``hiddenkey_run.json`` holds.

    Attributes:
        version: of this package.
        kind: of the task.
        model: bundled name or name on the hub; ``None`` for a local folder or file.
        label_names: names by class index; empty for regression and generation.
        texts: how many texts an example has.
        settings: of the run, without what lies on this machine.
        inference: what of it is used, and the temperature of its predictions.
    """

    version: str
    kind: Kind
    model: str | None
    label_names: tuple[str, ...]
    texts: int
    settings: Mapping[str, Any]
    inference: Used = field(default_factory=Used)

    @classmethod
    def of(cls, options: TrainOptions, prepared: Prepared, used: Used | None = None) -> Origin:
        """Return what is to be known of a run."""
        return cls(
            hiddenkey.__version__,
            prepared.task.kind,
            None if is_local(options.model) else options.model,
            prepared.splits.label_names,
            len(prepared.splits.train[0].texts),
            {n: value for n, value in options.recorded().items() if n not in _LOCAL},
            used or Used(),
        )

    @classmethod
    def load(cls, folder: Path) -> Origin:
        """Read an adapter's folder.

        Raises:
            ConfigError: if it is none that a run left.
        """
        try:
            found: Origin = build(cls, json.loads((folder / RUN).read_bytes()))
            found.options("")
        except FileNotFoundError:
            raise ConfigError(
                f"{folder} must be a run's folder or its adapter's, which holds {RUN}, got none;"
                " name another, or train again where an earlier version trained it"
            ) from None
        except (OSError, ValueError, TypeError, RecursionError) as error:
            reason = f"{folder / RUN} cannot be read ({error}); copy the adapter's folder again"
            raise ConfigError(reason) from error
        return found

    def options(self, model: str) -> TrainOptions:
        """Return the settings of the run, with a base model."""
        hints = hints_of(TrainOptions)
        known = {name: value for name, value in self.settings.items() if name in hints}
        given = {name: build(hints[name], value, f".{name}") for name, value in known.items()}
        return TrainOptions(**{**given, "model": model})


def find_adapter(name: str) -> Path:
    """Return the folder of an adapter, which is fetched if its name on the hub is given.

    Args:
        name: run folder, adapter's folder or name on the hub.

    Raises:
        ConfigError: if there is no such adapter.
    """
    folder = Path(name)
    if folder.is_dir():
        inside = folder / "adapter"
        return inside if inside.is_dir() and not (folder / RUN).is_file() else folder
    if model_faults(name):
        raise ConfigError(
            f"adapter must be a run's folder, its adapter's or a name on the hub, got {name!r}; no"
            " such folder exists, check the path"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name))
    except Exception as error:  # of the network, the name, the cache or the hub's rules
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"adapter {name!r} is no folder and could not be fetched from the hub ({reason}); check"
            " the name and the network"
        ) from error


def base_of(folder: Path, origin: Origin) -> str:
    """Return the base model of an adapter: a bundled name, one on the hub, or a local folder.

    Raises:
        ConfigError: if PEFT's configuration does not name any.
    """
    if origin.model is not None or origin.settings.get("adapter") == "full":
        return origin.model or str(folder)
    path = folder / _PEFT
    try:
        found = json.loads(path.read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); copy the adapter again") from error
    if not isinstance(found, str) or model_faults(found):
        raise ConfigError(
            f"base_model_name_or_path of {path} must be a model's folder or its name on the hub,"
            f" got {found!r}; put the folder back, or write its new place there"
        )
    return found


def is_local(model: str) -> bool:
    """Whether a model is a folder or a file of this machine."""
    return model not in BUNDLED_MODELS and os.path.exists(model)


def public_name(model: str) -> str:
    """Return a model's name on the hub; of a local folder or file its own name, without a path."""
    if model in BUNDLED_MODELS:
        return BUNDLED_MODELS[model].hub or model
    return Path(model).resolve().name if is_local(model) else model


def save(
    options: TrainOptions,
    prepared: Prepared,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    weights: Path | None = None,
    used: Used | None = None,
) -> None:
    """Save what was trained, the tokenizer, the dropout's configuration and the run's settings.

    Args:
        options: the run's settings.
        prepared: its data and dropout.
        model: what was trained.
        tokenizer: its tokenizer.
        folder: where to.
        weights: the checkpoint whose weights are taken in place of the model's.
        used: what the model holds; ``None`` for its last weights.
    """
    for part in (model, tokenizer, prepared.config):
        part.save_pretrained(str(folder))
    if weights is not None:
        for path in folder.glob(WEIGHTS):
            path.unlink()
        for path in weights.glob(WEIGHTS):
            shutil.copy2(path, folder)
    if (folder / _PEFT).is_file():
        # PEFT names the folder that was read: a package's for bundled models, a file's for GGUF
        config = json.loads((folder / _PEFT).read_bytes())
        is_bundled = options.model in BUNDLED_MODELS
        base = public_name(options.model) if is_bundled else options.model
        config["base_model_name_or_path"] = base
        (folder / _PEFT).write_text(json.dumps(config, indent=2), encoding="utf-8")
    origin = dataclasses.asdict(Origin.of(options, prepared, used))
    (folder / RUN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")

"""Experiment trackers: whether they are installed, and what they call a run. Light to import."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hiddenkey.errors import not_one_of

if TYPE_CHECKING:
    from transformers import Trainer

_PROJECT: Final = "hiddenkey"
_PACKAGES: Final = {
    "azure_ml": ("azureml",),
    "clearml": ("clearml",),
    "codecarbon": ("codecarbon",),
    "comet_ml": ("comet_ml",),
    "dagshub": ("dagshub",),
    "dvclive": ("dvclive",),
    "flyte": ("flytekit",),
    "kubeflow": ("kubeflow",),
    "mlflow": ("mlflow",),
    "neptune": ("neptune",),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
"""The trackers that transformers knows, and the packages one of which each needs."""


def tracker_faults(names: Sequence[str]) -> list[str]:
    """Return which trackers there are none of, or whose package is not installed."""
    faults = []
    for name in names:
        packages = _PACKAGES.get(name, ())
        if name in ("none", "all") or any(map(_is_there, packages)):
            continue
        if packages:
            faults.append(
                f"report_to must name installed trackers, got {name!r}, whose package is missing;"
                f" run: pip install {packages[0]}, or leave it out"
            )
        else:
            faults.append(not_one_of("report_to", name, _PACKAGES, "; choose one"))
    return faults


def _is_there(package: str) -> bool:
    """Whether a package is installed; the folder ``wandb`` that W&B leaves behind is none."""
    found = find_spec(package)
    return found is not None and (found.origin is not None or package == "azureml")


def name_logs(trainer: Trainer, name: str) -> None:
    """Let all trackers of a training show a name that a person reads.

    TensorBoard calls a run what its folder is called, so that the folder gets the name.

    Args:
        trainer: before it trains.
        name: of the run.
    """
    trainer.args.run_name = name
    folder = Path(trainer.args.output_dir) / "tensorboard" / re.sub(r"[^\w ,.+=-]", "_", name)
    for callback in trainer.callback_handler.callbacks:
        if type(callback).__name__ == "TensorBoardCallback" and callback.logging_dir is None:
            callback.logging_dir = str(folder)


@contextmanager
def own_run(names: Sequence[str]) -> Iterator[None]:
    """End the run that a training begins at W&B: the next one of this process gets its own."""
    if "wandb" not in names:
        yield
        return
    os.environ.setdefault("WANDB_PROJECT", _PROJECT)
    begun = getattr(sys.modules.get("wandb"), "run", None)
    try:
        yield
    finally:
        wandb = sys.modules.get("wandb")
        if wandb is not None and begun is None and wandb.run is not None:
            wandb.finish()

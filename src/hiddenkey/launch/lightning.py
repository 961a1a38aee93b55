"""The callback that ``hiddenkey run`` gives to Lightning's Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hiddenkey.errors import AttachError
from hiddenkey.integrations.lightning import HiddenKeyCallback, find_model
from hiddenkey.launch import process
from hiddenkey.launch.record import Record
from hiddenkey.launch.settings import LaunchSettings


class LaunchedCallback(HiddenKeyCallback):
    """Attaches to the model of the first Trainer that trains, and writes the record folder.

    Args:
        settings: what to attach.
        folder: of the record.
    """

    def __init__(self, settings: LaunchSettings, folder: Path) -> None:
        super().__init__(settings.config(), kernel=settings.kernel)  # type: ignore[arg-type]
        self._method, self._folder = settings.method, folder
        self._settings = settings
        self._record: Record | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach where this trainer is the first one."""
        if not process.is_first(trainer):
            return
        _refuse_of_trainer(self._settings)
        super().on_fit_start(trainer, pl_module)
        assert self.attachment is not None
        self._record = process.record_of(self._folder, self._method)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin the record; the data are known now."""
        if self._record is None or self.attachment is None:
            return
        super().on_train_start(trainer, pl_module)
        about = {
            "trainer": type(trainer).__name__,
            "processes": trainer.world_size,
            "examples": _examples(trainer.train_dataloader),
            "eval_examples": _examples(trainer.val_dataloaders),
        }
        self._record.begin(self.attachment, find_model(pl_module), about)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Set the rates, and start the clock."""
        if self._record is not None:
            super().on_train_batch_start(trainer, pl_module, *args)
            self._record.begin_step()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Stop the clock, and log."""
        if self._record is not None:
            self._record.end_step()
            super().on_train_batch_end(trainer, pl_module, *args)

    def read(self, pl_module: Any) -> dict[str, float]:
        """Return the numbers of a log, which the record sees too."""
        parts = super().read(pl_module)
        if self._record is not None:
            self._record.see(parts)
        return parts

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Add a line to the record."""
        if not trainer.sanity_checking:
            self._log(trainer)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Add a line to the record."""
        self._log(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the end of the record, and detach."""
        if self._record is not None and self.attachment is not None and self.reached is not None:
            self.read(pl_module)
            if not self._record.has_line_of(trainer.global_step):
                self._log(trainer)
            self._record.finish(trainer.global_step, self.attachment, self.reached.means())
        super().on_train_end(trainer, pl_module)

    def _log(self, trainer: Any) -> None:
        if self._record is not None:
            epoch = float(trainer.current_epoch)
            self._record.log(trainer.callback_metrics, trainer.global_step, epoch)


def _refuse_of_trainer(settings: LaunchSettings) -> None:
    """Refuse what works under Trainer of transformers alone."""
    if settings.inference != "last":
        raise AttachError(
            f"inference {settings.inference!r} is for Trainer of transformers, got Lightning's;"
            " leave it out, and give Lightning its own callback WeightAveraging"
        )
    if settings.step_cost:
        raise AttachError(
            "step_cost is for Trainer of transformers, got Lightning's; leave it out, or call"
            " attachment.step_cost in the script"
        )


def _examples(loaders: Any) -> int | None:
    """Return the number of examples that one or several data loaders give."""
    if isinstance(loaders, dict | list | tuple):
        parts = loaders.values() if isinstance(loaders, dict) else loaders
        return process.size_of({n: getattr(part, "dataset", None) for n, part in enumerate(parts)})
    return process.size_of(getattr(loaders, "dataset", None))

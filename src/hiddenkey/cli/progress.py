"""What a running training shows: its sites, a bar, and a line per evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hiddenkey.lab.recorder import Observer

if TYPE_CHECKING:
    from hiddenkey import Attachment


class ShownProgress(Observer, TrainerCallback):  # type: ignore[misc]
    """Prints on a console; the bar moves on terminals only."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps,"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=None)

    def attached(self, attachment: Attachment) -> None:
        """Print where the noise acts."""
        for line in attachment.summary():
            self._print(line)

    def evaluated(self, line: Mapping[str, Any]) -> None:
        """Print the values of one evaluation."""
        shown = [f"step {line['step']}", f"epoch {line['epoch']:.4g}"]
        for name, value in line.items():
            measured = name.startswith(("eval_", "train_loss", "consistency_loss"))
            if measured and isinstance(value, float):
                shown.append(f"{name} {value:.4f}")
        shown.append(f"{line['seconds_per_step']:.3f} s/step")
        self._print(", ".join(shown))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the bar."""
        self._bar.update(self._task, total=state.max_steps, completed=state.global_step)
        self._bar.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=state.global_step)

    def stop(self) -> None:
        """Take the bar off the terminal."""
        self._bar.stop()

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

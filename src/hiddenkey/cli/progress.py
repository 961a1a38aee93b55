"""What a running training shows: its sites, a bar, and a line per evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hiddenkey.cli.terminal import progress_bar, say
from hiddenkey.lab.run.calibration import CALIBRATION
from hiddenkey.lab.run.recorder import Observer

if TYPE_CHECKING:
    from hiddenkey import Attachment


_SAMPLES = 3


class ShownProgress(Observer, TrainerCallback):  # type: ignore[misc]
    """Prints on a console; the bar moves on terminals only."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = progress_bar(console, TimeRemainingColumn(), transient=True)
        self._task = self._bar.add_task("training", total=None)

    def damaged(self, said: str) -> None:
        """Print it."""
        self._print(said)

    def attached(self, attachment: Attachment) -> None:
        """Print where units are dropped."""
        for line in attachment.summary():
            self._print(line)

    def cut(self, count: int, whole: int, length: int) -> None:
        """Print it."""
        self._print(
            f"{count:,} of {whole:,} training examples reach max_length, {length} tokens: what lies"
            " beyond is cut"
        )

    def evaluated(self, line: Mapping[str, Any]) -> None:
        """Print the values of one evaluation."""
        shown = [f"step {line['step']}", f"epoch {line['epoch']:.4g}"]
        for name, value in line.items():
            measured = name.startswith(("eval_", "train_loss", "consistency_loss"))
            if measured and isinstance(value, float) and not name.endswith(CALIBRATION):
                shown.append(f"{name} {value:.4f}")
        shown.append(f"{line['seconds_per_step']:.3f} s/step")
        self._print(", ".join(shown))

    def generating(self, count: int) -> None:
        """Let the bar count texts."""
        self._bar.update(self._task, description="generating", total=count, completed=0)

    def generated(self, count: int) -> None:
        """Move the bar."""
        self._bar.advance(self._task, count)

    def scored(self, texts: Sequence[Mapping[str, Any]], scores: Mapping[str, Any]) -> None:
        """Print the first texts, the scores of groups and what could not be scored."""
        for text in texts[:_SAMPLES]:
            self._print(f"prompt     {text['prompt']}\n  output     {text['output']}")
            self._print(f"  reference  {text['references'][0]}")
        if "note" in scores:
            self._print(scores["note"])
        others = ("all", "skipped", "note")
        groups = {name: found for name, found in scores.items() if name not in others}
        for name, found in groups.items():
            shown = ", ".join(f"{metric} {value:.4f}" for metric, value in found.items())
            self._print(f"{name}: {shown}")
        for name, reason in scores["skipped"].items():
            self._print(f"{name}: skipped, {reason}")

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
        say(self._console, text)

"""transformers' Trainer with a callback, which attaches for the length of a training."""

from typing import Any

from transformers import Trainer, TrainingArguments

from hiddenkey.integrations.callback import HiddenKeyCallback
from tiny import classifier, collate, rows


def main() -> list[dict[str, Any]]:
    """Train for a few steps and return the logs."""
    arguments = TrainingArguments(
        "runs/examples", max_steps=8, logging_steps=2, save_strategy="no", report_to="none"
    )
    trainer = Trainer(
        model=classifier(),
        args=arguments,
        train_dataset=rows(),
        data_collator=collate,
        callbacks=[HiddenKeyCallback("hiddenkey", rate=0.1)],
    )
    trainer.train()
    return trainer.state.log_history


if __name__ == "__main__":
    main()

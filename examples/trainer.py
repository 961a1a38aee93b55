"""transformers' Trainer, with label smoothing and a rate that grows and falls."""

from typing import Any

from transformers import Trainer, TrainingArguments

import hiddenkey
from hiddenkey.integrations.trainer import watch
from tiny import classifier, collate, rows


def main() -> list[dict[str, Any]]:
    """Train for a few steps and return the logs."""
    model = classifier()
    attachment = hiddenkey.attach(model, "hiddenkey")
    print(attachment)
    arguments = TrainingArguments(
        "runs/examples",
        max_steps=8,
        logging_steps=2,
        label_smoothing_factor=0.1,
        save_strategy="no",
        report_to="none",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows(), data_collator=collate)
    # without the last argument the rate stays as it is
    watch(trainer, attachment, hiddenkey.RateSchedule(warmup=0.25, decay="cosine"))
    trainer.train()
    return trainer.state.log_history


if __name__ == "__main__":
    main()

"""transformers' Seq2SeqTrainer: keys fall in the self- and cross-attention of a T5."""

from typing import Any

from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

import hiddenkey
from hiddenkey.integrations.trainer import watch
from tiny import collate, encoder_decoder, sequence_rows


def main() -> list[dict[str, Any]]:
    """Train for a few steps and return the logs."""
    model = encoder_decoder()
    attachment = hiddenkey.attach(model, "hiddenkey")
    print(attachment)
    arguments = Seq2SeqTrainingArguments(
        "runs/examples",
        max_steps=4,
        logging_steps=2,
        save_strategy="no",
        predict_with_generate=True,
        report_to="none",
    )
    trainer = Seq2SeqTrainer(
        model=model,
        args=arguments,
        train_dataset=sequence_rows(),
        eval_dataset=sequence_rows(8),
        data_collator=collate,
    )
    watch(trainer, attachment)
    trainer.train()
    trainer.evaluate(max_length=12)  # the model's own, without noise
    return trainer.state.log_history


if __name__ == "__main__":
    main()

"""TRL's SFTTrainer, whose own loss ``watch`` replaces by the model's."""

from typing import Any

from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

import hiddenkey
from hiddenkey.integrations.trainer import watch
from tiny import language_model, sequence_rows


def main() -> list[dict[str, Any]]:
    """Train for a few steps and return the logs."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 100)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="w3")),
        pad_token="<pad>",
        eos_token="</s>",
    )
    arguments = SFTConfig(
        "runs/examples",
        max_steps=4,
        logging_steps=2,
        bf16=False,
        save_strategy="no",
        report_to="none",
    )
    trainer = SFTTrainer(
        language_model(),
        args=arguments,
        train_dataset=Dataset.from_list(
            [{"input_ids": r["input_ids"].tolist()} for r in sequence_rows()]
        ),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]),
    )
    attachment = hiddenkey.attach(trainer.model, "hiddenkey")  # the trainer's, with its adapter
    print(attachment)
    watch(trainer, attachment)
    trainer.train()
    return trainer.state.log_history


if __name__ == "__main__":
    main()

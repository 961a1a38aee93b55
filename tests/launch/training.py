"""A training script that knows nothing of hiddenkey, nor of the tests' models.

It trains as many Trainers as its second argument says, evaluates, and ends with the third one.
"""

import sys

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 64, "vocab_size": 60, "initializer_range": 0.2, "num_labels": 3}


def rows(count: int) -> list[dict[str, torch.Tensor]]:
    """Return token sequences with a class each."""
    tokens = torch.randint(3, 60, (count, 9), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": each, "labels": each.sum() % 3} for each in tokens]


def main(folder: str, trainers: str = "1", status: str = "0") -> int:
    """Train, and return the status."""
    arguments = TrainingArguments(
        folder, max_steps=4, eval_strategy="steps", eval_steps=2, logging_steps=2, seed=5,
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
        per_device_train_batch_size=4,
    )  # fmt: skip
    for _ in range(int(trainers)):
        set_seed(3)
        model = BertForSequenceClassification(BertConfig(**SIZES))
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "value" in name or "classifier" in name
        trainer = Trainer(model, arguments, train_dataset=rows(48), eval_dataset=rows(8))
        trainer.train()
    trainer.evaluate()
    return int(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""A tiny Trainer on random data, its logs and its weights."""

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from models import batch

_OF_THE_TRAINER = ("compute_loss_func", "data_collator", "train_dataset", "callbacks", "model_init")


def examples(task: str, count: int, tokens: int = 9) -> list[dict]:
    inputs = batch(task, "right", size=count, tokens=tokens)
    return [{name: value[row] for name, value in inputs.items()} for row in range(count)]


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def arguments(folder: Path, **settings: Any) -> dict[str, Any]:
    """Return settings of a short run that writes nothing and logs every step."""
    defaults = {
        "output_dir": str(folder),
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "learning_rate": 1e-2,
        "optim": "sgd",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 5,
        "dataloader_pin_memory": False,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
    }
    return {**defaults, **settings}


def tiny_trainer(
    model: Any, folder: Path, task: str = "classification", *, kind: Any = Trainer, **settings: Any
) -> Any:
    """Build a Trainer; settings that TrainingArguments does not know are the Trainer's own."""
    own = {name: settings.pop(name) for name in _OF_THE_TRAINER if name in settings}
    return kind(
        model=model,
        args=TrainingArguments(**arguments(folder, **settings)),
        **{
            "train_dataset": examples(task, 48),
            "eval_dataset": examples(task, 8),
            "data_collator": collate,
            **own,
        },
    )


def logs(trainer: Any) -> list[dict]:
    return [log for log in trainer.state.log_history if "loss" in log]


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def assert_same_weights(one: dict, two: dict, **tolerances: Any) -> None:
    assert one.keys() == two.keys()
    assert one
    for name in one:
        torch.testing.assert_close(two[name], one[name], msg=name, **tolerances)

"""What a run trains with: the model with its adapter, and transformers' Trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

import hiddenkey
from hiddenkey.lab.run.adapters import add_adapter, load_precision
from hiddenkey.lab.run.calibration import calibration
from hiddenkey.lab.run.encoding import collator, encode, prompt_of
from hiddenkey.lab.run.models import load_model, refuse_long_texts
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import Prepared
from hiddenkey.lab.run.recorder import DEV, TRAIN
from hiddenkey.lab.run.sharpness import trainer_of
from hiddenkey.lab.scores.metrics import score
from hiddenkey.lab.tasks import Task
from hiddenkey.lab.tasks.sampling import draw


def build_model(
    options: TrainOptions, prepared: Prepared
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Return the model with what is trained of it, its new weights from the seed; and a tokenizer.

    Raises:
        ConfigError: if there is no such model, or it cannot take the adapter.
    """
    set_seed(options.seed)
    kind, names = prepared.task.kind, prepared.splits.label_names
    loaded, tokenizer = load_model(
        options.model,
        kind,
        names,
        load_precision(options),
        quantize=options.quantize,
        trusted=options.trust_remote_code,
    )
    judged = prepared.splits.evaluation if kind == "generation" else ()
    prompts = [prompt_of(each, tokenizer) for each in judged]
    refuse_long_texts(loaded, tokenizer, options, prompts)
    return add_adapter(loaded, options, kind), tokenizer


def build_trainer(
    options: TrainOptions,
    prepared: Prepared,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    checkpoints: Path,
) -> Trainer:
    """Return Trainer for these options; it evaluates on ``dev`` and on part of ``train``.

    The part is as large as the evaluation set, or all of the training set, and drawn once: its loss
    without dropout, next to that of the evaluation set, gives the generalisation gap.
    """
    task, splits = prepared.task, prepared.splits
    trained = prepared.trained
    sample = draw(trained, len(splits.evaluation), options.data_seed, task.kind)
    arguments = _arguments(options, prepared.config, checkpoints)
    trainer = trainer_of(options, arguments)(
        model=model,
        data_collator=collator(tokenizer, task.kind),
        train_dataset=encode(trained, tokenizer, options.max_length, task.kind),
        eval_dataset={
            DEV: encode(splits.evaluation, tokenizer, options.max_length, task.kind),
            TRAIN: encode(sample, tokenizer, options.max_length, task.kind),
        },
        processing_class=tokenizer,
        compute_metrics=None if task.kind == "generation" else _metrics(task),
    )
    trainer.remove_callback(PrinterCallback)
    if task.kind == "generation":
        return trainer
    # Sequence classifiers take any keyword and then ignore num_items_in_batch: their loss is a mean
    # over each forward pass. Trainer would believe it divided by the whole accumulated batch and
    # leave it undivided; told that nothing is accepted, it divides by the accumulation steps.
    trainer.model_accepts_loss_kwargs = False
    return trainer


@dataclass
class TrackedArguments(TrainingArguments):  # type: ignore[misc]
    """Trainer's settings, and among them what trackers shall show of the task and the method."""

    hiddenkey_task: str = ""
    hiddenkey_method: str = ""
    hiddenkey_rate: float | None = None


def _arguments(
    options: TrainOptions, config: hiddenkey.DropoutConfig, checkpoints: Path
) -> TrainingArguments:
    rates = {drop.rate for drop in config.drops}
    return TrackedArguments(
        hiddenkey_task=options.task,
        hiddenkey_method=" + ".join((options.method, *options.also)),
        hiddenkey_rate=rates.pop() if len(rates) == 1 else None,
        project="hiddenkey",
        output_dir=str(checkpoints),
        seed=options.seed,
        data_seed=options.seed,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.scheduler,
        warmup_steps=options.warmup_ratio,
        weight_decay=options.weight_decay,
        neftune_noise_alpha=options.neftune_alpha or None,
        num_train_epochs=options.epochs,
        max_steps=options.max_steps or -1,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.eval_batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        activation_checkpointing=options.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        bf16=options.precision == "bfloat16",
        use_cpu=not torch.accelerator.is_available(),
        eval_strategy="no",  # the Recorder decides, so that the last step is always looked at
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        label_names=["labels"],
        report_to=list(options.report_to) or "none",
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
    )


def _metrics(task: Task) -> Callable[[EvalPrediction], dict[str, float]]:
    def compute(outcome: EvalPrediction) -> dict[str, float]:
        given = outcome.predictions
        outputs = given[0] if isinstance(given, tuple) else given
        if task.kind == "regression":
            return score(task.metrics, outputs.reshape(-1), outcome.label_ids)
        # beside the task's metrics, not among them: they are no better when larger
        found = score(task.metrics, outputs.argmax(-1), outcome.label_ids)
        return {**found, **calibration(outputs, outcome.label_ids)}

    return compute

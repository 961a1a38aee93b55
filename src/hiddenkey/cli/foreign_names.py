"""What settings of transformers, TRL, PEFT and other trainers are called here."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final

_OURS: Final = {
    "learning_rate": "lr max_lr peak_lr",
    "batch_size": "per_device_train_batch_size per_gpu_train_batch_size train_batch_size"
    " micro_batch_size per_device_batch_size",
    "eval_batch_size": "per_device_eval_batch_size per_gpu_eval_batch_size",
    "gradient_accumulation": "gradient_accumulation_steps grad_accum accumulate_grad_batches",
    "gradient_checkpointing": "activation_checkpointing use_gradient_checkpointing",
    "epochs": "num_train_epochs num_epochs max_epochs n_epochs",
    "max_steps": "max_train_steps total_steps num_train_steps",
    "scheduler": "lr_scheduler_type lr_scheduler",
    "warmup_ratio": "warmup lr_warmup_ratio",
    "weight_decay": "wd",
    "neftune_alpha": "neftune_noise_alpha noise_alpha",
    "mixup_alpha": "mixup",
    "sam_rho": "rho sam",
    "model": "model_name_or_path model_name model_id base_model pretrained_model_name_or_path"
    " base_model_name_or_path tokenizer_name",
    "rank": "lora_r lora_rank r peft_lora_r",
    "lora_alpha": "alpha peft_lora_alpha",
    "target_modules": "lora_target_modules lora_target",
    "prefix_tokens": "num_virtual_tokens",
    "adapter": "peft_type peft_method finetuning_type use_peft",
    "adapter dora": "use_dora",
    "eval_file": "validation_file test_file dev_file val_file eval_dataset",
    "train_file": "dataset_path data_path train_dataset",
    "text_columns": "text_column text_column_name dataset_text_field text_field sentence1_key",
    "label_column": "label_column_name target_column label_field",
    "task": "task_name task_type",
    "train_size": "max_train_samples max_train_examples",
    "eval_size": "max_eval_samples max_predict_samples",
    "max_length": "max_seq_length max_seq_len model_max_length block_size cutoff_len"
    " sequence_len max_source_length",
    "precision bfloat16": "bf16 bfloat16 use_bf16",
    "rate": "dropout dropout_rate dropout_prob",
    "seed": "random_seed seed_everything",
    "log_every": "logging_steps log_steps log_interval",
    "report_to": "logger loggers",
    "evaluations": "eval_steps eval_strategy evaluation_strategy save_steps save_strategy",
    "keep best": "load_best_model_at_end",
    "output": "output_dir out_dir run_dir",
    "overwrite": "overwrite_output_dir",
    "resume FOLDER": "resume_from_checkpoint",
    "push_to_hub": "hub_model_id hub_name",
    "beams": "num_beams",
    "no_repeat_ngram": "no_repeat_ngram_size",
    "max_new_tokens": "max_completion_length generation_max_length max_target_length",
}
"""Other names of a setting, or of a setting with a value."""

_NOWHERE: Final = {
    "the weights are not quantised here": "load_in_4bit load_in_8bit use_4bit use_8bit",
    "4-bit weights are nf4, --quantize 4bit": "bnb_4bit_quant_type",
    "a task's data are read by --task and --data, your own files by --train-file": "dataset_name"
    " dataset dataset_config_name dataset_config",
    "float16 is not trained in; take --precision bfloat16": "fp16 float16",
    "the warm-up is a share of the steps, --warmup-ratio": "warmup_steps num_warmup_steps",
    "the optimiser is AdamW": "optim optimizer",
    "gradients are cut at norm 1, as by Trainer": "max_grad_norm gradient_clip_val",
    "every run trains and evaluates": "do_train do_eval do_predict",
    "the best is by the task's main metric": "metric_for_best_model greater_is_better",
    "the last checkpoint is kept, and the best with --keep best": "save_total_limit",
    "an accelerator is used where there is one": "use_cpu no_cuda device",
    "each process holds the whole model": "deepspeed fsdp",
    "examples are not packed": "packing",
}
"""What has no setting here, and why."""

_BY_NAME: Final = {other: ours for ours, others in _OURS.items() for other in others.split()}
_REASONS: Final = {other: why for why, others in _NOWHERE.items() for other in others.split()}


def known_elsewhere(
    name: str, names: Collection[str], belongs: Callable[[str], str] = lambda key: ""
) -> str:
    """Return what to write for another trainer's setting, as the end of a sentence, or nothing.

    Args:
        name: the setting, with hyphens or underscores.
        names: the command's settings.
        belongs: says where a setting belongs that is none of them; nothing where it does not know.
    """
    plain = name.replace("-", "_")
    ours = _BY_NAME.get(plain, "")
    if "quantize" in names and re.fullmatch("(load_in|use)_[48]bit", plain):
        ours = f"quantize {re.sub('[^48]', '', plain)}bit"
    key, _, value = ours.partition(" ")
    if key in names:
        return f"; here it is --{' '.join((key.replace('_', '-'), value)).strip()}"
    if key and f"{key}s" in names:
        return f"; here it is --{key.replace('_', '-')}s"
    if key and (place := belongs(key)):
        return f"; here it is {key}, which {place}"
    is_training = "learning_rate" in names or belongs("learning_rate")
    return f"; {_REASONS[plain]}" if is_training and plain in _REASONS else ""

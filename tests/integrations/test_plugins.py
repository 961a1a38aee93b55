"""Plugins of trainers that are not installed here, called as these call them.

Axolotl's own base class is taken where it can be imported.
"""

import importlib

import pytest
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

from hiddenkey import ConfigError, Inference
from hiddenkey.integrations.axolotl import HiddenKeyPlugin
from hiddenkey.integrations.callback import HiddenKeyCallback
from hiddenkey.launch import LaunchSettings, launch_environment, process
from integrations.trainers import arguments, collate, examples, logs, tiny_trainer
from models import lora_model

YAML = {"base_model": "x", "hiddenkey_method": "hiddenkey", "hiddenkey_rate": 0.2}


def test_axolotls_trainer_gets_the_callback(tmp_path):
    own = HiddenKeyPlugin()
    own.register(YAML)
    trainer = tiny_trainer(lora_model("llama", "causal"), tmp_path, "causal")
    for callback in own.add_callbacks_post_trainer(YAML, trainer):
        trainer.add_callback(callback)
    trainer.train()
    for log in logs(trainer):
        assert log["task_loss"] + log["consistency_loss"] == pytest.approx(log["loss"], rel=1e-3)


def test_axolotl_finds_the_model_of_the_keys():
    module, _, name = HiddenKeyPlugin().get_input_args().rpartition(".")
    keys = getattr(importlib.import_module(module), name)
    given = keys.model_validate({"hiddenkey_rates": {"hidden": 0.2}, "hiddenkey_layers": [0, 1]})
    (callback,) = HiddenKeyPlugin().add_callbacks_post_trainer(given.model_dump(), None)
    assert callback.config.layers == (0, 1)
    assert [drop.rate for drop in callback.config.drops] == [0.1, 0.2]


def test_axolotls_keys_say_which_weights_are_used(tmp_path):
    keys = {"hiddenkey_method": "lora", "hiddenkey_inference": "ema", "hiddenkey_ema_decay": 0.5}
    trainer = tiny_trainer(lora_model("bert"), tmp_path)
    (callback,) = HiddenKeyPlugin().add_callbacks_post_trainer(keys, trainer)
    trainer.add_callback(callback)
    trainer.train()
    average = callback.averaging.average
    assert (average.count, average.inference) == (3, Inference("ema", decay=0.5))


def test_wrong_keys_are_told_before_anything_is_loaded():
    keys = {"hiddenkey_method": "dropkey", "hiddenkey_rat": 0.1, "hiddenkey_consistency_every": 2}
    keys["hiddenkey_average_part"] = 0.0
    with pytest.raises(ConfigError) as refusal:
        HiddenKeyPlugin().register(keys)
    assert len(refusal.value.faults) == 3
    assert "part of an average must be in (0, 1], got 0.0" in str(refusal.value)
    assert "hiddenkey_rat is not a key" in str(refusal.value)
    assert "no consistency loss, got consistency_every=2" in str(refusal.value)


def test_ms_swift_builds_the_callback_from_an_external_plugin(tmp_path):
    """It calls ``callbacks_map[name](args, trainer)`` before its Trainer is built."""
    callbacks_map = {"hiddenkey": lambda args, trainer: HiddenKeyCallback("hiddenkey", rate=0.2)}

    class SwiftTrainer(Trainer):
        def __init__(self, model, args, **more):
            callbacks = [callbacks_map[name](args, self) for name in ("hiddenkey",)]
            super().__init__(model, args, callbacks=callbacks, **more)

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(**inputs)
            return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    trainer = SwiftTrainer(
        lora_model("bert"), TrainingArguments(**arguments(tmp_path)), data_collator=collate,
        train_dataset=examples("classification", 24),
    )  # fmt: skip
    trainer.train()
    for log in logs(trainer):
        assert log["task_loss"] + log["consistency_loss"] == pytest.approx(log["loss"], rel=1e-3)


def test_llama_factorys_kind_of_trainer_is_reached_by_a_launch(tmp_path, monkeypatch):
    class CustomSeq2SeqTrainer(Seq2SeqTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            return super().compute_loss(model, inputs, *args, **kwargs)

    for name, value in launch_environment(LaunchSettings("hiddenkey"), tmp_path / "r").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(process, "_first", None)
    trainer = CustomSeq2SeqTrainer(
        model=lora_model("llama", "causal"), data_collator=collate,
        args=Seq2SeqTrainingArguments(**arguments(tmp_path)), train_dataset=examples("causal", 24),
    )  # fmt: skip
    process.trainer_was_built(trainer)
    trainer.train()
    assert all(log["consistency_loss"] > 0 for log in logs(trainer))
    assert (tmp_path / "r" / "finished.json").exists()

"""What one process records: equal beginnings for all methods, in each kind of trainer."""

import importlib.util
import json
import warnings
from pathlib import Path

import pytest
import torch

from hiddenkey import AttachError
from hiddenkey.launch import LaunchSettings, launch_environment, process
from hiddenkey.launch.record import fingerprint
from integrations.trainers import logs, tiny_trainer
from models import lora_model

METHODS = ("lora", "hiddenkey-minus", "hiddenkey")

pytestmark = pytest.mark.filterwarnings("ignore")


def transformers_trainer(folder):
    model = lora_model("bert", lora_dropout=0.1)
    trainer = tiny_trainer(model, folder, max_steps=13)  # 12 batches are an epoch
    process.trainer_was_built(trainer)
    return trainer.train


def smoothing_trainer(folder):
    trainer = tiny_trainer(lora_model("bert"), folder, label_smoothing_factor=0.1)
    process.trainer_was_built(trainer)
    return trainer.train


def trl_trainer(folder):
    pytest.importorskip("trl", reason="TRL is not installed")
    from integrations.test_trl import SFTTrainer, make_trainer

    model = lora_model("llama", "causal", lora_dropout=0.1)
    trainer = make_trainer(SFTTrainer, model, folder, gradient_accumulation_steps=2)
    process.trainer_was_built(trainer)
    return trainer.train


def lightning_trainer(folder):
    pytest.importorskip("lightning", reason="Lightning is not installed")
    import lightning
    from torch.utils.data import DataLoader

    from integrations.test_lightning import Module
    from integrations.trainers import collate, examples

    rows = DataLoader(examples("classification", 16), 4, shuffle=True, collate_fn=collate)
    trainer = lightning.Trainer(
        accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=2, enable_checkpointing=False, log_every_n_steps=1,
    )  # fmt: skip
    process.lightning_was_built(trainer)
    return lambda: trainer.fit(Module(), rows, DataLoader(rows.dataset, 8, collate_fn=collate))


def record(build, method, folder, monkeypatch, **more):
    monkeypatch.setattr(process, "_first", None)
    added = launch_environment(LaunchSettings(method, rate=0.2, **more), folder)
    for name, value in added.items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        build(folder / "out")()
    names = ("attached.json", "finished.json")
    return [json.loads((folder / name).read_text()) for name in names]


@pytest.mark.parametrize(
    "build", [transformers_trainer, smoothing_trainer, trl_trainer, lightning_trainer]
)
def test_all_methods_begin_alike_and_see_the_same_batches(build, tmp_path, monkeypatch):
    found = {name: record(build, name, tmp_path / name, monkeypatch) for name in METHODS}
    assert len({attached["weights"] for attached, _ in found.values()}) == 1
    assert len({finished["batches"] for _, finished in found.values()}) == 1
    for name, (attached, finished) in found.items():
        assert attached["method"] == name
        assert (finished["consistency_loss"] is None) is (name != "hiddenkey")
        assert finished["task_loss"] > 0
        positions = set() if name == "lora" else {"attention_logits", "hidden"}
        assert set(finished["dropped"]) == positions
        assert all(0 < rate < 0.4 for rate in finished["sites"].values())


def test_another_seed_sees_other_batches_and_another_model_begins_otherwise(tmp_path, monkeypatch):
    def other(folder):
        trainer = tiny_trainer(lora_model("bert", seed=1), folder, seed=6)
        process.trainer_was_built(trainer)
        return trainer.train

    one = record(smoothing_trainer, "lora", tmp_path / "one", monkeypatch)
    two = record(other, "lora", tmp_path / "two", monkeypatch)
    assert one[0]["weights"] != two[0]["weights"]
    assert one[1]["batches"] != two[1]["batches"]


def test_what_trains_without_logging_is_recorded_too(tmp_path, monkeypatch):
    def silent(folder):
        trainer = tiny_trainer(lora_model("bert"), folder, logging_strategy="no")
        process.trainer_was_built(trainer)
        return trainer.train

    _, finished = record(silent, "hiddenkey", tmp_path, monkeypatch)
    assert finished["consistency_loss"] > 0
    assert 0.1 < finished["dropped"]["hidden"] < 0.3


@pytest.mark.parametrize("setting", [{"inference": "average"}, {"step_cost": True}], ids=str)
def test_what_is_transformers_alone_is_refused_under_lightning(setting, tmp_path, monkeypatch):
    (name,) = setting
    with pytest.raises(AttachError, match=f"{name}.* is for Trainer of transformers, got Lightn"):
        record(lightning_trainer, "hiddenkey-minus", tmp_path, monkeypatch, **setting)


def test_a_fingerprint_tells_names_shapes_and_values_apart():
    ones = torch.ones(2, 3)
    found = [
        fingerprint({"a": ones}),
        fingerprint({"b": ones}),
        fingerprint({"a": ones.T}),
        fingerprint({"a": ones.bfloat16()}),
        fingerprint({"a": torch.ones(2, 3).index_fill(0, torch.tensor([1]), 2.0)}),
    ]
    assert len(set(found)) == len(found)
    assert fingerprint({"a": ones, "b": ones}) == fingerprint({"b": ones, "a": ones.clone()})


def test_a_training_that_outlives_its_command_goes_on(tmp_path, monkeypatch):
    """A shell may leave it in the background; the command's own folder is gone then."""
    monkeypatch.setattr(process, "_first", None)
    added = launch_environment(LaunchSettings("hiddenkey-minus"), tmp_path / "r")
    for name, value in added.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "r").rmdir()
    path = Path(process.__file__).parent / "hook" / "sitecustomize.py"
    monkeypatch.delenv("PYTHONPATH")
    spec = importlib.util.spec_from_file_location("hook_under_test", path)
    hook = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as started:
        started.delenv("HIDDENKEY_LAUNCH")  # so that it only defines its functions
        spec.loader.exec_module(hook)
    hook._watch(type("Trainer", (), {}), "trainer_was_built")
    trainer = tiny_trainer(lora_model("bert"), tmp_path / "out")
    process.trainer_was_built(trainer)
    trainer.train()
    assert all(log["dropped/hidden"] > 0 for log in logs(trainer))
    assert not (tmp_path / "r").exists()


def test_a_launched_fit_is_watched_for_examples_that_never_come_again(
    tmp_path, monkeypatch, caplog
):
    """What Lightning's callback begins with a training is begun: processes exchange by it."""
    pytest.importorskip("lightning", reason="Lightning is not installed")
    import lightning
    from torch.utils.data import DataLoader

    from integrations.test_lightning import Module
    from integrations.trainers import collate, examples

    monkeypatch.setattr(process, "_first", None)
    for name, value in launch_environment(LaunchSettings("temporal"), tmp_path / "r").items():
        monkeypatch.setenv(name, value)
    rows = DataLoader(examples("classification", 8), 4, collate_fn=collate)
    trainer = lightning.Trainer(
        accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1, enable_checkpointing=False,
    )  # fmt: skip
    process.lightning_was_built(trainer)
    trainer.fit(Module(), rows, rows)
    assert "the temporal loss compared nothing" in caplog.text
